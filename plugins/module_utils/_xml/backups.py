# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backup jobs and checkpoints in libvirt's XML."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as libvirt knows it. *sizes*: of each of its disks the bytes that have changed since, as the running
    domain knows; None where it does not, as the bitmap is broken or gone (HAZARDS K5)."""

    name: str
    description: str
    sizes: t.Mapping[str, int | None]


def new_backup(targets: t.Mapping[str, str | None], bases: t.Mapping[str, str]) -> str:
    """The XML of a push job that fills, for each target, a qcow2 file that is there already; None for a disk that has
    no part in it. *bases*: the checkpoint since which a disk is copied; all of it where it has none."""
    root = _document.element("domainbackup", {"mode": "push"})
    disks = _document.child(root, "disks")
    for target, file in targets.items():
        if file is None:
            _document.child(disks, "disk", {"name": target, "backup": "no"})
            continue
        since = {"backupmode": "incremental", "incremental": bases[target]} if target in bases else {}
        disk = _document.child(disks, "disk", {"name": target, "type": "file", **since})
        _document.child(disk, "driver", {"type": "qcow2"})
        _document.child(disk, "target", {"file": file})
    return _document.text(root)


def new_checkpoint(name: str, description: str, targets: t.Iterable[str], tracked: t.Container[str]) -> str:
    """The XML of a checkpoint that knows what changes in those of *targets* that are *tracked*."""
    root = _document.element("domaincheckpoint")
    _document.child(root, "name").text = name
    _document.child(root, "description").text = description
    disks = _document.child(root, "disks")
    for target in targets:
        _document.child(disks, "disk", {"name": target, "checkpoint": "bitmap" if target in tracked else "no"})
    return _document.text(root)


def temporary_bitmap(target: str) -> str:
    """The name of the bitmap that libvirt has QEMU make for the time of an incremental backup of that disk: of all that
    has changed since the checkpoint."""
    return f"backup-{target}"


def beginning_of_job(target: str) -> str:
    """With what the name begins that libvirt gives to QEMU's job for that disk in a backup."""
    return f"backup-{target}-"


def checkpoint(xml: str) -> Checkpoint:
    """What the XML of a checkpoint says."""
    root = _document.parse(xml)
    disks = [disk for disk in root.iterfind("./disks/disk") if disk.get("checkpoint") == "bitmap"]
    return Checkpoint(
        name=root.findtext("./name", ""),
        description=root.findtext("./description", ""),
        sizes={disk.get("name", ""): int(disk.get("size")) if disk.get("size") else None for disk in disks},
    )


def files_of_job(xml: str) -> dict[str, str]:
    """The files that a push job fills, by target."""
    root = _document.parse(xml)
    if root.get("mode") != "push":
        return {}
    found = ((disk.get("name", ""), disk.find("target")) for disk in root.iterfind("./disks/disk"))
    return {name: target.get("file") for name, target in found if target is not None and target.get("file")}
