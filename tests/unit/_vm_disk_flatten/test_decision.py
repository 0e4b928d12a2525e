# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks are flattened, down to what, what stands in the way, and what a dead run left: decisions, no world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    OperationInFlight,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    leftovers as _vm_disk_convert_leftovers,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import (
    leftovers as _vm_disk_flatten_leftovers,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record
from unit import samples

MIB = 1 << 20
TOP, MIDDLE, BASE = "/images/vm.qcow2", "/images/middle.qcow2", "/images/base.raw"
CHAIN = (ChainLink(MIDDLE, "qcow2", "3"), ChainLink(BASE, "raw", "4"))
IMAGES = (
    Image(TOP, "qcow2", 64 * MIB, MIB, cluster_size=65536, compat="1.1", refcount_bits=16, backing_file=MIDDLE),
    Image(MIDDLE, "qcow2", 64 * MIB, 2 * MIB, backing_file=BASE),
    Image(BASE, "raw", 64 * MIB, 40 * MIB),
)
ELEMENT = samples.element(TOP, "qcow2", chain=CHAIN)


def disk(element: DiskElement = ELEMENT, *, live: bool = False) -> DomainDisk:
    return samples.disk(element, element if live else None)


def state(*disks: DomainDisk, **fields: Any) -> DomainState:
    return samples.domain(*(disks or (disk(),)), **fields)


def item(keep: int = 3, images: Sequence[Image] = IMAGES, **element: Any) -> Flattening:
    return Flattening(disk(replace(ELEMENT, **element)), tuple(images), keep)


# What is asked


@pytest.mark.parametrize("fields", [{"copy_timeout": 0}, {"copy_timeout": -1}, {"bandwidth": 0}])
def test_a_wish_that_no_world_could_grant_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        FlattenWish(("vda",), **fields).require_valid()


def test_a_disk_is_meant_once_by_its_target_or_its_image() -> None:
    assert _decision.select(state(), FlattenWish(("vda", TOP))) == [disk()]
    with pytest.raises(InvalidRequest, match="has no disk vdb: it has vda"):
        _decision.select(state(), FlattenWish(("vdb",)))
    with pytest.raises(DiskError, match="is a cdrom, asked to flatten a disk"):
        _decision.select(state(disk(replace(ELEMENT, device="cdrom"))), FlattenWish(("vda",)))


def test_the_base_says_how_much_is_merged() -> None:
    assert _decision.position(state(), disk(), IMAGES, None) == 3
    assert _decision.position(state(), disk(), IMAGES, "/images/../images/base.raw") == 2
    assert _decision.position(state(), disk(), IMAGES, MIDDLE) == 1
    assert _decision.position(state(), disk(), IMAGES[2:], "/elsewhere") == 1
    for wrong in (TOP, "/elsewhere"):
        with pytest.raises(InvalidRequest, match=f"chain is {TOP} -> {MIDDLE} -> {BASE}: name one") as refused:
            _decision.position(state(), disk(), IMAGES, wrong)
        assert refused.value.facts["backing_chain"] == [TOP, MIDDLE, BASE]


def test_what_is_merged_and_what_stays() -> None:
    assert [image.path for image in item(3).merged] == [MIDDLE, BASE]
    assert item(3).base is None
    assert item(3).named_base is None
    assert item(2).base == IMAGES[2]
    assert item(2).named_base == CHAIN[1]
    assert item(2, chain=None).named_base is None
    assert [_decision.is_granted(item(keep)) for keep in (1, 2, 3)] == [True, False, False]
    assert [image.path for image in _decision.predicted(item(2))] == [TOP, BASE]
    assert _decision.predicted(item(2))[0].backing_file == BASE
    assert _decision.predicted(item(3))[0].backing_file is None


@pytest.mark.parametrize(
    ("now", "mode", "found"),
    [
        ("shut off", "auto", "offline"),
        ("shut off", "offline", "offline"),
        ("shut off", "live", "mode is live"),
        ("running", "auto", "live"),
        ("running", "live", "live"),
        ("paused", "auto", "live"),
        ("running", "offline", "shut it down first"),
        ("in shutdown", "auto", "cannot be flattened now"),
        ("crashed", "auto", "crashed"),
    ],
)
def test_a_running_domain_is_flattened_live_and_never_shut_down(now: str, mode: str, found: str) -> None:
    where = state(state=now, active=now not in ("shut off", "crashed"))
    if found in ("live", "offline"):
        assert _decision.way(where, FlattenWish(("vda",), mode=mode)) == found
    elif now != "crashed":
        with pytest.raises(DiskError, match=found):
            _decision.way(where, FlattenWish(("vda",), mode=mode))


# What stands in the way


@pytest.mark.parametrize(
    "chain",
    [
        (),
        CHAIN[:1],
        (CHAIN[1], CHAIN[0]),
        (CHAIN[0], ChainLink("/images/other.raw", "raw")),
        (CHAIN[0], ChainLink(BASE, "qcow2")),
    ],
)
def test_another_chain_than_that_of_the_images_is_refused(chain: tuple[ChainLink, ...]) -> None:
    with pytest.raises(UnsafeImage, match="bring the two together"):
        same_chain(item(chain=chain))


def test_the_chain_may_be_unsaid_or_said_without_formats() -> None:
    same_chain(item())
    same_chain(item(chain=None))
    same_chain(item(chain=(ChainLink(MIDDLE, None), ChainLink(BASE, None))))


def same_chain(found: Flattening) -> None:
    _disk_chain.require_same_chain(state(), found.disk, found.images)


@pytest.mark.parametrize(
    ("images", "element", "said"),
    [
        ((replace(IMAGES[0], format="vmdk"), *IMAGES[1:]), {}, "convert it with vm_disk_convert"),
        ((replace(IMAGES[0], encrypted=True), *IMAGES[1:]), {}, "is encrypted: not flattened"),
        ((replace(IMAGES[0], data_file="/images/data"), *IMAGES[1:]), {}, "keeps its data in /images/data"),
        ((IMAGES[0], replace(IMAGES[1], corrupt=True), IMAGES[2]), {}, "middle.qcow2: is marked corrupt"),
        (
            (IMAGES[0], replace(IMAGES[1], encrypted=True), IMAGES[2]),
            {},
            "would be stored unencrypted in /images/vm.qcow2",
        ),
        (IMAGES, {"encrypted": True}, "is encrypted"),
        (IMAGES, {"sliced": True}, "is a slice"),
        (IMAGES, {"readonly": True}, "is read-only"),
        (IMAGES, {"transient": True}, "is transient"),
        (IMAGES, {"type": "block"}, "only image files are flattened"),
    ],
)
def test_an_image_that_would_lose_something_is_refused(
    images: tuple[Image, ...], element: dict[str, Any], said: str
) -> None:
    with pytest.raises(DiskError, match=said):
        _decision.require_flattenable(state(), [item(3, images, **element)], [])


def test_what_is_kept_below_may_be_in_any_state() -> None:
    odd = replace(IMAGES[2], corrupt=True, encrypted=True)
    _decision.require_flattenable(state(), [item(2, (*IMAGES[:2], odd))], [])


def test_the_new_image_is_laid_out_like_the_old_one() -> None:
    old = replace(IMAGES[0], cluster_size=2 * MIB, lazy_refcounts=True, compression_type="zstd", extended_l2=False)
    options = {"cluster_size": "2097152", "compat": "1.1", "refcount_bits": "16"}
    assert _decision.layout(old).options() == {**options, "lazy_refcounts": "on", "compression_type": "zstd"}
    assert _decision.layout(replace(old, compression_type="zlib", lazy_refcounts=False)).options() == options
    assert _decision.layout(replace(old, format="qed")).options() == {}
    alike = replace(old, backing_file=None)
    _decision.require_alike(item(3, (old, *IMAGES[1:])), alike)
    with pytest.raises(DiskError, match="has cluster_size 65536, the old one 2097152"):
        _decision.require_alike(item(3, (old, *IMAGES[1:])), replace(alike, cluster_size=65536))
    with pytest.raises(DiskError, match=f"has the backing file {MIDDLE} after it was flattened, wanted none"):
        _decision.require_alike(item(3, (old, *IMAGES[1:])), old)


def test_with_a_base_no_more_space_is_needed_than_what_is_merged_has() -> None:
    assert _decision.most_bytes(item(3), 50 * MIB) == 50 * MIB
    assert _decision.most_bytes(item(2), 50 * MIB) == 3 * MIB
    assert _decision.most_bytes(item(2), 2 * MIB) == 2 * MIB


# What a dead run left


def record(mode: str = "live", run: str | None = "7", keep: int = 3) -> Record:
    return replace(_decision.record(state(), mode, run, [item(keep)]), started="yesterday")


def left(
    found: Record | None,
    run: str | None = "7",
    *,
    pulled: bool = True,
    notes: dict[str, Any] | None = None,
    live: bool = True,
    images: Sequence[str] = (),
) -> _vm_disk_flatten_leftovers.Left:
    where = state(disk(live=live), active=live, record=found)
    return _vm_disk_flatten_leftovers.find(where, run, images, (notes or {}).get, lambda _target: pulled)


def test_only_a_pull_of_the_same_run_of_the_domain_is_ours() -> None:
    assert [one.target for one in left(record()).pulled] == ["vda"]
    assert left(record()).doubtful == ()
    for run, live in (("8", True), (None, False)):
        again = left(record(), run, live=live)
        assert again.pulled == again.unwritten == ()
        assert [one.target for one in again.doubtful] == ["vda"]
    assert left(record("offline", None), None, live=False).doubtful == ()
    assert not left(None)


def test_what_may_be_in_the_memory_of_qemu_is_written_out() -> None:
    found = left(record(), pulled=False)
    assert found.pulled == ()
    written: list[str] = []
    for step in _vm_disk_flatten_leftovers.settle(found, pytest.fail, written.append):
        step.do()
    assert written == ["vda"]


def test_a_pull_is_adopted_where_it_does_what_is_wanted_now() -> None:
    found = left(record(keep=2))
    assert _vm_disk_flatten_leftovers.adoptable(found, [item(2)]) == {"vda"}
    assert _vm_disk_flatten_leftovers.adoptable(found, [item(3)]) == frozenset()
    assert _vm_disk_flatten_leftovers.without(found, {"vda"}).pulled == ()
    ended: list[str] = []
    (step,) = _vm_disk_flatten_leftovers.settle(found, ended.append, pytest.fail)
    step.do()
    assert ended == ["vda"]


def test_a_record_beside_an_image_is_found_without_one_in_the_domain() -> None:
    notes = {TOP: {"verb": "flatten", "owners": {BASE: [1, 2]}}}
    found = left(None, notes=notes, images=[TOP])
    assert found.noted == (TOP,)
    assert found.owners == {BASE: (1, 2)}
    assert found.paths == {TOP}
    assert not left(None, notes={TOP: {"verb": "reconcile"}}, images=[TOP])
    assert not left(None, notes={TOP: {"verb": "flatten", "alive": True}}, images=[TOP])


def test_a_half_made_file_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "vm.qcow2")
    staged = _staging.NewFile(path)
    staged.begin()
    (step,) = _vm_disk_flatten_leftovers.settle(left(None, images=[path]), pytest.fail, pytest.fail)
    step.do()
    assert list(tmp_path.iterdir()) == []


def test_each_verb_leaves_what_the_other_left_to_it() -> None:
    with pytest.raises(DiskError, match=r"a run \(flatten vda\) was interrupted .* run vm_disk_flatten on vda again"):
        _vm_disk_convert_leftovers.find(state(record=record()), [], lambda _path: None)
    other = replace(record(), verb="convert")
    with pytest.raises(DiskError, match="run vm_disk_convert on vda again") as refused:
        left(other)
    assert refused.value.facts["interrupted"] == {"verb": "convert", "started": "yesterday", "disks": ["vda"]}
    with pytest.raises(DiskError, match="finish that first"):
        left(replace(record(), verb="unheard-of"))


def test_a_run_that_lives_is_not_touched() -> None:
    alive = {TOP: {"alive": True, "pid": 4711, "started": "now"}}
    with pytest.raises(OperationInFlight, match=r"another run flattens vda \(/images/vm.qcow2\) .* \(process 4711\)"):
        left(record(), notes=alive)
    _records.require_own("vm", None, "flatten", alive.get)
