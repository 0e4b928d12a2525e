# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One operation at a time on an image, told to others and to later runs by the record beside it."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock, state
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import (
    look,
    noted_bases,
    record_path,
    sibling_name,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import operation


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "web.qcow2"
    path.write_bytes(b"")
    return str(path)


@pytest.fixture
def in_child() -> Iterator[Callable[[Callable[[], object]], int]]:
    """Runs something in a process of its own, which ends with the test."""
    children: list[int] = []

    def start(work: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
        return pid

    yield start
    for pid in children:
        kill(pid)


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def hold(path: str, *, until_told: int | None = None, **facts: Any) -> None:
    """For ever, or until somebody writes to the other end of a pipe."""
    with operation("reconcile", [path]) as running:
        running.note(path, **facts)
        if until_told is None:
            signal.pause()
        else:
            os.read(until_told, 1)


def break_off(path: str) -> None:
    with operation("reconcile", [path]) as running:
        running.note(path)
        raise ValueError("broken")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


def is_noted(path: str) -> bool:
    found = look(path)
    return bool(found and "pid" in found)


def leave_behind(path: str, in_child: Callable[[Callable[[], object]], int], **facts: Any) -> None:
    """A dead run's record."""
    pid = in_child(lambda: hold(path, **facts))
    until(lambda: is_noted(path))
    kill(pid)


def test_the_record_is_there_for_as_long_as_the_operation(image: str) -> None:
    with operation("reconcile", [image]) as running:
        running.note(image, before={"size": 1}, after={"size": 2})
        written = json.loads(Path(record_path(image)).read_text(encoding="utf-8"))
        assert written["verb"] == "reconcile"
        assert (written["before"], written["after"]) == ({"size": 1}, {"size": 2})
        assert written["pid"] == os.getpid()
        assert running.left_behind(image) is None
    assert not os.path.exists(record_path(image))
    assert look(image) is None


def test_a_record_is_its_owners_secret(image: str) -> None:
    with operation("reconcile", [image]):
        assert os.stat(record_path(image)).st_mode & 0o777 == 0o600


def test_a_failed_operation_takes_its_record_away(image: str) -> None:
    with pytest.raises(ValueError, match="broken"):
        break_off(image)
    assert look(image) is None


def test_a_second_run_is_told_who_works_on_the_image(
    image: str, in_child: Callable[[Callable[[], object]], int]
) -> None:
    pid = in_child(lambda: hold(image))
    until(lambda: is_noted(image))
    found = look(image)
    assert found is not None
    assert found["alive"] is True
    with (
        pytest.raises(OperationInFlight, match=rf"reconcile since .*process {pid}") as caught,
        operation("remove", [image], patience=0.1),
    ):
        pass
    assert caught.value.facts["operation"]["pid"] == pid
    assert is_noted(image), "the other's record was left alone"


def test_a_second_run_waits_for_a_quick_first_one(
    image: str, in_child: Callable[[Callable[[], object]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, tell = os.pipe()
    in_child(lambda: hold(image, until_told=told))
    until(lambda: is_noted(image))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        """The first one ends while the second one waits, for as long as that takes."""
        waits.append(seconds)
        os.write(tell, b"x")
        time.sleep(seconds)

    monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep))
    with operation("reconcile", [image]) as running:
        assert running.left_behind(image) is None, "what ended well leaves nothing behind"
    assert waits
    os.close(told)
    os.close(tell)


def test_many_runs_at_once_go_one_after_the_other(
    image: str, tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0", encoding="utf-8")

    def add_one() -> None:
        for _again in range(5):
            with operation("reconcile", [image], patience=300):
                seen = int(counter.read_text(encoding="utf-8"))
                time.sleep(0.005)
                counter.write_text(str(seen + 1), encoding="utf-8")

    children = [in_child(add_one) for _child in range(4)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert counter.read_text(encoding="utf-8") == "20"
    assert sorted(os.listdir(tmp_path)) == ["counter", "web.qcow2"]


def test_two_runs_that_want_two_images_in_another_order_both_get_them(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    one, other = str(tmp_path / "one"), str(tmp_path / "other")

    def take(paths: list[str]) -> None:
        for _again in range(20):
            with operation("convert", paths, patience=300):
                pass

    children = [in_child(lambda: take([one, other])), in_child(lambda: take([other, one]))]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]


def test_a_dead_record_is_found_and_stays_until_it_is_settled(
    image: str, in_child: Callable[[Callable[[], object]], int]
) -> None:
    leave_behind(image, in_child, after={"size": 2})
    found = look(image)
    assert found is not None
    assert (found["alive"], found["after"]) == (False, {"size": 2})
    with operation("remove", [image]) as running:
        left = running.left_behind(image)
        assert left is not None
        assert (left["verb"], left["after"]) == ("reconcile", {"size": 2})
    assert look(image) is not None, "nobody said that it was dealt with"
    with pytest.raises(ValueError, match="broken"):
        break_off(image)
    assert look(image) is not None
    with operation("remove", [image]) as running:
        running.settled(image)
        assert running.left_behind(image) is None
    assert look(image) is None


def test_a_record_that_was_cut_off_still_says_that_something_was_in_flight(image: str) -> None:
    Path(record_path(image)).write_bytes(b'{"verb": "recon')
    assert look(image) == {"verb": "unknown", "alive": False}
    with operation("remove", [image]) as running:
        assert running.left_behind(image) == {"verb": "unknown"}


def test_a_run_that_is_about_to_hold_its_record_is_no_dead_one(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Path(record_path(image))
    record.touch()
    held: list[int] = []

    def meanwhile(_seconds: float) -> None:
        held.append(lock.hold(str(record), time.monotonic()))
        record.write_text('{"verb": "reconcile"}', encoding="utf-8")

    monkeypatch.setattr(time, "sleep", meanwhile)
    assert look(image) == {"verb": "reconcile", "alive": True}
    os.close(held.pop())
    assert not held


def test_a_record_is_held_from_the_moment_at_which_it_is_there(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link
    seen: list[Any] = [look(image)]

    def linked(*arguments: Any, **options: Any) -> None:
        link(*arguments, **options)
        seen.append(look(image))

    monkeypatch.setattr(os, "link", linked)
    with operation("reconcile", [image]):
        assert seen == [None, {"verb": "unknown", "alive": True}]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR])
def test_a_file_system_without_files_that_have_no_name_has_records_too(
    image: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def unable(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(code, os.strerror(code), path)
        return opened(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", unable)
    with operation("reconcile", [image]) as running:
        running.note(image)
        assert is_noted(image)
        with pytest.raises(OperationInFlight), operation("remove", [image], patience=0):
            pass
    assert look(image) is None


def test_a_record_that_goes_while_it_is_opened_is_made_anew(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Path(record_path(image))
    record.touch()
    opened = state.hold

    def gone(name: str, mode: int, *, make: bool) -> int:
        record.unlink()
        return opened(name, mode, make=make)

    monkeypatch.setattr(state, "hold", gone)
    with operation("reconcile", [image], patience=300):
        assert look(image) == {"verb": "unknown", "alive": True}


def test_a_record_in_which_nothing_stands_is_left_by_a_dead_run(image: str) -> None:
    Path(record_path(image)).touch()
    assert look(image) == {"verb": "unknown", "alive": False}
    with operation("remove", [image]) as running:
        assert running.left_behind(image) is None


def test_a_run_that_ends_while_its_record_is_looked_at_has_left_nothing(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operation("reconcile", [image]) as running:
        running.note(image)
        opened = os.open(record_path(image), os.O_RDONLY)
    monkeypatch.setattr(state, "look", lambda _name: opened)
    assert look(image) is None


def test_a_child_that_inherits_the_record_keeps_the_image_held(
    image: str, in_child: Callable[[Callable[[], object]], int]
) -> None:
    with operation("reconcile", [image]) as running:
        running.note(image)
        (descriptor,) = running.descriptors
        pid = in_child(signal.pause)
        os.close(os.dup(descriptor))
        found = look(image)
        assert found is not None
        assert found["alive"]
    assert pid


def test_a_link_and_its_target_share_one_record(image: str, tmp_path: Path) -> None:
    link = tmp_path / "link.qcow2"
    link.symlink_to(image)
    assert record_path(str(link)) == record_path(image) == str(tmp_path / ".web.qcow2.kvmops")


def test_a_record_is_no_way_to_write_elsewhere(image: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, record_path(image))
    with (
        pytest.raises(DiskError, match="is not believed, because it is a symbolic link"),
        operation("reconcile", [image]),
    ):
        pass
    assert victim.read_bytes() == b"precious"


def test_a_record_that_is_exchanged_for_ever_holds_nobody_up_for_ever(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter(range(100))

    def exchanged(_descriptor: int, name: str) -> bool:
        next(left)
        os.rename(name, f"{name}.aside")
        Path(name).touch()
        return False

    Path(record_path(image)).touch()

    monkeypatch.setattr(lock, "_same_file", exchanged)
    with pytest.raises(OperationInFlight), operation("resize", [image], patience=0):
        pass


def test_a_directory_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "web.qcow2")
    with (
        pytest.raises(DiskError, match=r"cannot write the record.*No such file or directory"),
        operation("reconcile", [path]),
    ):
        pass


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 248, "x" * 247])
def test_a_long_name_has_a_record_too(name: str, tmp_path: Path) -> None:
    path = str(tmp_path / name)
    with operation("reconcile", [path]) as running:
        running.note(path)
        assert is_noted(path)
    assert list(tmp_path.iterdir()) == []


def test_long_names_that_differ_have_different_records() -> None:
    names = [sibling_name("x" * 250 + tail, ".kvmops") for tail in ("a", "b")]
    assert names[0] != names[1]
    assert all(len(os.fsencode(name)) <= 255 for name in names)
    assert sibling_name("web.qcow2", ".kvmops") == ".web.qcow2.kvmops"


def test_the_next_run_knows_the_bases_of_one_that_died(
    image: str, in_child: Callable[[Callable[[], object]], int]
) -> None:
    def work() -> None:
        with operation("remove", [image]) as running:
            running.depends("/images/golden", [image, "/images/other"])
            running.depends("/images/held")
            running.note(image)
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(in_child(work), 0)
    with operation("resize", [image]) as running:
        assert running.bases == {"/images/golden": sorted([image, "/images/other"]), "/images/held": []}
        running.note(image)
        assert noted_bases(look(image) or {}) == running.bases


@pytest.mark.parametrize("bases", [None, [], "x", {"/images/golden": None}, {"/images/golden": "x"}, {"golden": []}])
def test_bases_that_are_none_are_not_taken_from_a_record(image: str, bases: Any) -> None:
    Path(record_path(image)).write_text(json.dumps({"verb": "resize", "bases": bases}), encoding="utf-8")
    assert noted_bases(look(image) or {}) == {}
