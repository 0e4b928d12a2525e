# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which disks are copied while their guest runs: a decision, without a world."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision_live as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from unit import samples
from unit.noting import Noting, order, undoing

ITEMS = [
    Conversion(samples.disk(samples.element("/i/a.raw")), "/i/a.raw", "/i/a.qcow2"),
    Conversion(samples.disk(samples.element("/i/b.raw", target="vdb")), "/i/b.raw", "/i/b.qcow2"),
]
STATE = samples.domain(*(item.disk for item in ITEMS), state="running", active=True)


def copied(adopted: frozenset[str] = frozenset(), **fields: Any) -> tuple[list[str], list[str]]:
    """What is done, and what a person is told of."""
    work = Noting()
    steps = _decision.steps(STATE, ConvertWish(("vda", "vdb"), Layout(format="qcow2"), **fields), ITEMS, adopted, work)
    return order(steps, work), [step.summary for step in steps if step.summary]


def test_all_disks_are_copied_before_the_guest_switches_to_any_new_image() -> None:
    done, said = copied(keep_source=False)
    assert done == ["begin", "stage", "copy", "stage", "copy", "pivot*", "remove", "remove", "finish"]
    assert said == [
        "copy vda of vm from /i/a.raw (raw) to /i/a.qcow2 (qcow2) while it runs",
        "copy vdb of vm from /i/b.raw (raw) to /i/b.qcow2 (qcow2) while it runs",
        "switch vm to /i/a.qcow2, /i/b.qcow2",
        "remove /i/a.raw",
        "remove /i/b.raw",
    ]


def test_a_copy_that_a_dead_run_began_is_resumed() -> None:
    done, said = copied(frozenset(["vda"]))
    assert done == ["begin", "stage", "copy", "stage", "copy", "pivot*", "finish"]
    assert said[0] == (
        "resume the copy of vda of vm from /i/a.raw (raw) to /i/a.qcow2 (qcow2) that an interrupted run began"
    )


def test_until_the_point_of_no_return_all_is_undone_the_newest_first() -> None:
    work = Noting()
    steps = _decision.steps(STATE, ConvertWish(("vda", "vdb"), Layout(format="qcow2")), ITEMS, (), work)
    assert undoing(steps, work) == ["end", "withdraw", "end", "withdraw", "restore"]


def raw(disk: dict[str, Any], **layout: Any) -> list[Conversion]:
    """The conversion of a disk like DISK into a raw image, where that is to have holes that QEMU may fill."""
    element = samples.element("/i/a.qcow2", "qcow2", **disk)
    item = Conversion(samples.disk(element, element), "/i/a.qcow2", "/i/a.raw")
    return _decision.with_holes(ConvertWish(("vda",), Layout(**{"format": "raw", **layout})), [item])


def test_holes_are_in_doubt_where_a_raw_image_is_to_have_some_and_the_disk_keeps_discards_to_itself() -> None:
    assert raw({})
    assert raw({"discard": "ignore"}, preallocation="off")
    assert not raw({"discard": "unmap"})
    assert not raw({}, preallocation="falloc")
    assert not raw({}, format="qcow2")


@pytest.mark.parametrize(
    ("version", "fills"), [((7, 2), False), ((9, 0), False), ((9, 1), True), ((10, 0), True), ((10, 1), False)]
)
def test_some_releases_of_qemu_fill_the_holes_of_a_raw_image(version: tuple[int, int], fills: bool) -> None:
    assert _decision.fills_holes(version) is fills
