# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of clones, what a source must be, and what differs in a clone that is there: decisions, no world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_blueprint as _decision_blueprint,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_existing as _decision_existing,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_names as _decision_names
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_source as _decision_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
    Neighbour,
    NeighbourDisk,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec, CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks, Mark
from unit.samples import MIB, NO_QEMU_IMG, disk, domain, element, qcow2, raw

UUID = "22222222-2222-4222-8222-222222222222"
GOLDEN = "/images/golden.qcow2"
ELEMENT = element(GOLDEN, "qcow2")


def spec(**given: Any) -> CloneSpec:
    return CloneSpec.parse({"name": "pc-1", **given}, {})


def wish(*clones: CloneSpec, **fields: Any) -> CloneWish:
    return CloneWish("golden", clones or (spec(),), **fields)


def state(*disks: DiskElement, **fields: Any) -> DomainState:
    return domain(*(disk(found) for found in (disks or (ELEMENT,))), name="golden", **fields)


def with_tpm(kind: str) -> str:
    return f"<domain><devices><tpm><backend type='{kind}'/></tpm></devices></domain>"


NETWORK_STORE = "<domain><os><nvram type='network'><source protocol='nbd'/></nvram></os></domain>"
NVDIMM = "<memory model='nvdimm'><source><path>/n</path></source></memory>"

# What is asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "empty or blank"),
        ({"name": "  "}, "empty or blank"),
        ({"name": "a/b"}, "has a slash"),
        ({"name": ".."}, "is a directory"),
        ({"name": " a"}, "begins or ends with a blank"),
        ({"name": "a\nb"}, "line break"),
        ({"name": "a\x01b"}, "cannot stand in a domain's XML"),
        ({"name": "a" * 240}, "has 240 bytes"),
        ({"mac": "52:54:00:00:00"}, "is not a MAC address"),
        ({"mac": "33:33:00:00:00:01"}, "multicast"),
        ({"mac": "00:00:00:00:00:00"}, "empty address"),
        ({"uuid": "pc-1"}, "is not a UUID"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "is not a UUID"),
        ({"memory": "lots"}, "memory: 'lots' is not a size"),
        ({"memory": 1536}, "not a whole number of KiB"),
        ({"vcpus": 0}, "not a number of virtual CPUs"),
        ({"metadata": "<x>"}, "is not XML"),
        ({"metadata": "<x/>"}, "has no namespace"),
        ({"metadata": "text"}, "holds no element"),
        ({"disk_sizes": {"vda": "4MB"}}, "disk_sizes: vda"),
    ],
)
def test_bad_input_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        spec(**given)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (wish(spec(), spec()), "same names: pc-1"),
        (wish(spec(uuid=UUID), spec(name="b", uuid=UUID.upper())), "same UUIDs"),
        (wish(spec(mac="52-54-00-AA-00-01"), spec(name="b", mac="52:54:00:aa:00:01")), "same MAC addresses"),
        (wish(spec(name="golden")), "is the source itself"),
        (wish(mode="full", fallback="linked"), "fallback: is for mode=reflink"),
        (wish(preallocation="falloc"), "preallocation: falloc is for full copies"),
        (wish(mode="reflink", preallocation="full"), "is for full copies"),
        (wish(mode="reflink", cluster_size=65536), "cluster_size: a reflink has the cluster size"),
        (wish(cluster_size=1000), "is not a power of two"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(asked: CloneWish, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        asked.require_valid()


def test_an_address_stays_with_a_name_and_differs_between_names_and_interfaces() -> None:
    names = [f"pc-{number}" for number in range(100)]
    found = [_decision_names.derived_mac(name, number) for name in names for number in range(2)]
    assert found == [_decision_names.derived_mac(name, number) for name in names for number in range(2)]
    assert len(set(found)) == 200
    assert all(mac.startswith("52:54:00:") for mac in found)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in found), "locally administered, no multicast"


def test_given_addresses_come_first() -> None:
    macs = _decision_names.macs_of(spec(mac="52:54:00:00:00:01"), 2)
    assert macs == ("52:54:00:00:00:01", _decision_names.derived_mac("pc-1", 1))
    with pytest.raises(InvalidRequest, match=r"2 MAC address\(es\) are given, and the source has 1"):
        _decision_names.macs_of(spec(macs=["52:54:00:00:00:01", "52:54:00:00:00:02"]), 1)


def test_serial_numbers_and_world_wide_names_have_their_shape() -> None:
    serials = {_decision_names.derived_serial(name, target) for name in ("a", "b") for target in ("vda", "vdb")}
    names = {_decision_names.derived_wwn(name, target) for name in ("a", "b") for target in ("sda", "sdb")}
    assert len(serials) == len(names) == 4
    assert {len(serial) for serial in serials} == {20}
    assert all(len(name) == 16 and name.startswith("3") for name in names)


def test_an_image_is_named_after_its_clone() -> None:
    assert _decision_names.image_path("/d", "pc-1", "vda", "qcow2", 1) == "/d/pc-1.qcow2"
    assert _decision_names.image_path("/d", "pc-1", "vdb", "raw", 2) == "/d/pc-1-vdb.raw"


# What a source must be


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
        (replace(ELEMENT, type="volume", source=None, pool="p", volume="v"), "p/v, which cannot be found"),
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


# What is there


SOURCE = Source(state(), Looks("golden", "u", (), 0, 1, None, None, None), (SourceDisk("vda", (qcow2(),), (False,)),))
LOOKS = Looks("pc-1", UUID, ("52:54:00:00:00:01",), 256 * MIB, 2, "a desk", None, Mark("golden", "u", "full", ()))
THERE = Neighbour(LOOKS, frozenset(LOOKS.macs), False, (NeighbourDisk("vda", "/d/pc-1.qcow2", "qcow2"),), "<domain/>")


def difference(asked: CloneSpec, found: Neighbour = THERE, **fields: Any) -> list[str]:
    wanted = wish(asked, **{"mode": "full", **fields})
    return _decision_existing.differences(asked, wanted, SOURCE, found, NO_QEMU_IMG)


def test_a_clone_that_is_as_asked_for_is_right() -> None:
    assert difference(spec()) == []
    asked = spec(uuid=UUID, mac="52:54:00:00:00:01", memory="256M", vcpus=2, description="a desk")
    assert difference(asked) == []
    assert difference(spec(), mode="reflink", fallback="full") == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (spec(uuid=UUID.replace("2", "3")), f"uuid is {UUID}, asked for "),
        (spec(mac="52:54:00:00:00:02"), "mac of interface 0 is 52:54:00:00:00:01, asked for 52:54:00:00:00:02"),
        (spec(macs=["52:54:00:00:00:01", "52:54:00:00:00:02"]), "mac of interface 1 is None"),
        (spec(memory="512M"), "memory is 268435456, asked for 536870912"),
        (spec(vcpus=4), "vcpus is 2, asked for 4"),
        (spec(description="another"), "description is a desk, asked for another"),
        (spec(metadata="<a:x xmlns:a='urn:a'/>"), "metadata of urn:a differs"),
    ],
)
def test_a_clone_that_is_not_as_asked_for_says_what_differs(asked: CloneSpec, said: str) -> None:
    (found,) = difference(asked)
    assert found.startswith(said)


def test_the_error_says_what_differs() -> None:
    with pytest.raises(DiskError, match="vcpus is 2, asked for 4: it was left alone") as caught:
        _survey.require_right(spec(vcpus=4), wish(mode="full"), SOURCE, THERE, NO_QEMU_IMG)
    assert caught.value.facts["differences"] == ["vcpus is 2, asked for 4"]


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (None, "nothing in it says that it is a copy of golden"),
        (Mark("other", "o", "full", ()), "it is a clone of other, asked for one of golden"),
        (Mark("golden", "u", "linked", ()), "it is a linked clone, asked for a full one"),
    ],
)
def test_a_copy_is_known_by_its_mark(mark: Mark | None, said: str) -> None:
    assert difference(spec(), replace(THERE, looks=replace(LOOKS, mark=mark))) == [said]


def test_a_clone_without_a_disk_of_its_source_is_not_right() -> None:
    assert difference(spec(), replace(THERE, disks=())) == ["it has no disk vda"]
    assert difference(spec(), replace(THERE, disks=()), mode="linked") == ["it has no disk vda"]
    assert difference(spec(), mode="linked") == ["vda: its image /d/pc-1.qcow2 is missing"]


@pytest.mark.parametrize(
    ("asked", "macs", "paths", "said"),
    [
        (spec(name="b", uuid=UUID), [], [], "is that of the domain pc-1: choose another"),
        (spec(name="b", mac="52:54:00:00:00:01"), ["52:54:00:00:00:01"], [], "of the domain pc-1: choose another"),
        (spec(name="b"), ["52:54:00:00:00:01"], [], "it is derived from the name: give another one with mac"),
        (spec(name="b"), [], ["/d/pc-1.qcow2"], "is a disk of the domain pc-1"),
        (spec(name="b"), ["52:54:00:00:00:02"] * 2, [], "of the domain b: it is derived"),
    ],
)
def test_what_another_domain_has_is_taken(asked: CloneSpec, macs: list[str], paths: list[str], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision_existing.Taken([THERE]).require_free(asked, macs, paths)


@pytest.mark.parametrize(("size", "cluster", "wanted"), [(10 << 30, None, 4), (1 << 40, None, 4), (64 * MIB, 512, 35)])
def test_an_empty_overlay_needs_a_header_the_refcounts_and_its_first_table(
    size: int, cluster: int | None, wanted: int
) -> None:
    assert _decision_blueprint.overlay_bytes(size, cluster) == wanted * (cluster or 65536)
