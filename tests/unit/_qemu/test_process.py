# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other programs run to their end, or to the limit that they were given."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import process as _process
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import runner as _runner
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.process import Limits, TooIdle, TooLong, TooMuch, Ways
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_program_is_heard_on_both_of_its_outputs_however_much_it_says_on_one() -> None:
    done = _process.run(python("import sys; sys.stderr.write('e' * 300000); print('said'); sys.exit(3)"), Ways())
    assert (done.returncode, done.stdout, len(done.stderr)) == (3, b"said\n", 300000)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_that_says_too_much_is_ended(stream: str) -> None:
    chatter = python(f"import sys\nwhile True: sys.{stream}.write('x' * 65536)")
    with pytest.raises(TooMuch):
        _process.run(chatter, Ways(), most=1 << 20, seconds=300)


@pytest.mark.parametrize("code", ["time.sleep(3600)", "(os.close(1), os.close(2), time.sleep(3600))"])
def test_a_program_that_does_not_end_in_time_is_ended(code: str) -> None:
    with pytest.raises(TooLong):
        _process.run(python(f"import os, time; {code}"), Ways(), seconds=0.5)


def test_a_program_gets_no_more_time_and_memory_than_its_limits() -> None:
    endless = _process.run(python("while True: pass"), Ways(limits=Limits(cpu_seconds=1)), seconds=300)
    assert endless.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
    greedy = _process.run(python("bytearray(1 << 30)"), Ways(limits=Limits(address_space=1 << 29)))
    assert b"MemoryError" in greedy.stderr


@pytest.mark.parametrize("to_the_end", [False, True])
def test_a_program_that_moves_nothing_is_ended_though_it_be_busy(to_the_end: bool) -> None:
    idle = Ways(to_the_end=to_the_end, limits=Limits(idle_seconds=0.2, seconds=30))
    for code in ("time.sleep(3600)", "any(iter(int, 1))"):
        with pytest.raises(TooIdle):
            _process.run(python(f"import time; {code}"), idle)


def test_a_program_that_goes_on_may_take_as_long_as_it_takes() -> None:
    """By the clock of the test: nine seconds pass with each thing that it says or reads, and ten are too long."""
    code = "import sys\nprint(flush=True)\nwhile sys.stdin.buffer.raw.read(1): pass"
    with subprocess.Popen(python(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as program:
        assert program.stdin
        assert program.stdout
        program.stdout.readline()
        watch, now, said = _process._Watch(program.pid, 10), time.monotonic(), 0
        for said in range(5):
            now += 9
            watch.look(now, said)
        for _step in range(5):
            before = moved(program.pid)
            program.stdin.write(b"x")
            while moved(program.pid) == before:
                time.sleep(0.01)
            now += 9
            watch.look(now, said)
        watch.look(now + 9, said)
        with pytest.raises(TooIdle):
            watch.look(now + 11, said)


def moved(pid: int) -> str:
    return Path(f"/proc/{pid}/io").read_text(encoding="ascii")


def test_a_limit_of_time_holds_whoever_asked_for_it() -> None:
    for seconds, limit in ((0.3, 600), (600, 0.3), (None, 0.3)):
        with pytest.raises(TooLong):
            _process.run(python("import time; time.sleep(3600)"), Ways(limits=Limits(seconds=limit)), seconds=seconds)


def test_a_server_is_there_for_the_length_of_a_block(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    server = python(f"import time; open({str(ready)!r}, 'w').close(); time.sleep(3600)")
    with _process.serving(server, Ways(dies_with_us=True), ready.exists, 300):
        pass
    with (
        pytest.raises(ChildProcessError, match="no such thing"),
        _process.serving(python("raise SystemExit('no such thing')"), Ways(), lambda: False, 300),
    ):
        pass


def test_qemu_img_is_limited_where_an_image_is_not_trusted(tmp_path: Path) -> None:
    teller = tmp_path / "qemu-img"
    teller.write_text('#!/bin/sh\necho "{\\"memory\\": \\"$(ulimit -v)\\", \\"seconds\\": \\"$(ulimit -t)\\"}"\n')
    teller.chmod(0o755)
    door = QemuImg(str(teller))
    assert door.info("/disk", "raw") == {"memory": "unlimited", "seconds": "unlimited"}
    assert door.limiting().info("/disk", "raw") == {"memory": str(4 << 20), "seconds": "300"}
    assert door.limiting().limiting(False).info("/disk", "raw")["seconds"] == "unlimited"


@pytest.mark.parametrize("repair", [None, "all"])
def test_no_run_of_qemu_img_on_an_image_that_is_not_trusted_goes_on_for_ever(
    repair: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "qemu-img"
    stuck.write_text("#!/bin/sh\nexec sleep 3600\n", encoding="ascii")
    stuck.chmod(0o755)
    monkeypatch.setattr(_runner, "LOOK_LIMITS", Limits(seconds=0.2))
    monkeypatch.setattr(_runner, "WORK_LIMITS", Limits(idle_seconds=0.2))
    door = QemuImg(str(stuck)).limiting()
    runs: dict[str, Callable[[], object]] = {
        "check": lambda: door.check("/disk", "qcow2", repair),
        "map": lambda: door.map("/disk", "qcow2"),
        "measure": lambda: door.measure("/disk", "qcow2", "raw", {}),
        "convert": lambda: door.convert("/disk", "qcow2", "/new", "raw", {}),
        "compare": lambda: door.same_content("/disk", "qcow2", "/new", "raw"),
        "snapshot": lambda: door.take_snapshot("/disk", b"x"),
    }
    for verb, run in runs.items():
        with pytest.raises(QemuImgFailed, match=rf"qemu-img {verb} .* for /disk, and was ended"):
            run()


#: A process that is told to end in the moment of its first fork, and says which error that was.
TOLD_TO_END = """
import os, signal, sys, types
collections = types.ModuleType("ansible_collections")
collections.__path__ = [sys.argv[1] + "/.ansible/collections/ansible_collections"]
sys.modules["ansible_collections"] = collections
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import process
def on_signal(number, frame):
    raise InterruptedError("told to end")
signal.signal(signal.SIGTERM, on_signal)
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGTERM))
try:
    process.run([sys.executable, "-c", sys.argv[2]], process.Ways(**eval(sys.argv[3])))
except InterruptedError as error:
    print(error)
"""


@pytest.mark.parametrize("ways", [{"to_the_end": True}, {"dies_with_us": True}], ids=str)
def test_a_signal_in_the_moment_in_which_a_program_starts_is_not_lost_nor_is_the_program(
    ways: dict[str, bool], tmp_path: Path
) -> None:
    """One that runs to the end is waited for, the other one is killed."""
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    work = f"open({str(begun)!r}, 'w'); import time; time.sleep({0.1 if 'to_the_end' in ways else 3600})"
    program = f"{work}; open({str(ended)!r}, 'w')"
    argv = [sys.executable, "-c", TOLD_TO_END, str(Path(__file__).resolve().parents[3]), program, repr(ways)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("told to end\n", "")
    assert ended.exists() == ("to_the_end" in ways)
