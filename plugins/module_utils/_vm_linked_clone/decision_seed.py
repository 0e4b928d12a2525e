# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The seed of a clone: a file that it alone reads at its first start, such as an ISO for cloud-init, in a drive of its
definition. The mark of the clone says which drive that is. Pure."""

from __future__ import annotations

import string
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark

#: The buses of drives for seeds, with the beginning of their targets. There are no CD drives for virtio.
BUSES = {"sata": "sd", "scsi": "sd", "ide": "hd", "usb": "sd", "virtio": "vd"}


@dataclass(frozen=True)
class Seed:
    """The file at *path*: whether anything is *there*, and a *regular* file at that. *drives* are the names by which
    drives of the definition mean it."""

    path: str
    there: bool = True
    regular: bool = True
    drives: frozenset[str] = frozenset()

    def is_in(self, disks: t.Iterable[DiskElement]) -> bool:
        """Whether one of the drives holds it, which its guest cannot write."""
        names = {self.path, *self.drives}
        return any(disk.source in names and disk.readonly for disk in disks)


def require_file(name: str, seed: Seed | None, *, later: bool) -> None:
    """Raises DiskError where the seed of the clone *name* is no file; *later*: one that is missing may yet be made."""
    if seed is None or seed.regular or (later and not seed.there):
        return
    found = "it is not a regular file" if seed.there else "there is no such file"
    raise DiskError(f"{name}: seed: {seed.path}: {found}: make the image first, or leave seed out", path=seed.path)


def of(xml: str, mark: Mark | None) -> str | None:
    """The file in the drive that *mark* names as that of the seed; None where there is none."""
    drive = _drive(_disks.disks(xml), mark) if mark is not None and mark.seed else None
    return drive.source if drive is not None else None


def with_seed(xml: str, seed: Seed, bus: str) -> str:
    """The definition in which a drive holds *seed*; the same text where one does.

    That is the drive that held another seed before, or a new one on *bus*. Raises DiskError where it has no place.
    """
    disks = _disks.disks(xml)
    if seed.is_in(disks):
        return xml
    domain = _document.parse(xml)
    mark = _identity.looks(xml).mark
    drive = _drive(disks, mark)
    if drive is not None:
        _insert(_disk_changes.find_disk(domain, drive.target), seed.path)
        return _document.text(domain)
    target = _free_target({disk.target for disk in disks}, bus)
    last = _disk_changes.find_disk(domain, disks[-1].target)
    new = _new_drive(target, bus, seed.path)
    new.tail = last.tail
    last.addnext(new)
    if mark is not None:
        _identity.set_mark(domain, replace(mark, seed=target))
    return _document.text(domain)


def _drive(disks: t.Iterable[DiskElement], mark: Mark | None) -> DiskElement | None:
    """The drive that *mark* names; one that a guest can write was put there by somebody else, and is left alone."""
    target = mark.seed if mark is not None else None
    return next((disk for disk in disks if target and disk.target == target and disk.readonly), None)


def _insert(element: t.Any, path: str) -> None:
    """Puts another file into a drive, which may be empty."""
    old = element.find("source")
    source = _document.element("source", {"file": path})
    if old is None:
        element.find("target").addprevious(source)
    else:
        source.tail = old.tail
        element.replace(old, source)
    element.set("type", "file")
    for stale in element.findall("backingStore"):
        _document.remove(stale)


def _new_drive(target: str, bus: str, path: str) -> t.Any:
    drive = _document.element("disk", {"type": "file", "device": "disk" if bus == "virtio" else "cdrom"})
    _document.child(drive, "driver", {"name": "qemu", "type": "raw"})
    _document.child(drive, "source", {"file": path})
    _document.child(drive, "target", {"dev": target, "bus": bus})
    _document.child(drive, "readonly")
    return drive


def _free_target(taken: t.Container[str], bus: str) -> str:
    for letter in string.ascii_lowercase:
        if (target := f"{BUSES[bus]}{letter}") not in taken:
            return target
    raise DiskError(f"seed: all targets from {BUSES[bus]}a to {BUSES[bus]}z are taken: choose another seed_bus")
