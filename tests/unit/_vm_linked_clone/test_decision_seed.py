# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The seed of a clone in its definition: one drive, whose file changes, and nothing else beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_seed import (
    Seed,
    of,
    require_file,
    with_seed,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark

MARK = _document.text(_identity.mark_element(Mark("golden", "u", "linked", ())))
DISK = "<disk type='file' device='disk'><source file='/images/a.qcow2'/><target dev='vda' bus='virtio'/></disk>"


def clone(devices: str = "", *, mark: str = MARK) -> str:
    return f"<domain><name>a</name><metadata>{mark}</metadata><devices>{DISK}{devices}<emulator/></devices></domain>"


def drive(xml: str, target: str) -> _disks.DiskElement:
    return next(disk for disk in _disks.disks(xml) if disk.target == target)


def seed_of(xml: str) -> str | None:
    return of(xml, _identity.looks(xml).mark)


@pytest.mark.parametrize(
    ("bus", "target", "device"),
    [("sata", "sda", "cdrom"), ("ide", "hda", "cdrom"), ("virtio", "vdb", "disk"), ("usb", "sda", "cdrom")],
)
def test_a_seed_gets_a_drive_that_nobody_can_write(bus: str, target: str, device: str) -> None:
    xml = with_seed(clone(), Seed("/seeds/a.iso"), bus)
    found = drive(xml, target)
    assert (found.device, found.format, found.bus, found.readonly) == (device, "raw", bus, True)
    assert seed_of(xml) == "/seeds/a.iso"
    assert [node.tag for node in _document.parse(xml).find("./devices")] == ["disk", "disk", "emulator"]


def test_every_bus_of_the_module_has_targets() -> None:
    documented = Path(__file__).parents[3] / "plugins" / "modules" / "vm_linked_clone.py"
    assert f"choices: [{', '.join(_decision_seed.BUSES)}]" in documented.read_text(encoding="utf-8")


def test_the_same_seed_again_changes_nothing_however_it_came_there() -> None:
    xml = with_seed(clone(), Seed("/seeds/a.iso"), "sata")
    assert with_seed(xml, Seed("/seeds/a.iso"), "virtio") == xml
    assert with_seed(xml, Seed("/link/a.iso", drives=frozenset({"/seeds/a.iso"})), "sata") == xml
    by_hand = clone(
        "<disk type='file' device='cdrom'><source file='/s.iso'/><target dev='sda'/><readonly/></disk>", mark=""
    )
    assert with_seed(by_hand, Seed("/s.iso"), "sata") == by_hand


def test_another_seed_goes_into_the_same_drive() -> None:
    before = with_seed(clone(), Seed("/seeds/a.iso"), "sata")
    after = with_seed(before, Seed("/seeds/b.iso"), "sata")
    assert after == before.replace("/seeds/a.iso", "/seeds/b.iso")
    ejected = before.replace('<source file="/seeds/a.iso"/>', "")
    assert drive(ejected, "sda").source is None
    assert seed_of(with_seed(ejected, Seed("/seeds/b.iso"), "sata")) == "/seeds/b.iso"


def test_a_drive_that_is_gone_or_became_writable_is_not_the_seeds() -> None:
    xml = with_seed(clone(), Seed("/seeds/a.iso"), "sata")
    writable = xml.replace("<readonly/>", "")
    assert seed_of(writable) is None
    again = with_seed(writable, Seed("/seeds/b.iso"), "sata")
    assert (drive(again, "sda").source, drive(again, "sdb").source) == ("/seeds/a.iso", "/seeds/b.iso")
    assert seed_of(again) == "/seeds/b.iso"
    assert with_seed(clone(mark=MARK), Seed("/seeds/a.iso"), "sata") == xml


def test_taken_targets_are_left_alone() -> None:
    tools = "<disk type='file' device='cdrom'><source file='/t.iso'/><target dev='sda' bus='sata'/><readonly/></disk>"
    assert drive(with_seed(clone(tools), Seed("/seeds/a.iso"), "scsi"), "sdb").source == "/seeds/a.iso"
    full = "".join(tools.replace("sda", f"sd{letter}") for letter in "abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(DiskError, match="choose another seed_bus"):
        with_seed(clone(full), Seed("/seeds/a.iso"), "sata")


def test_a_seed_is_a_file_that_is_there_or_in_check_mode_may_come() -> None:
    missing = Seed("/seeds/b.iso", there=False, regular=False)
    require_file("a", Seed("/seeds/a.iso"), later=False)
    require_file("a", missing, later=True)
    require_file("a", None, later=False)
    with pytest.raises(DiskError, match=r"a: seed: .*b\.iso: there is no such file: make the image first"):
        require_file("a", missing, later=False)
    with pytest.raises(DiskError, match="is not a regular file"):
        require_file("a", replace(missing, there=True), later=True)
