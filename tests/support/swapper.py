# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another user who exchanges names exactly around the system calls of a run, and of the programs that it starts.

    python swapper.py PID DIRECTORY RESERVED WANTED FIRST LOG

Stops the process PID, and whatever it starts, at each system call (ptrace). A call counts if one of its arguments is a
name in DIRECTORY, or below one of the process's open files. WANTED is the number of a call, as the kernel counts them:
right before each such call, from the one with the number FIRST on, everything in DIRECTORY gives way to links into
RESERVED, and right after it all is as it was. So what a run looks at between those calls is in order. LOG receives the
numbers of all calls that counted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.other_users import Ground

if TYPE_CHECKING:
    from lab.module import RunningModule

# ptrace(2)
_SYSCALL, _SEIZE, _INTERRUPT, _LISTEN, _SYSCALL_INFO = 24, 0x4206, 0x4207, 0x4208, 0x420E
_MARKED, _FORK, _VFORK, _CLONE, _EXEC, _DIE_WITH_US = 1, 2, 4, 8, 16, 1 << 20
_OPTIONS = _MARKED | _FORK | _VFORK | _CLONE | _EXEC | _DIE_WITH_US
_STOP = 128
_ALL = 0x40000000  # waitpid(2): __WALL
_ENTRY = 1
_INFO = struct.Struct("=B3xIQQ7Q")
_LONGEST, _FIRST_PAGE = 512, 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Calls:
    """The system calls with the number KIND, from the one with the number FIRST on, from 0; none at all by default."""

    kind: int = -1
    first: int = 0


def start_swapper(run: RunningModule, ground: Ground, log: Path, calls: Calls) -> subprocess.Popen[bytes]:
    """Exchanges names around CALLS of RUN, which stands still; it ends with what RUN has started."""
    places = [str(ground.directory), str(ground.reserved)]
    argv = [sys.executable, __file__, str(run.pid), *places, str(calls.kind), str(calls.first), str(log)]
    swapper = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert swapper.stdout is not None
    with swapper.stdout as said:
        assert said.readline() == b"ready\n"
    return swapper


def calls_in(log: Path, step: int) -> list[Calls]:
    """All kinds of calls in LOG, each from the first on, and from every STEPth on."""
    found = Counter(map(int, log.read_text(encoding="ascii").split()))
    return [Calls(kind, first) for kind, count in sorted(found.items()) for first in range(0, count, step)]


class _Swapper:
    def __init__(self, ground: Ground, wanted: Calls, log: Path) -> None:
        self._ground = ground
        self._wanted = wanted
        self._met = 0
        self._log = log.open("a", encoding="ascii")
        self._names = (os.fsencode(ground.directory) + b"/", b"/proc/self/fd/")
        self._in_call: set[int] = set()

    def follow(self, first: int) -> None:
        """Lets FIRST go on, and follows it and what it starts to their ends."""
        _ptrace(_SEIZE, first, _OPTIONS)
        _ptrace(_INTERRUPT, first)
        print("ready", flush=True)
        while True:
            try:
                pid, status = os.waitpid(-1, _ALL)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(status):
                self._go_on(pid, os.WSTOPSIG(status), status >> 16)
            else:
                self._leave(pid)
        self._log.close()

    def _go_on(self, pid: int, number: int, event: int) -> None:
        if event == _STOP and number in (signal.SIGSTOP, signal.SIGTSTP):
            _ptrace(_LISTEN, pid)
            return
        is_call = number == signal.SIGTRAP | 0x80
        if is_call:
            self._at_call(pid)
        is_ours = is_call or event or number == signal.SIGTRAP
        _ptrace(_SYSCALL, pid, 0 if is_ours else number)

    def _at_call(self, pid: int) -> None:
        buffer = ctypes.create_string_buffer(_INFO.size)
        _ptrace(_SYSCALL_INFO, pid, ctypes.addressof(buffer), _INFO.size)
        kind, _arch, _ip, _sp, number, *arguments = _INFO.unpack(buffer.raw)
        if kind != _ENTRY:
            self._leave(pid)
        elif self._counts(pid, arguments):
            self._log.write(f"{number}\n")
            if number == self._wanted.kind:
                self._met += 1
                if self._met > self._wanted.first:
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


def main() -> None:
    pid, directory, reserved, kind, first, log = sys.argv[1:]
    ground = Ground(Path(directory), Path(reserved))
    _Swapper(ground, Calls(int(kind), int(first)), Path(log)).follow(int(pid))


if __name__ == "__main__":
    main()
