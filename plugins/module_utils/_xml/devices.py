# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What devices a domain's XML has, under names that tell them apart: to see what a running domain and its definition do
not have in common."""

from __future__ import annotations

import typing as t
from collections import Counter

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: The devices that somebody plugs in or out, and what tells one from others of its kind: paths and attributes, of
#: which those count that are there. Controllers come and go with what hangs on them, consoles are serial ports.
_KINDS: dict[str, tuple[tuple[str, str], ...]] = {
    "disk": (("target", "dev"),),
    "interface": (("mac", "address"),),
    "filesystem": (("target", "dir"),),
    "hostdev": ((".", "type"),),
    "memory": ((".", "model"), ("target/node", "")),
    "channel": ((".", "type"), ("target", "name")),
    "serial": ((".", "type"), ("target", "port")),
    "parallel": ((".", "type"), ("target", "port")),
    "input": ((".", "type"), (".", "bus")),
    "lease": (("lockspace", ""), ("key", "")),
    "redirdev": ((".", "bus"), (".", "type")),
    "shmem": ((".", "name"),),
    "rng": ((".", "model"),),
    "watchdog": ((".", "model"),),
    "tpm": ((".", "model"),),
    "vsock": ((".", "model"),),
    "sound": ((".", "model"),),
    "smartcard": ((".", "mode"),),
}


def only_in(xml: str, other: str) -> list[str]:
    """The devices of the domain's XML that *other*, of the same domain, does not have: ``disk vdb``, ..."""
    return sorted((devices(xml) - devices(other)).elements())


def devices(xml: str) -> Counter[str]:
    """How often the domain's XML has each device; a device that cannot be told from another counts as often as both."""
    found = _document.parse(xml).find("./devices")
    return Counter(_named(node) for node in (found if found is not None else ()) if node.tag in _KINDS)


def _named(node: t.Any) -> str:
    words = [node.tag]
    for path, attribute in _KINDS[node.tag]:
        place = node if path == "." else node.find(path)
        if place is not None:
            word = place.get(attribute) if attribute else place.text
            words += [word] if word else []
    return " ".join([*words, *(_of_host(node) if node.tag == "hostdev" else ())])


def _of_host(node: t.Any) -> t.Iterator[str]:
    """What tells a device of the host from others. One that is known by its vendor gets an address when it is found."""
    source = node.find("source")
    parts = list(source) if source is not None else []
    known = [part for part in parts if part.tag in ("vendor", "product")]
    for part in known or parts:
        if isinstance(part.tag, str):
            yield from (str(value) for _name, value in sorted(part.items()))
