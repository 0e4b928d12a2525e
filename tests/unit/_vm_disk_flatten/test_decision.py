# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks are flattened, down to what, and what stands in the way: decisions, without a world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement
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
    return Flattening(disk(replace(ELEMENT, **element)), tuple(images), tuple(image.path for image in images), keep)


# What is asked


def test_a_disk_is_meant_once_by_its_target_or_its_image() -> None:
    assert _decision.select(state(), FlattenWish(("vda", TOP))) == [disk()]
    with pytest.raises(InvalidRequest, match="has no disk vdb: it has vda"):
        _decision.select(state(), FlattenWish(("vdb",)))
    with pytest.raises(DiskError, match="is a cdrom, asked to flatten a disk"):
        _decision.select(state(disk(replace(ELEMENT, device="cdrom"))), FlattenWish(("vda",)))


def test_the_base_says_how_much_is_merged() -> None:
    assert _decision.position(state(), disk(), IMAGES, None, None) == 3
    assert _decision.position(state(), disk(), IMAGES, "/images/../images/base.raw", 2) == 2
    assert _decision.position(state(), disk(), IMAGES, MIDDLE, 1) == 1
    assert _decision.position(state(), disk(), IMAGES[2:], "/elsewhere", None) == 1
    for wrong in (TOP, "/elsewhere"):
        with pytest.raises(InvalidRequest, match=f"chain is {TOP} -> {MIDDLE} -> {BASE}: name one") as refused:
            _decision.position(state(), disk(), IMAGES, wrong, None)
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
        ("shut off", "live", "method is live"),
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
        assert _obstacles.way(where, FlattenWish(("vda",), mode=mode)) == found
    elif now != "crashed":
        with pytest.raises(DiskError, match=found):
            _obstacles.way(where, FlattenWish(("vda",), mode=mode))


# What stands in the way


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
        _obstacles.require_flattenable(state(), [item(3, images, **element)], [])


def test_what_is_kept_below_may_be_in_any_state() -> None:
    odd = replace(IMAGES[2], corrupt=True, encrypted=True)
    _obstacles.require_flattenable(state(), [item(2, (*IMAGES[:2], odd))], [])


def test_the_new_image_is_laid_out_like_the_old_one() -> None:
    old = replace(IMAGES[0], cluster_size=2 * MIB)
    alike = replace(old, backing_file=None)
    _obstacles.require_alike(item(3, (old, *IMAGES[1:])), alike, None)
    with pytest.raises(DiskError, match="has cluster_size 65536, the old one 2097152"):
        _obstacles.require_alike(item(3, (old, *IMAGES[1:])), replace(alike, cluster_size=65536), None)
    with pytest.raises(DiskError, match=f"has the backing file {MIDDLE} after it was flattened, wanted none"):
        _obstacles.require_alike(item(3, (old, *IMAGES[1:])), old, MIDDLE)


def test_another_chain_than_the_named_one_is_refused_unless_a_dead_run_explains_it() -> None:
    odd = replace(item(), as_named=False)
    with pytest.raises(UnsafeImage, match="bring the two together"):
        _obstacles.require_flattenable(state(), [odd], [])
    with pytest.raises(UnsafeImage, match="bring the two together"):
        _obstacles.require_explained(state(), [odd], ())
    _obstacles.require_explained(state(), [odd], {"vda"})
    _obstacles.require_explained(state(), [item()], ())


def test_the_plan_says_which_backing_files_a_disk_has_before_and_after() -> None:
    plan = _decision.plan([item(2)], (), ())
    assert plan.before == {"vda": {"backing_chain": [TOP, MIDDLE, BASE]}}
    assert plan.after == {"vda": {"backing_chain": [TOP, BASE]}}


def test_with_a_base_no_more_space_is_needed_than_what_is_merged_has() -> None:
    assert _decision.most_bytes(item(3), 50 * MIB) == 50 * MIB
    assert _decision.most_bytes(item(2), 50 * MIB) == 3 * MIB
    assert _decision.most_bytes(item(2), 2 * MIB) == 2 * MIB


@pytest.mark.parametrize(
    ("version", "survives"), [((6, 2), False), ((7, 2), False), ((8, 1), False), ((8, 2), True), ((10, 0), True)]
)
def test_an_image_with_subclusters_is_not_pulled_into_where_qemu_would_abort(
    version: tuple[int, int], survives: bool
) -> None:
    doubtful = item(3, (replace(IMAGES[0], extended_l2=True), *IMAGES[1:]))
    _obstacles.require_survivable(state(), item(), version)
    if survives:
        _obstacles.require_survivable(state(), doubtful, version)
        return
    with pytest.raises(DiskError, match="shut vm down, and run again, which flattens the disk offline"):
        _obstacles.require_survivable(state(), doubtful, version)
