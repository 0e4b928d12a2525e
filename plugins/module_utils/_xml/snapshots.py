# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The snapshots of a domain in libvirt's XML, and the changes to what they say of a disk's images."""

from __future__ import annotations

import typing as t
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement

_AGENT = "./devices/channel/target[@name='org.qemu.guest_agent.0']"


@dataclass(frozen=True)
class SnapshotDisk:
    """One disk of a snapshot. *kind*: external, internal or no; *overlay* is what an external one put over the image
    that the disk had, which it so keeps as it was."""

    target: str
    kind: str
    overlay: str | None = None
    format: str | None = None


@dataclass(frozen=True)
class DomainSnapshot:
    """A snapshot as libvirt knows it.

    *state*: disk-snapshot where the domain ran and only disks are in it, else the state that the domain had.
    *memory*: external or internal where it holds the memory of the guest, else no. *defined*: the disks of the
    definition then. *reverted*: overlays that libvirt made when the domain went back to it and others build on it.
    """

    name: str
    parent: str | None
    date: str | None
    state: str | None
    memory: str
    disks: tuple[SnapshotDisk, ...]
    defined: tuple[DiskElement, ...]
    reverted: tuple[str, ...] = ()
    current: bool = False
    xml: str = ""

    @property
    def external(self) -> tuple[SnapshotDisk, ...]:
        return tuple(disk for disk in self.disks if disk.kind == "external")

    @property
    def is_external(self) -> bool:
        """Whether it is one of disks alone, in files of their own."""
        return bool(self.external) and self.memory == "no" and all(disk.kind != "internal" for disk in self.disks)

    def image(self, target: str) -> DiskElement | None:
        """The disk with the image that it had: the backing file of the overlay."""
        return next((disk for disk in self.defined if disk.target == target), None)


def snapshot(xml: str, current: str | None = None) -> DomainSnapshot:
    """What the XML of a snapshot says; *current* is the name of the one that the domain goes on from."""
    root = _document.parse(xml)
    memory = root.find("./memory")
    created = root.findtext("./creationTime")
    domain = definition(xml)
    name = root.findtext("./name") or ""
    return DomainSnapshot(
        name=name,
        parent=root.findtext("./parent/name"),
        date=datetime.fromtimestamp(int(created), timezone.utc).isoformat() if created else None,
        state=root.findtext("./state"),
        memory=memory.get("snapshot", "no") if memory is not None else "no",
        disks=tuple(_disk(disk) for disk in root.iterfind("./disks/disk")),
        defined=_disks.disks(domain) if domain is not None else (),
        reverted=tuple(
            str(source.get("file")) for source in root.iterfind("./revertDisks/disk/source") if source.get("file")
        ),
        current=name == current,
        xml=xml,
    )


def definition(xml: str) -> str | None:
    """The definition that the domain had at the snapshot of that XML; None where libvirt has not kept it."""
    root = _document.parse(xml)
    found = root.find("./inactiveDomain")
    found = root.find("./domain") if found is None else found
    return _document.text(found) if found is not None else None


def new_snapshot(name: str, overlays: t.Mapping[str, tuple[str, str] | None]) -> str:
    """The XML of a snapshot to be taken: for each target its overlay and the format of that, None for a disk that has
    no part in it."""
    root = _document.element("domainsnapshot")
    _document.child(root, "name").text = name
    disks = _document.child(root, "disks")
    for target, overlay in overlays.items():
        if overlay is None:
            _document.child(disks, "disk", {"name": target, "snapshot": "no"})
            continue
        disk = _document.child(disks, "disk", {"name": target, "snapshot": "external", "type": "file"})
        _document.child(disk, "driver", {"type": overlay[1]})
        _document.child(disk, "source", {"file": overlay[0]})
    return _document.text(root)


def with_domains(xml: str, change: t.Callable[[str], str]) -> str:
    """The XML of a snapshot with *change* made to the definitions of the domain in it; the same text where it makes
    none."""
    root = _document.parse(xml)
    changed = False
    for tag in ("domain", "inactiveDomain"):
        found = root.find(f"./{tag}")
        if found is None:
            continue
        before = _document.text(found)
        after = change(before)
        if after != before:
            new = _document.parse(after)
            new.tail = found.tail
            root.replace(found, new)
            changed = True
    return _document.text(root) if changed else xml


def has_agent(xml: str) -> bool:
    """Whether a guest agent answers in the running domain of that XML."""
    channels = _document.parse(xml).iterfind(_AGENT)
    return any(channel.get("state") == "connected" for channel in channels)


def _disk(element: t.Any) -> SnapshotDisk:
    source, driver = element.find("source"), element.find("driver")
    return SnapshotDisk(
        target=element.get("name", ""),
        kind=element.get("snapshot", "external"),
        overlay=(source.get("file") or source.get("dev")) if source is not None else None,
        format=driver.get("type") if driver is not None else None,
    )
