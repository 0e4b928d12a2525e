# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names and the addresses of clones, derived from their names."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import suffix

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec

#: The prefix of QEMU's and libvirt's own addresses, which are locally administered.
_MAC_PREFIX = "52:54:00"


def image_path(directory: str, name: str, target: str, image_format: str, disks: int) -> str:
    """Where the image of a clone's disk lies; the target is in its name where the clone has several *disks*."""
    stem = name if disks == 1 else f"{name}-{target}"
    return os.path.join(directory, stem + suffix(image_format))


def derived_mac(name: str, number: int) -> str:
    """The address of the interface of that *number* of a clone: always the same for a name, another for each.

    24 bits are left to choose, so that two of a thousand names meet in 3 of 100 cases; whoever meets is told.
    """
    digest = _digest(name, "mac", number)
    return ":".join([_MAC_PREFIX, digest[:2], digest[2:4], digest[4:6]])


def derived_serial(name: str, target: str) -> str:
    """A serial number of 20 characters, as many as virtio has, that stays the same for a clone's disk."""
    return _digest(name, "serial", target)[:20]


def derived_wwn(name: str, target: str) -> str:
    """A world wide name that stays the same for a clone's disk: of NAA type 3, which is locally assigned."""
    return "3" + _digest(name, "wwn", target)[:15]


def macs_of(spec: CloneSpec, interfaces: int) -> tuple[str, ...]:
    """The addresses of a clone's *interfaces*. Raises InvalidRequest where more are given than it has."""
    if len(spec.macs) > interfaces:
        raise InvalidRequest(
            f"{spec.name}: {len(spec.macs)} MAC address(es) are given, and the source has {interfaces} network "
            "interface(s): give as many at most"
        )
    return spec.macs + tuple(derived_mac(spec.name, number) for number in range(len(spec.macs), interfaces))


def _digest(*parts: t.Any) -> str:
    import hashlib  # it loads OpenSSL, for a run with something to make

    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()
