# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which disks are converted while their domain is off: a decision, without a world."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision_offline as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from unit import samples
from unit.noting import Noting, order, undoing

ITEMS = [
    Conversion(samples.disk(samples.element("/i/a.raw")), "/i/a.raw", "/i/a.qcow2"),
    Conversion(samples.disk(samples.element("/i/b.raw", target="vdb")), "/i/b.raw", "/i/b.qcow2"),
]


def done(runs: bool, active: bool, **fields: Any) -> list[str]:
    work = Noting()
    state = samples.domain(*(item.disk for item in ITEMS), active=active)
    return order(
        _decision.steps(state, ConvertWish(("vda", "vdb"), Layout(format="qcow2"), **fields), ITEMS, runs, work), work
    )


@pytest.mark.parametrize(
    ("runs", "active", "fields", "expected"),
    [
        (False, False, {}, ["begin", "convert", "convert", "name*", "forget"]),
        (
            True,
            True,
            {},
            ["begin", "power_off", "require_space", "convert", "convert", "name", "start*", "forget"],
        ),
        (True, False, {}, ["begin", "convert", "convert", "name", "start*", "forget"]),
        (
            True,
            True,
            {"restart": False},
            ["begin", "power_off", "require_space", "convert", "convert", "name*", "forget"],
        ),
        (
            False,
            False,
            {"keep_source": False},
            ["begin", "convert", "convert", "name*", "remove", "remove", "forget"],
        ),
    ],
)
def test_a_domain_is_off_while_its_disks_are_converted_and_on_again_before_anything_is_removed(
    runs: bool, active: bool, fields: dict[str, Any], expected: list[str]
) -> None:
    assert done(runs, active, **fields) == expected


def test_until_the_point_of_no_return_all_is_undone_the_newest_first() -> None:
    work = Noting()
    wish = ConvertWish(("vda", "vdb"), Layout(format="qcow2"))
    steps = _decision.steps(samples.domain(*(item.disk for item in ITEMS)), wish, ITEMS, True, work)
    assert undoing(steps, work) == ["define_as_before", "withdraw", "withdraw", "restore"]
