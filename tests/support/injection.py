# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of vm_disk_convert, or of another module, that are disturbed at an exact point (injected/sitecustomize.py)."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from lab import run_module, start_module
from lab.module import RunningModule
from support.processes import is_stopped
from support.waits import send, wait_for

T = TypeVar("T")
INJECTED = Path(__file__).with_name("injected")
MODULE = "vm_disk_convert"


def environment(**settings: str) -> dict[str, str]:
    return {"PYTHONPATH": str(INJECTED), **settings}


def constants(by_file: Mapping[str, Mapping[str, Any]]) -> str:
    """CONSTANTS or AT_CONSTANTS. tests/unit/test_injected_constants.py sees whether the library has them."""
    return json.dumps(by_file)


#: For runs that wait for others, however long those take.
PATIENT = constants({"_files.lock": {"PATIENCE": 3600}, "_task.batch": {"PATIENCE": 3600}})

#: For runs that do not wait for a libvirtd that goes away.
GONE = constants({"_libvirt.line": {"ABSENCE": 0}})


def at_once(module: str, *asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results of runs that begin at once."""
    runs = [start_module(module, params, env=environment(CONSTANTS=PATIENT)) for params in asked]
    return [run.result() for run in runs]


def waiting(params: Mapping[str, Any], *, module: str = MODULE) -> AbstractContextManager[RunningModule]:
    """A run that waits for another one, and has not looked again yet."""
    return paused_at("sleep 1", params, module=module, CONSTANTS=PATIENT)


def points(params: Mapping[str, Any], log: Path, *, module: str = MODULE) -> list[str]:
    """The points of a run, which is carried out."""
    done = run_module(module, params, env=environment(POINTS=str(log)))
    assert done.get("changed"), done
    return log.read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class Share:
    """Every OFth of the points of a run, from one on: a test for each share, as they can run beside each other."""

    first: int
    of: int

    def __str__(self) -> str:
        return f"{self.first + 1} of {self.of}"

    def take(self, found: Sequence[T]) -> list[tuple[int, T]]:
        """Those of FOUND that are in this share, with the number that each has in the whole."""
        return list(enumerate(found))[self.first :: self.of]


def in_shares(of: int) -> pytest.MarkDecorator:
    """Has the test run once for each `share`."""
    return pytest.mark.parametrize("share", [Share(first, of) for first in range(of)], ids=str)


def killed_at(point: str, params: Mapping[str, Any], *, children: bool = False, module: str = MODULE) -> None:
    """Runs the module and kills it at POINT, with CHILDREN together with its qemu-img."""
    run = start_module(module, params, env=environment(AT_POINT=point, AT_SIGNAL="SIGSTOP" if children else "SIGKILL"))
    if children:
        _await_stop(run, point)
    else:
        wait_for(lambda: run.process.poll() is not None, point)
    if run.process.poll() is None or run.process.returncode == -signal.SIGKILL:
        run.kill()
        return
    raise AssertionError(f"it never came to {point}: {run.result()}")


def kill_with_qemu_img(run: RunningModule, qemu_img: int) -> None:
    """As a power failure would: the module first, so that it cannot react, then what it started."""
    send(run.pid, signal.SIGSTOP)
    send(qemu_img, signal.SIGKILL)
    run.kill()


def signalled_at(point: str, name: str, params: Mapping[str, Any], *, module: str = MODULE) -> dict[str, Any]:
    """The result of a run that gets signal NAME at POINT."""
    return start_module(module, params, env=environment(AT_POINT=point, AT_SIGNAL=name)).result()


def signalled_during(point: str, name: str, params: Mapping[str, Any], *, module: str = MODULE) -> dict[str, Any]:
    """The result of a run that gets signal NAME while the call at POINT is under way, and so when it is over."""
    with paused_at(point, params, module=module) as run:
        send(run.pid, signal.Signals[name])
    return run.result()


@contextlib.contextmanager
def paused_at(
    point: str, params: Mapping[str, Any], *, module: str = MODULE, **settings: str
) -> Iterator[RunningModule]:
    """The module, standing still at POINT for the length of the block; it goes on afterwards."""
    run = start_module(module, params, env=environment(AT_POINT=point, AT_SIGNAL="SIGSTOP", **settings))
    _await_stop(run, point)
    assert run.process.poll() is None, f"it never came to {point}: {run.result()}"
    try:
        yield run
    finally:
        with contextlib.suppress(ProcessLookupError):
            send(run.pid, signal.SIGCONT)


def wait_in(run: RunningModule, condition: Callable[[], object], what: str) -> None:
    """Waits for what happens while RUN is at work."""
    wait_for(lambda: run.process.poll() is not None or condition(), what)
    assert run.process.poll() is None, f"it ended before {what}: {run.result()}"


def _await_stop(run: RunningModule, point: str) -> None:
    """Waits until the run stands still at POINT, or has ended without."""
    wait_for(lambda: is_stopped(run.pid) or run.process.poll() is not None, point)
