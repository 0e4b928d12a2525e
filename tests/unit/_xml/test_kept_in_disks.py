# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever libvirt's schema allows below a <disk> survives each operation that keeps the disk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_definition as _decision_definition,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_definition import (
    CloneDisk,
    Identity,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import image_properties as _image_properties
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_changes import DiskChange
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark
from support.disk_schema import allowed, full_disk, missing

ALLOWED = allowed()
DISK = full_disk(ALLOWED)
DOMAIN = f"<domain type='kvm'><name>vm</name><uuid>1</uuid><devices>{DISK}</devices></domain>"
TOP, MID, BASE = ChainLink("/i/top.qcow2", "qcow2"), ChainLink("/i/mid.qcow2", "qcow2"), ChainLink("/i/base.raw", "raw")
NEW = ChainLink("/i/new.qcow2", "qcow2")

#: Which image it is, and how it is named.
NAME = {"source/@file", "source/@index", "source/@fdgroup"}
#: The same where it becomes another kind of source, or is no volume any more.
PLACE = {*NAME, "@type", "source/@mode"}
#: How one backing file is named and read: it goes where another image takes its place.
CHAIN = {path for path in ALLOWED if path.startswith("backingStore")}
#: What libvirt takes for qcow2 only.
ONLY_QCOW2 = {path for path in ALLOWED if path.startswith("driver/metadata_cache")} | {"driver/@type"}
#: Disks that say such things get no overlay.
NOT_OVERLAID = {
    path for path in ALLOWED if path.startswith(("source/slices", "source/encryption", "source/privateData"))
}


def converted(change: DiskChange) -> Callable[[str], str]:
    return lambda xml: _disk_changes.with_changes(xml, [change])


def as_libvirt_leaves_it(xml: str) -> str:
    """The domain whose disk got a new source by libvirt, which keeps nothing of what was said of the old one."""
    domain = _document.parse(xml)
    disk = domain.find("./devices/disk")
    source, cache = disk.find("source"), disk.find("driver/metadata_cache")
    for child in list(source):
        source.remove(child)
    source.attrib.clear()
    source.set("file", "/i/new.qcow2")
    disk.find("driver").remove(cache)
    return str(_document.text(domain))


def put_back(xml: str) -> str:
    return _image_properties.with_dropped(as_libvirt_leaves_it(xml), xml, ["vda"])


def taken_and_merged(xml: str) -> str:
    taken = _disk_changes.with_image(xml, "vda", NEW, (TOP, MID, BASE))
    return _disk_changes.with_image(taken, "vda", TOP, (MID, BASE))


def taken_by_libvirt_and_merged(xml: str) -> str:
    taken = _disk_changes.with_image(put_back(xml), "vda", NEW, (TOP, MID, BASE))
    return _image_properties.with_dropped(_disk_changes.with_image(taken, "vda", TOP, (MID, BASE)), xml, ["vda"])


def renamed_in_a_snapshot(xml: str) -> str:
    record = f"<domainsnapshot><name>s</name>{xml}</domainsnapshot>"
    changed = _snapshots.with_domains(record, lambda one: _disk_changes.with_image(one, "vda", NEW, (MID, BASE)))
    return str(_document.text(_document.parse(changed).find("domain")))


def cloned(xml: str) -> str:
    disk = CloneDisk("vda", "/i/clone.qcow2", "qcow2", (TOP, MID, BASE))
    mark = Mark("vm", "1", "linked", ())
    identity = Identity("clone", "2", "3", (), (disk,), mark)
    return _decision_definition.cloned(xml, identity).xml


OPERATIONS: dict[str, tuple[Callable[[str], str], set[str]]] = {
    "converted": (converted(DiskChange("vda", "/i/new.qcow2", "qcow2")), NAME | CHAIN),
    "converted to raw": (converted(DiskChange("vda", "/i/new.raw", "raw")), NAME | CHAIN | ONLY_QCOW2),
    "converted, its chain kept": (converted(DiskChange("vda", "/i/new.qcow2", "qcow2", keeps_chain=True)), NAME),
    "moved to a block device": (converted(DiskChange("vda", "/dev/new", "qcow2", block=True)), PLACE | CHAIN),
    "on an overlay": (lambda xml: _disk_changes.with_image(xml, "vda", NEW, (TOP, MID, BASE)), NAME | CHAIN),
    "on an overlay that libvirt gave it": (put_back, (PLACE - {"@type"}) | NOT_OVERLAID),
    "merged down": (lambda xml: _disk_changes.with_image(xml, "vda", MID, (BASE,)), NAME | CHAIN),
    "merged in the middle": (lambda xml: _disk_changes.without_link(xml, "vda", "/i/base.raw"), set()),
    "flattened onto a base": (lambda xml: _disk_changes.with_shorter_chain(xml, "vda", "/i/mid.qcow2"), set()),
    "flattened": (lambda xml: _disk_changes.with_shorter_chain(xml, "vda", None), CHAIN),
    "on other backing files": (lambda xml: _disk_changes.with_chain(xml, "vda", (MID, NEW)), set()),
    "in the record of a snapshot": (renamed_in_a_snapshot, NAME),
    "taken and merged": (taken_and_merged, NAME),
    "taken by libvirt and merged": (taken_by_libvirt_and_merged, NAME | NOT_OVERLAID | {"source/@mode"}),
    "a clone's": (cloned, NAME | CHAIN),
}


def test_the_schema_is_that_of_a_disk() -> None:
    some = {
        "source/seclabel/@model",
        "driver/@iothread",
        "iotune/total_bytes_sec",
        "source/@startupPolicy",
        "@snapshot",
    }
    assert some <= set(ALLOWED)
    assert not missing(DOMAIN, ALLOWED, DISK)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_a_disk_says_is_said_after(operation: str) -> None:
    change, exchanged = OPERATIONS[operation]
    assert missing(change(DOMAIN), ALLOWED, DISK) <= exchanged


def test_a_disk_that_is_on_its_image_again_is_as_it_was() -> None:
    assert missing(taken_and_merged(DOMAIN), ALLOWED, DISK) <= {"source/@index", "source/@fdgroup"}


def test_what_is_said_otherwise_meanwhile_stays() -> None:
    now = DOMAIN.replace('relabel="source/seclabel/@relabel"', 'relabel="no"')
    assert _image_properties.with_dropped(now, DOMAIN, ["vda"]) == now
    assert _image_properties.with_dropped(DOMAIN, None, ["vda"]) == DOMAIN
    assert _image_properties.with_dropped(DOMAIN, DOMAIN, ["vdb"]) == DOMAIN


def test_a_volume_is_named_again_as_a_volume() -> None:
    domain = "<domain><devices><disk type='{}'><source {}/><target dev='vda'/></disk></devices></domain>"
    before = domain.format("volume", "pool='p' volume='v' mode='direct'")
    now = domain.format("file", "file='/p/v'")
    again = _image_properties.with_volumes(now, before, ["vda"])
    assert _disk_changes.unexpected_difference(before, again) is None
    assert _image_properties.with_volumes(now, now, ["vda"]) == now
