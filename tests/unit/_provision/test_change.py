# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision what of an existing image is changed in place, and what cannot be."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import Rebase
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
    InvalidRequest,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._provision.change import change
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_change import (
    growth_in_bytes,
    plan_change,
    require_no_cut,
    require_undescribed,
)
from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User
from unit.noting import Noting, order
from unit.samples import MIB, qcow2, raw, snapshot

PATH = "/images/web.qcow2"
GIB = 1 << 30
OTHER: dict[str, Any] = {"backing_file": "/images/other.qcow2", "backing_format": "qcow2"}
OVERLAY: dict[str, Any] = {"backing_file": "/images/golden.qcow2", "backing_format": "qcow2"}


def wish(size: int | None = None, shrink: bool = False, format: str = "qcow2", **choices: Any) -> ImageWish:  # noqa: A002
    backing = {name: choices.pop(name) for name in tuple(choices) if name.startswith("backing_")}
    return ImageWish(path=PATH, layout=Layout(format, **choices), size=size, shrink=shrink, **backing)


def decide(wanted: ImageWish, image: Image) -> Plan:
    return plan_change(wanted, change(wanted, image), Noting())


@pytest.mark.parametrize(
    ("wanted", "image"),
    [
        (wish(), qcow2()),
        (wish(10 * MIB), qcow2()),
        (wish(10 * MIB, shrink=True), qcow2()),
        (wish(preallocation="full"), qcow2()),
        (wish(cluster_size=65536, compat="1.1", lazy_refcounts=False, refcount_bits=16), qcow2()),
        (wish(10 * MIB, format="raw"), raw()),
        (wish(**OVERLAY), qcow2(**OVERLAY)),
        (wish(), qcow2(**OVERLAY)),
        (wish(), qcow2(corrupt=True)),
        (wish(), qcow2(data_file="/images/data")),
    ],
    ids=str,
)
def test_what_matches_is_left_alone(wanted: ImageWish, image: Image) -> None:
    plan = decide(wanted, image)
    assert not plan
    assert plan.report() == {"changed": False, "actions": []}


def test_only_a_larger_image_grows() -> None:
    assert change(wish(20 * MIB), qcow2()).grows
    assert not change(wish(5 * MIB, shrink=True), qcow2()).grows
    assert not change(wish(compat="0.10"), qcow2()).grows


def test_a_larger_size_grows() -> None:
    plan = decide(wish(20 * MIB), qcow2())
    assert plan.report()["actions"] == [f"grow {PATH} from 10 MiB to 20 MiB"]
    assert (plan.before, plan.after) == ({"virtual_size": 10 * MIB}, {"virtual_size": 20 * MIB})


def test_a_smaller_size_is_refused_without_shrink() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decide(wish(30 * GIB), qcow2(virtual_size=40 * GIB))
    assert str(caught.value) == (
        f"{PATH}: cannot shrink from 40 GiB to 30 GiB: set shrink=true, after shrinking the file system inside"
    )


def test_a_difference_too_small_for_two_decimals_is_told_in_bytes() -> None:
    with pytest.raises(InvalidRequest, match=rf"from 40 GiB to {40 * GIB - 512} bytes"):
        decide(wish(40 * GIB - 512), qcow2(virtual_size=40 * GIB))


def test_a_smaller_size_shrinks_with_shrink() -> None:
    assert decide(wish(5 * MIB, shrink=True), qcow2()).report()["actions"] == [f"shrink {PATH} from 10 MiB to 5 MiB"]


def test_amending_comes_before_resizing() -> None:
    image, work = qcow2(compat="0.10", snapshots=(snapshot(),)), Noting()
    wanted = wish(20 * MIB, compat="1.1", lazy_refcounts=True)
    plan = plan_change(wanted, change(wanted, image), work)
    assert order(plan.steps, work) == ["amend", "resize"]
    assert plan.report()["actions"] == [
        f"amend {PATH}: compat from 0.10 to 1.1, lazy_refcounts from False to True",
        f"grow {PATH} from 10 MiB to 20 MiB",
    ]
    assert plan.before == {"compat": "0.10", "lazy_refcounts": False, "virtual_size": 10 * MIB}
    assert plan.after == {"compat": "1.1", "lazy_refcounts": True, "virtual_size": 20 * MIB}


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ({"cluster_size": 4096}, "cluster_size is 65536, asked for 4096"),
        ({"extended_l2": True}, "extended_l2 is False, asked for True"),
        ({"compression_type": "zstd"}, "compression_type is zlib, asked for zstd"),
    ],
)
def test_what_only_a_rewrite_can_change_is_an_error_that_names_it(choice: dict[str, Any], found: str) -> None:
    with pytest.raises(DiskError, match=found + ".*convert it into a new image") as caught:
        decide(wish(20 * MIB, **choice), qcow2())
    assert caught.value.facts == {"differences": list(choice)}


@pytest.mark.parametrize("name", ["vmdk", "vdi", "vhdx", "vpc", "qcow", "parallels"])
def test_a_format_that_cannot_be_resized_says_so(name: str) -> None:
    with pytest.raises(DiskError, match=rf"{name} images cannot be resized.*convert it") as caught:
        decide(wish(20 * MIB, format=name), raw(PATH, format=name))
    assert caught.value.facts == {"differences": ["size"]}


@pytest.mark.parametrize("name", ["raw", "qed"])
def test_other_formats_are_grown_too(name: str) -> None:
    assert decide(wish(20 * MIB, format=name), raw(PATH, format=name, cluster_size=65536))


def test_an_old_image_with_snapshots_cannot_be_resized() -> None:
    with pytest.raises(DiskError, match=r"compat 0.10 with 1 snapshot.*ask for compat 1.1 as well") as caught:
        decide(wish(20 * MIB), qcow2(compat="0.10", snapshots=(snapshot(),)))
    assert caught.value.facts == {"snapshots": ["before"]}


@pytest.mark.parametrize(
    ("wanted", "image", "reason"),
    [
        (wish(20 * MIB), qcow2(corrupt=True), "marked corrupt"),
        (wish(20 * MIB), qcow2(encrypted=True), "is encrypted"),
        (wish(10 * MIB), qcow2(encrypted=True), "is encrypted, and the task gives no encryption"),
        (wish(20 * MIB), qcow2(data_file="/etc/shadow"), "another file, /etc/shadow"),
        (wish(20 * MIB), qcow2(**OVERLAY), "reads the backing file /images/golden.qcow2.*name it with backing_file"),
        (wish(compat="0.10"), qcow2(refcount_bits=8), "refcount_bits: 8 needs compat 1.1"),
        (wish(compat="0.10"), qcow2(extended_l2=True), "extended_l2: True needs compat 1.1"),
        (wish(compat="0.10"), qcow2(compression_type="zstd"), "compression_type: zstd needs compat 1.1"),
        (wish(compat="0.10"), qcow2(snapshots=(snapshot(virtual_size=MIB),)), "snapshots have other sizes"),
        (wish(refcount_bits=8), qcow2(compat="0.10"), "refcount_bits: 8 needs compat 1.1"),
        (wish(lazy_refcounts=True), qcow2(compat="0.10"), "lazy_refcounts: True needs compat 1.1"),
        (wish(200 * GIB), qcow2(cluster_size=512), "raise cluster_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_qemu_img_would_refuse_or_should_not_open_is_refused_first(
    wanted: ImageWish, image: Image, reason: str
) -> None:
    with pytest.raises(DiskError, match=reason):
        decide(wanted, image)


def test_an_overlay_is_changed_when_the_task_names_its_backing_file() -> None:
    assert decide(wish(20 * MIB, **OVERLAY), qcow2(**OVERLAY)).after == {"virtual_size": 20 * MIB}
    assert decide(wish(20 * MIB, preallocation="full", extended_l2=True, **OVERLAY), qcow2(extended_l2=True, **OVERLAY))


def rebased(wanted: ImageWish) -> Plan:
    path = wanted.backing_file or None
    return Plan({"backing_file": "/images/golden.qcow2"}, {"backing_file": path}, (Step("rebase", lambda: None),))


def test_an_image_grows_over_its_old_backing_file_and_is_rebased_last() -> None:
    wanted = wish(20 * MIB, **OTHER)
    plan = plan_change(wanted, change(wanted, qcow2(**OVERLAY)), Noting(), rebase=rebased(wanted))
    assert [action.split()[0] for action in plan.report()["actions"]] == ["grow", "rebase"]
    assert plan.before == {"virtual_size": 10 * MIB, "backing_file": "/images/golden.qcow2"}
    assert plan.after == {"virtual_size": 20 * MIB, "backing_file": "/images/other.qcow2"}


def test_a_reference_is_rewritten_before_anything_opens_the_old_backing_file() -> None:
    wanted = replace(wish(20 * MIB, **OTHER), rebase="unsafe")
    plan = plan_change(wanted, change(wanted, qcow2(**OVERLAY)), Noting(), rebase=rebased(wanted))
    assert [action.split()[0] for action in plan.report()["actions"]] == ["rebase", "grow"]


def test_a_domain_that_describes_the_chain_itself_is_in_the_way_of_a_rebase() -> None:
    rebase = Rebase(qcow2(**OVERLAY), (qcow2("/images/other.qcow2"),))
    require_undescribed(rebase, [])
    with pytest.raises(ImageInUse, match=r"the definition of domain vm says what disk vda reads \(<backingStore>\)"):
        require_undescribed(rebase, [User("vm", "u", False, "vda", "disk", PATH)])


def test_a_trusted_overlay_is_changed_without_naming_its_backing_file() -> None:
    assert decide(replace(wish(20 * MIB), trusted=True), qcow2(**OVERLAY)).after == {"virtual_size": 20 * MIB}


def test_shrinking_below_the_backing_file_is_refused() -> None:
    image, base = qcow2(virtual_size=20 * MIB), qcow2("/images/golden.qcow2")
    require_no_cut(wish(10 * MIB), image, [base])
    require_no_cut(wish(5 * MIB), image, [])
    require_no_cut(wish(), image, [base])
    with pytest.raises(InvalidRequest, match=re.escape("backing file /images/golden.qcow2 has 10 MiB")):
        require_no_cut(wish(9 * MIB, shrink=True), image, [base])


def test_an_overlay_that_is_already_smaller_may_grow() -> None:
    require_no_cut(wish(9 * MIB), qcow2(virtual_size=8 * MIB), [qcow2("/images/golden.qcow2")])


@pytest.mark.parametrize(
    ("wanted", "needed"),
    [
        (wish(30 * MIB), 0),
        (wish(30 * MIB, preallocation="metadata"), 0),
        (wish(30 * MIB, preallocation="falloc"), 20 * MIB),
        (wish(30 * MIB, preallocation="full"), 20 * MIB),
        (wish(5 * MIB, preallocation="full"), 0),
        (wish(preallocation="full"), 0),
    ],
    ids=str,
)
def test_a_preallocated_growth_needs_its_space_at_once(wanted: ImageWish, needed: int) -> None:
    assert growth_in_bytes(wanted, qcow2()) == needed


def test_unsafe_images_are_told_from_wrong_wishes() -> None:
    with pytest.raises(UnsafeImage):
        decide(wish(20 * MIB), qcow2(data_file="/etc/shadow"))
    with pytest.raises(InvalidRequest):
        decide(wish(compat="0.10"), qcow2(refcount_bits=8))
