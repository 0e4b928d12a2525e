# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to make a new image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import (
    bytes_needed,
    creation_options,
    require_usable_base,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.decision import new_size, plan_create
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image.wish import ImageWish
from unit.samples import MIB, NO_QEMU_IMG, qcow2, raw

PATH = "/images/clone.qcow2"


def wish(size: int | None = None, **parts: Any) -> ImageWish:
    return ImageWish(**{"path": PATH, "layout": Layout("qcow2"), "size": size, **parts})


def plan(wanted: ImageWish, base: Any = None) -> Plan:
    return plan_create(wanted, base, NO_QEMU_IMG, NewFile(wanted.path), lambda _name: None)


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


@pytest.mark.parametrize("parts", [{"backing_file": "/images/base"}, {"backing_format": "raw"}], ids=str)
def test_a_backing_file_and_its_format_go_together(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="needs backing_format beside it"):
        wish(**parts).require_valid()


def test_an_image_cannot_be_its_own_backing_file() -> None:
    with pytest.raises(InvalidRequest, match="cannot be its own backing file"):
        wish(backing_file=PATH, backing_format="qcow2").require_valid()


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"encrypted": True}, "is encrypted"),
        ({"corrupt": True}, "is marked corrupt"),
        ({"data_file": "/etc/shadow"}, "keeps its data in another file, /etc/shadow"),
    ],
)
def test_a_base_that_is_not_what_it_seems_is_refused(facts: dict[str, Any], reason: str) -> None:
    require_usable_base(qcow2())
    with pytest.raises(UnsafeImage, match=reason):
        require_usable_base(qcow2(**facts))


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
        "cluster_size": 4096,
        "lazy_refcounts": True,
    }


def test_the_plan_of_an_overlay_names_its_base() -> None:
    made = plan(wish(backing_file="/images/web.raw", backing_format="raw"), raw())
    assert made.report()["actions"] == [f"create qcow2 image {PATH} of 10 MiB over /images/web.raw"]
    assert (made.after["backing_file"], made.after["backing_format"]) == ("/images/web.raw", "raw")


def test_planning_touches_nothing(tmp_path: Path) -> None:
    plan(wish(MIB, path=str(tmp_path / "new.qcow2")))
    assert list(tmp_path.iterdir()) == []


def test_a_vhd_keeps_the_size_that_was_asked_for() -> None:
    assert creation_options(Layout("vpc")) == {"force_size": "on"}
    assert creation_options(Layout("qcow2", compat="1.1")) == {"compat": "1.1"}


@pytest.mark.parametrize(
    ("layout", "needed"),
    [
        (Layout("qcow2"), 1000),
        (Layout("raw"), 1000),
        (Layout("raw", "off"), 1000),
        (Layout("raw", "falloc"), 5 * MIB),
        (Layout("raw", "full"), 5 * MIB),
    ],
    ids=str,
)
def test_the_space_needed_at_once_follows_the_allocation(layout: Layout, needed: int) -> None:
    assert bytes_needed(layout, 5 * MIB, 1000) == needed
