# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is repaired, what is a failure, and what is left as it is."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.decision_repair import (
    plan_repair,
    require_repaired,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import Finding

PATH = "/images/web.qcow2"
GOOD = CheckResult("good")
LEAKS = CheckResult("leaks", leaks=3)
CORRUPT = CheckResult("corrupt", corruptions=2)
BOTH = CheckResult("corrupt", corruptions=2, leaks=3)


class Work:
    """Repairs nothing."""

    def repair(self) -> None:
        raise AssertionError("a decision does not repair")


def plan(repair: str, check: CheckResult, **finding: Any) -> Plan:
    return plan_repair(PATH, repair, Finding(check, **finding), Work())


@pytest.mark.parametrize(
    ("repair", "check", "finding", "done"),
    [
        ("none", GOOD, {}, []),
        ("none", LEAKS, {}, []),
        ("none", GOOD, {"dirty": True}, []),
        ("leaks", GOOD, {}, []),
        ("leaks", LEAKS, {}, ["3 leaked cluster(s)"]),
        ("leaks", LEAKS, {"format": "qed"}, []),
        ("all", LEAKS, {"format": "qed"}, []),
        ("leaks", GOOD, {"dirty": True}, ["the mark that it was not closed properly"]),
        ("leaks", GOOD, {"corrupt": True}, ["the mark that it is corrupt"]),
        ("all", CORRUPT, {}, ["2 corruption(s)"]),
        ("all", BOTH, {}, ["2 corruption(s), 3 leaked cluster(s)"]),
        ("all", BOTH, {"format": "qed"}, ["2 corruption(s)"]),
        ("all", CORRUPT, {"corrupt": True}, ["2 corruption(s), the mark that it is corrupt"]),
    ],
    ids=str,
)
def test_what_is_asked_for_and_possible_is_repaired(
    repair: str, check: CheckResult, finding: dict[str, Any], done: list[str]
) -> None:
    found = plan(repair, check, **finding)
    assert found.report()["actions"] == [f"repair {PATH}: {what}" for what in done]
    assert (found.before == found.after) is (not done)


@pytest.mark.parametrize(
    ("repair", "check", "finding", "reason"),
    [
        ("none", CORRUPT, {}, "2 corruption.* asked to repair nothing: copy the image, then repair it with repair=all"),
        ("leaks", BOTH, {}, "and 3 leaked .* asked to repair leaks only: copy the image"),
        ("none", CORRUPT, {"dirty": True}, "was not closed properly, which repair=all puts right"),
        ("none", GOOD, {"corrupt": True}, "is marked corrupt, .* remove the mark with repair=all"),
        ("all", CORRUPT, {"format": "vdi"}, "QEMU cannot repair vdi images"),
    ],
    ids=str,
)
def test_a_corruption_that_would_stay_is_a_failure_with_the_facts(
    repair: str, check: CheckResult, finding: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsafeImage, match=reason) as caught:
        plan(repair, check, **finding)
    assert caught.value.facts["check"]["result"] == "corrupt"


def test_leaks_that_stay_are_not_called_repaired() -> None:
    assert plan("all", BOTH, format="qed").after == {"result": "leaks", "corruptions": 0, "leaks": 3, "dirty": False}


def test_a_repair_that_left_a_corruption_is_a_failure() -> None:
    require_repaired(PATH, Finding(CheckResult("good", corruptions_fixed=2)))
    require_repaired(PATH, Finding(LEAKS))
    with pytest.raises(UnsafeImage, match="are left in its metadata after the repair of 1"):
        require_repaired(PATH, Finding(CheckResult("corrupt", corruptions=1, corruptions_fixed=1)))
