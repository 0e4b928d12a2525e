# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to make an image that is not there."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._provision.plan_create import new_size, plan_create
from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish
from unit.noting import Noting, order, undoing
from unit.samples import MIB, qcow2, raw

PATH = "/images/clone.qcow2"


def wish(size: int | None = None, **parts: Any) -> ImageWish:
    return ImageWish(**{"path": PATH, "layout": Layout("qcow2"), "size": size, **parts})


def plan(wanted: ImageWish, base: Any = None) -> Plan:
    return plan_create(wanted, base, Noting())


def test_a_new_image_without_a_base_needs_a_size() -> None:
    with pytest.raises(InvalidRequest, match="give the size to create it with"):
        new_size(wish(), None)
    assert new_size(wish(MIB), None) == MIB


def test_an_overlay_has_the_size_of_its_base_unless_it_is_to_be_larger() -> None:
    assert new_size(wish(), qcow2()) == 10 * MIB
    assert new_size(wish(10 * MIB), qcow2()) == 10 * MIB
    assert new_size(wish(11 * MIB), qcow2()) == 11 * MIB


def test_an_overlay_smaller_than_its_base_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"asked for 10485248 bytes, but its backing file .* has 10 MiB") as caught:
        new_size(wish(10 * MIB - 512), qcow2())
    assert caught.value.facts == {"virtual_size": 10 * MIB}


def test_the_plan_says_what_will_be_there() -> None:
    made = plan(wish(40 * MIB, layout=Layout("qcow2", "full", 4096, lazy_refcounts=True)))
    assert made.report() == {
        "changed": True,
        "actions": [f"create qcow2 image {PATH} of 40 MiB, preallocation full"],
    }
    assert made.before == {"path": PATH, "state": "absent"}
    assert made.after == {
        "path": PATH,
        "state": "present",
        "format": "qcow2",
        "virtual_size": 40 * MIB,
        "preallocation": "full",
        "cluster_size": 4096,
        "lazy_refcounts": True,
    }


def test_the_plan_of_an_overlay_names_its_base() -> None:
    made = plan(wish(backing_file="/images/web.raw", backing_format="raw"), raw())
    assert made.report()["actions"] == [f"create qcow2 image {PATH} of 10 MiB over /images/web.raw"]
    assert (made.after["backing_file"], made.after["backing_format"]) == ("/images/web.raw", "raw")


def test_an_image_is_made_over_its_base_and_what_was_begun_is_withdrawn() -> None:
    work = Noting()
    made = plan_create(wish(backing_file="/images/web.raw", backing_format="raw"), raw(), work)
    assert order(made.steps, work) == ["create"]
    assert undoing(made.steps, work) == ["withdraw"]
