# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another user who exchanges names exactly around the system calls of a run, and of the programs that it starts.

A call counts if one of its arguments is a name in the tenant's directory, or below one of the process's open files.
Calls are told apart by their kinds, numbered as the kernel does: right before each call of the wanted kind, from the
one with the number FIRST on, everything in the directory gives way to links into what is root's, and right after it
all is as it was. So what a run looks at between those calls is in order.

The run has the kernel stop it before such calls only (injected/stopped_calls.py), and so do the programs that it
starts. A thread of this process traces them (ptrace), as everything that is asked of ptrace has to come from one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from support.injection import constants, paused_at
from support.other_users import Ground

# ptrace(2)
_CONT, _SYSCALL, _SEIZE, _LISTEN, _SYSCALL_INFO = 7, 24, 0x4206, 0x4208, 0x420E
_MARKED, _FORK, _VFORK, _CLONE, _EXEC, _SECCOMP, _DIE_WITH_US = 1, 2, 4, 8, 16, 1 << 7, 1 << 20
_OPTIONS = _MARKED | _FORK | _VFORK | _CLONE | _EXEC | _SECCOMP | _DIE_WITH_US
_BEFORE_CALL, _STOP = 7, 128
_AFTER_CALL = signal.SIGTRAP | 0x80
_INFO = struct.Struct("=B3xIQQ7Q")
# waitpid(2): __WALL, __WNOTHREAD
_OURS = 0x40000000 | 0x20000000
_LONGEST, _FIRST_PAGE = 512, 1 << 16
_SECONDS = 300
#: A record that is exchanged at every look is taken for one of another run, which would be waited for.
_IMPATIENT = constants({"_files.lock": {"PATIENCE": 0.5}})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Calls:
    """The system calls with the number KIND, from the one with the number FIRST on, from 0."""

    kind: int
    first: int = 0


@dataclass(frozen=True)
class Exchanged:
    """A run, with the kinds of those of its calls that counted, as they came."""

    result: dict[str, Any]
    met: list[int]

    def calls(self, step: int) -> list[Calls]:
        """All kinds of calls that were met, each from the first on, and from every STEPth on."""
        found = sorted(Counter(self.met).items())
        return [Calls(kind, first) for kind, count in found for first in range(0, count, step)]


def exchanged_around(calls: Calls | None, ground: Ground, module: str, params: Mapping[str, Any]) -> Exchanged:
    """Runs MODULE, and exchanges the names in GROUND around CALLS; around none where there are none, to meet all."""
    stopped = "all" if calls is None else str(calls.kind)
    swapper = _Swapper(ground, calls)
    with ThreadPoolExecutor(1) as tracer:
        settings = {"STOPPED_CALLS": stopped, "CONSTANTS": _IMPATIENT}
        with paused_at("record 1", params, module=module, **settings) as run:
            tracer.submit(swapper.seize, run.pid).result()
        try:
            tracer.submit(swapper.follow).result(_SECONDS)
        except BaseException:
            run.kill()
            raise
    return Exchanged(run.result(), swapper.met)


class _Swapper:
    def __init__(self, ground: Ground, wanted: Calls | None) -> None:
        self.met: list[int] = []
        self._ground = ground
        self._wanted = wanted
        self._names = (os.fsencode(ground.directory) + b"/", b"/proc/self/fd/")
        self._in_call: set[int] = set()

    def seize(self, pid: int) -> None:
        """Begins to trace PID, which stands still, and what it will start."""
        _ptrace(_SEIZE, pid, _OPTIONS)

    def follow(self) -> None:
        """Traces until all have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, _OURS)
            except ChildProcessError:
                return
            if os.WIFSTOPPED(status):
                self._go_on(pid, os.WSTOPSIG(status), status >> 16)
            else:
                self._leave(pid)

    def _go_on(self, pid: int, number: int, event: int) -> None:
        if event == _STOP and number in (signal.SIGSTOP, signal.SIGTSTP):
            _ptrace(_LISTEN, pid)
            return
        if event == _BEFORE_CALL:
            self._at_call(pid)
        elif number == _AFTER_CALL:
            self._leave(pid)
        is_ours = event or number in (signal.SIGTRAP, _AFTER_CALL)
        _ptrace(_SYSCALL if pid in self._in_call else _CONT, pid, 0 if is_ours else number)

    def _at_call(self, pid: int) -> None:
        buffer = ctypes.create_string_buffer(_INFO.size)
        _ptrace(_SYSCALL_INFO, pid, ctypes.addressof(buffer), _INFO.size)
        _op, _arch, _ip, _sp, kind, *arguments = _INFO.unpack(buffer.raw)
        if self._counts(pid, arguments):
            self.met.append(kind)
            if self._wanted and len(self.met) > self._wanted.first:
                self._enter(pid)

    def _enter(self, pid: int) -> None:
        if not self._in_call:
            self._ground.exchange_all()
        self._in_call.add(pid)

    def _leave(self, pid: int) -> None:
        if pid in self._in_call:
            self._in_call.discard(pid)
            if not self._in_call:
                self._ground.put_all_back()

    def _counts(self, pid: int, arguments: list[int]) -> bool:
        own = (*self._names, b"/proc/%d/fd/" % pid)
        return any(text.startswith(own) for text in _texts(pid, arguments))


def _texts(pid: int, arguments: list[int]) -> Iterator[bytes]:
    """What stands where those of ARGUMENTS that may be addresses point to."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for address in arguments:
            if _FIRST_PAGE < address < 1 << 62:
                with suppress(OSError, ValueError):
                    memory.seek(address)
                    yield memory.read(_LONGEST).split(b"\0")[0]


def _ptrace(request: int, pid: int, data: int = 0, address: int = 0) -> None:
    """A process may be killed at any moment, so that this fails: then waitpid tells of it."""
    _libc.ptrace(request, pid, address, data)
