# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan does its steps in order, and undoes what it began when one of them fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, DomainIsOff, Interrupted
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import whole_story


class Diary:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, name: str, *, commits: bool = False, undo: bool = True, fails: BaseException | None = None) -> Step:
        def do() -> None:
            self.lines.append(f"do {name}")
            if fails:
                raise fails

        return Step(f"make {name}", do, self._writes(f"undo {name}") if undo else None, commits=commits)

    def _writes(self, line: str) -> Callable[[], None]:
        return lambda: self.lines.append(line)


def plan(*steps: Step) -> Plan:
    return Plan({"size": 1}, {"size": 2}, steps)


def test_a_plan_without_steps_is_falsy_and_reports_no_change() -> None:
    assert not plan()
    assert plan().report() == {"changed": False, "actions": []}
    plan().apply()


def test_a_plan_reports_its_steps_in_order_without_the_bookkeeping() -> None:
    diary = Diary()
    made = plan(diary.step("a"), Step("", lambda: None), diary.step("b"))
    assert made
    assert made.report() == {"changed": True, "actions": ["make a", "make b"]}
    assert diary.lines == []


def test_steps_are_done_in_order_and_nothing_is_undone_when_all_succeed() -> None:
    diary = Diary()
    plan(diary.step("a"), diary.step("b"), diary.step("c")).apply()
    assert diary.lines == ["do a", "do b", "do c"]


def test_a_failing_step_undoes_itself_and_the_ones_before_newest_first() -> None:
    diary = Diary()
    with pytest.raises(DiskError, match="no"):
        plan(
            diary.step("a"), diary.step("b", undo=False), diary.step("c", fails=DiskError("no")), diary.step("d")
        ).apply()
    assert diary.lines == ["do a", "do b", "do c", "undo c", "undo a"]


def test_what_came_before_a_commit_stays_when_a_later_step_fails() -> None:
    diary = Diary()
    with pytest.raises(DiskError):
        plan(diary.step("a"), diary.step("b", commits=True), diary.step("c", fails=DiskError("no"))).apply()
    assert diary.lines == ["do a", "do b", "do c", "undo c"]


def test_a_commit_that_fails_commits_nothing() -> None:
    diary = Diary()
    with pytest.raises(DiskError):
        plan(diary.step("a"), diary.step("b", commits=True, fails=DiskError("no"))).apply()
    assert diary.lines == ["do a", "do b", "undo b", "undo a"]


@pytest.mark.parametrize("end", [Interrupted("SIGTERM"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_interrupted_plan_is_undone_too(end: BaseException) -> None:
    diary = Diary()
    with pytest.raises(type(end)):
        plan(diary.step("a"), diary.step("b", fails=end)).apply()
    assert diary.lines == ["do a", "do b", "undo b", "undo a"]


def test_an_undo_that_fails_does_not_keep_the_others_from_running() -> None:
    diary = Diary()

    def broken() -> None:
        raise DiskError("cannot be undone")

    with pytest.raises(DiskError, match="cannot be undone") as caught:
        plan(
            diary.step("a"), Step("b", lambda: None, broken), diary.step("c", fails=DiskError("the first reason"))
        ).apply()
    assert diary.lines == ["do a", "do c", "undo c", "undo a"]
    assert str(caught.value.__context__) == "the first reason"


def refusing(what: str) -> Callable[[], None]:
    """A call to a library that fails, told in words of ours."""

    def refuse() -> None:
        try:
            raise OSError(f"library: {what}")
        except OSError as error:
            raise DiskError(f"cannot {what}") from error

    return refuse


def test_what_failed_first_is_told_before_what_failed_when_that_was_undone() -> None:
    with pytest.raises(DiskError) as failed:
        plan(Step("", lambda: None, refusing("undefine")), Step("", refusing("start"))).apply()
    assert whole_story(failed.value) == "cannot start. Then, while that was being undone: cannot undefine"
    with pytest.raises(DiskError) as failed:
        plan(Step("", lambda: None, lambda: None), Step("", refusing("start"))).apply()
    assert whole_story(failed.value) == "cannot start"


def test_that_a_domain_is_off_is_told_before_all_else() -> None:
    def start_again() -> None:
        try:
            refusing("start it on the old disk")()
        except DiskError as error:
            raise DomainIsOff("the domain is off: run again") from error

    with pytest.raises(DiskError) as failed:
        plan(Step("", lambda: None, start_again), Step("", refusing("start it on the new disk"))).apply()
    story = "the domain is off: run again. That was while this was being undone: cannot start it on the new disk"
    assert whole_story(failed.value) == story
