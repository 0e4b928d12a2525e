# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a source of clones must be."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_source as _decision_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
from unit._vm_linked_clone.scene import ELEMENT, SOURCE, spec, state, wish
from unit.samples import MIB, qcow2, raw


def with_tpm(kind: str) -> str:
    return f"<domain><devices><tpm><backend type='{kind}'/></tpm></devices></domain>"


NETWORK_STORE = "<domain><os><nvram type='network'><source protocol='nbd'/></nvram></os></domain>"
NVDIMM = "<memory model='nvdimm'><source><path>/n</path></source></memory>"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (state(active=True, state="running"), "is running: asked to clone it"),
        (state(active=True, state="paused"), "is paused: asked to clone it"),
        (state(managed_save=True), "managed-save"),
        (state(snapshots=("before",)), "1 snapshot"),
        (state(checkpoints=("one",)), "checkpoints"),
        (state(definition=with_tpm("emulator")), "vtpm=drop"),
        (state(definition=with_tpm("external")), "another program"),
        (state(definition=f"<domain><devices>{NVDIMM}</devices></domain>"), "has a nvdimm that writes to /n"),
        (state(definition=NETWORK_STORE), "elsewhere than in a file"),
    ],
)
def test_a_source_in_no_state_to_be_cloned_is_refused(found: DomainState, said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision_source.require_clonable(found, wish())


def test_a_running_source_is_not_copied_either() -> None:
    with pytest.raises(ImageInUse, match="a copy of a disk that changes is inconsistent"):
        _decision_source.require_clonable(state(active=True), wish(mode="full", protect_base=False))


def test_an_emulated_tpm_may_be_dropped() -> None:
    _decision_source.require_clonable(state(definition=with_tpm("emulator")), wish(vtpm="drop"))


@pytest.mark.parametrize(
    ("disk", "said"),
    [
        (replace(ELEMENT, type="network", source=None), "its source is of type network"),
        (replace(ELEMENT, device="lun", type="block"), "passes a SCSI device through"),
        (replace(ELEMENT, encrypted=True), "is encrypted"),
        (replace(ELEMENT, sliced=True), "is a slice"),
        (replace(ELEMENT, type="volume", source=None, pool="p", volume="v"), "its source is of type volume"),
        (replace(ELEMENT, device="cdrom"), "there is nothing to clone"),
    ],
)
def test_a_disk_that_cannot_be_cloned_is_refused(disk: DiskElement, said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision_source.own_disks(state(disk), wish())


def test_drives_and_shared_disks_are_not_cloned() -> None:
    disks = [
        ELEMENT,
        replace(ELEMENT, target="sda", device="cdrom", source=None),
        replace(ELEMENT, target="sdb", device="cdrom", readonly=True),
        replace(ELEMENT, target="vdb", readonly=True),
        replace(ELEMENT, target="vdc", shareable=True),
        replace(ELEMENT, target="fda", device="floppy", source=None),
        replace(ELEMENT, target="vdd"),
    ]
    assert [disk.target for disk in _decision_source.own_disks(state(*disks), wish())] == ["vda", "vdd"]


def test_sizes_are_for_disks_that_are_cloned() -> None:
    with pytest.raises(InvalidRequest, match="vdz: golden has no such disk to clone: it has vda"):
        _decision_source.own_disks(state(), wish(spec(disk_sizes={"vdz": "1G"})))


def test_a_disk_is_as_large_as_its_base_or_larger() -> None:
    disk = SourceDisk("vda", (qcow2(),), (False,))
    assert _decision_source.size_of(disk, "pc-1", {}) == 10 * MIB
    assert _decision_source.size_of(disk, "pc-1", {"vda": 20 * MIB}) == 20 * MIB
    with pytest.raises(InvalidRequest, match="a smaller disk cuts off its end"):
        _decision_source.size_of(disk, "pc-1", {"vda": 9 * MIB})


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (qcow2(encrypted=True), "is encrypted"),
        (qcow2(corrupt=True), "is marked corrupt"),
        (qcow2(data_file="/d"), "keeps its data in another file"),
    ],
)
def test_an_image_that_no_clone_can_stand_on_is_refused(image: Any, said: str) -> None:
    for chain in ((image,), (qcow2(), image)):
        with pytest.raises(DiskError, match=said):
            _decision_source.require_clonable_images(SourceDisk("vda", chain, (False,) * len(chain)), "linked")


def test_the_chain_of_a_clone_follows_from_how_it_is_made() -> None:
    disk = SourceDisk("vda", (qcow2(), raw()), (False, True))
    assert [(link.path, link.block) for link in disk.chain("linked")] == [
        ("/images/web.qcow2", False),
        ("/images/web.raw", True),
    ]
    assert disk.chain("full") == ()
    assert [link.path for link in disk.chain("reflink")] == ["/images/web.raw"]


def test_clones_lie_beside_their_source_or_where_the_task_says() -> None:
    assert _decision_source.place(SOURCE, wish()) == "/images"
    assert _decision_source.place(SOURCE, wish(disk_dir="/clones")) == "/clones"
    block = replace(SOURCE, disks=(replace(SOURCE.disks[0], block=(True,)),))
    with pytest.raises(InvalidRequest, match=r"is the block device /images/web\.qcow2, beside which no images can lie"):
        _decision_source.place(block, wish())


@pytest.mark.parametrize(
    ("asked", "unable", "mode"),
    [
        (wish(), [], "linked"),
        (wish(mode="reflink"), [], "reflink"),
        (wish(mode="reflink", fallback="full"), [], "reflink"),
        (wish(mode="reflink", fallback="full"), ["/images/web.qcow2"], "full"),
    ],
)
def test_where_nothing_can_be_reflinked_the_task_says_what_then(asked: CloneWish, unable: list[str], mode: str) -> None:
    assert _decision_source.effective_mode(asked, "/clones", unable) == mode


def test_without_another_way_what_cannot_be_reflinked_is_refused() -> None:
    with pytest.raises(DiskError, match=r"/images/web\.qcow2: cannot be reflinked into /clones"):
        _decision_source.effective_mode(wish(mode="reflink"), "/clones", ["/images/web.qcow2"])
