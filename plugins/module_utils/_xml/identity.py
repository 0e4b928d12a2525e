# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tells a domain from all others, as its XML has it, and the mark that says of what it is a clone."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: The namespace of the mark: beside that of the records, since libvirt keeps one element for each.
CLONE_URI = "urn:kvmops:clone:1"
_TAG = f"{{{CLONE_URI}}}"
_UNITS = {"b": 1, "bytes": 1, "k": 1024, "kb": 1000, "m": 1024**2, "mb": 1000**2, "g": 1024**3, "gb": 1000**3}
_IEC = {"kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4, "t": 1024**4, "tb": 1000**4}


@dataclass(frozen=True)
class MarkedDisk:
    """An image that was made for a clone, and the source's image that it was made from."""

    target: str
    path: str
    base: str


@dataclass(frozen=True)
class Mark:
    """What the metadata of a clone says of it: of which domain it is one, how, and which files were made for it.

    *seed* is the target of the drive that holds its seed.
    """

    source: str
    source_uuid: str
    mode: str
    disks: tuple[MarkedDisk, ...]
    nvram: str | None = None
    seed: str | None = None


@dataclass(frozen=True)
class Looks:
    """A domain in its XML; *memory* in bytes, *nvram* is the path of its variable store, *macs* are in lower case."""

    name: str
    uuid: str
    macs: tuple[str, ...]
    memory: int
    vcpus: int
    description: str | None
    nvram: str | None
    mark: Mark | None


def looks(xml: str) -> Looks:
    """What the XML of a domain says of its identity."""
    domain = _document.parse(xml)
    memory = domain.find("./memory")
    return Looks(
        name=domain.findtext("./name", ""),
        uuid=domain.findtext("./uuid", ""),
        macs=tuple(node.get("address", "").lower() for node in domain.iterfind("./devices/interface/mac")),
        memory=_bytes(memory) if memory is not None else 0,
        vcpus=int(domain.findtext("./vcpu", "1")),
        description=domain.findtext("./description"),
        nvram=nvram(domain),
        mark=_mark(domain.find(f"./metadata/{_TAG}clone")),
    )


def nvram(domain: t.Any) -> str | None:
    """The file with a domain's UEFI variables, in either of libvirt's two ways to say it; None where it names none."""
    node = domain.find("./os/nvram")
    if node is not None:
        source = node.find("source")
        return t.cast("str | None", source.get("file") if source is not None else (node.text or "").strip() or None)
    store = domain.find("./os/varstore")
    return store.get("path") if store is not None else None


def mark_element(mark: Mark) -> t.Any:
    """The mark as the element that goes into the metadata."""
    root = _document.element(f"{_TAG}clone", {name: getattr(mark, name) for name in ("source", "source_uuid", "mode")})
    for disk in mark.disks:
        _document.child(root, f"{_TAG}disk", asdict(disk))
    if mark.nvram is not None:
        _document.child(root, f"{_TAG}nvram", {"path": mark.nvram})
    if mark.seed is not None:
        _document.child(root, f"{_TAG}seed", {"target": mark.seed})
    return root


def set_mark(domain: t.Any, mark: Mark) -> None:
    """Puts *mark* in the place of the one that the root element of a clone's definition has."""
    old = domain.find(f"./metadata/{_TAG}clone")
    element = mark_element(mark)
    element.tail = old.tail
    old.getparent().replace(old, element)


def _mark(node: t.Any) -> Mark | None:
    """None also for a mark that somebody made unreadable: it then proves nothing."""
    if node is None or any(node.get(name) is None for name in ("source", "source_uuid", "mode")):
        return None
    disks = tuple(
        MarkedDisk(disk.get("target", ""), disk.get("path", ""), disk.get("base", ""))
        for disk in node.iterfind(f"{_TAG}disk")
    )
    store, seed = node.find(f"{_TAG}nvram"), node.find(f"{_TAG}seed")
    return Mark(
        node.get("source"),
        node.get("source_uuid"),
        node.get("mode"),
        disks,
        store.get("path") if store is not None else None,
        seed.get("target") if seed is not None else None,
    )


def _bytes(node: t.Any) -> int:
    """libvirt's scaled integers; it writes KiB itself."""
    return int(node.text or 0) * {**_UNITS, **_IEC}.get(node.get("unit", "KiB").lower(), 1024)
