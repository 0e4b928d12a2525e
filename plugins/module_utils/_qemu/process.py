# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only door to other programs: run to their end, under limits, and heard only so far."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
import typing as t
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._signals import let_come, put_off

#: Seconds between two calls of a listener.
LISTEN_SECONDS = 0.5
#: Seconds between two looks at whether a program still moves anything.
WATCH_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 16

#: A program that has ended: args, returncode, stdout, stderr.
Done = subprocess.CompletedProcess[bytes]


class TooLong(Exception):
    """The program did not end in time, and was killed."""


class TooIdle(TooLong):
    """The program moved nothing for too long, and was killed."""


class TooMuch(Exception):
    """The program said more than anybody wants to hear, and was killed."""


@dataclass(frozen=True)
class Limits:
    """What a program may use at most; None is no limit. Memory is counted as address space, in bytes.

    *seconds* count from its start, *idle_seconds* from when it last read, wrote or said anything: for work that takes
    as long as its data needs.
    """

    cpu_seconds: int | None = None
    address_space: int | None = None
    seconds: float | None = None
    idle_seconds: float | None = None


@dataclass(frozen=True)
class Ways:
    """How a program runs.

    *hold* are file descriptors that it keeps open. One that runs *to the end* does so whatever happens to us: it is
    not killed with us, nor where we are told to end, but where it goes beyond its own limits. One that *dies with us*
    is worthless without us. *user*: it runs with the rights of that user and group alone, by their numbers.
    """

    hold: tuple[int, ...] = ()
    to_the_end: bool = False
    dies_with_us: bool = False
    limits: Limits = Limits()
    user: tuple[int, int] | None = None


def run(
    argv: t.Sequence[str],
    ways: Ways,
    *,
    seconds: float | None = None,
    most: int = 1 << 26,
    listen: t.Callable[[bytes], object] | None = None,
) -> Done:
    """Runs *argv* to its end: *seconds* at most, saying *most* bytes at most, on either of its outputs.

    *listen* is told twice a second what it has said so far. Raises TooLong (TooIdle is one), TooMuch; ValueError for
    an argument that no program can be given.
    """
    bounds = [bound for bound in (seconds, ways.limits.seconds) if bound is not None]
    with ExitStack() as whole:
        with _starting(ways):
            process = whole.enter_context(_started(argv, ways))
            cut_short = whole.enter_context(ExitStack())
            cut_short.callback(process.communicate if ways.to_the_end else process.kill)
        try:
            said, complained = _hear_out(process, min(bounds, default=None), ways.limits.idle_seconds, most, listen)
        except (TooLong, TooMuch):
            process.kill()
            raise
        cut_short.pop_all()
    return subprocess.CompletedProcess(argv, process.returncode, said, complained)


@contextmanager
def serving(argv: t.Sequence[str], ways: Ways, ready: t.Callable[[], bool], seconds: float) -> t.Iterator[None]:
    """*argv* at work for the length of the block, which begins as soon as it is *ready*.

    Raises TooLong where that takes more than *seconds*, and ChildProcessError, with what it said, where it ends.
    """
    deadline = time.monotonic() + seconds
    with ExitStack() as whole:
        with _starting(ways):
            process = whole.enter_context(_started(argv, ways))
            whole.callback(process.kill)
        while not ready():
            if process.poll() is not None:
                raise ChildProcessError(process.communicate()[1].decode(errors="replace").strip()[-4000:])
            if time.monotonic() > deadline:
                raise TooLong
            time.sleep(0.005)
        yield


def _starting(ways: Ways) -> AbstractContextManager[None]:
    """Signals come when the program is there and known: one that comes in a fork is lost (Python acts upon it in a hook
    of the fork, whose errors are ignored), and one right after it would leave a program at work that nobody waits for.

    What only looks may be left so, and starts faster.
    """
    return nullcontext() if ways == Ways() else put_off()


def _started(argv: t.Sequence[str], ways: Ways) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # pylint: disable=subprocess-popen-preexec-fn,ansible-bad-function
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(ways.limits),
        pass_fds=ways.hold,
        start_new_session=ways.to_the_end,
        **_identity(ways.user),
        preexec_fn=_preparation(ways),
    )


def _identity(user: tuple[int, int] | None) -> dict[str, t.Any]:
    return {} if user is None else {"user": user[0], "group": user[1], "extra_groups": ()}


def _hear_out(
    process: subprocess.Popen[bytes],
    seconds: float | None,
    idle_seconds: float | None,
    most: int,
    listen: t.Callable[[bytes], object] | None,
) -> tuple[bytes, bytes]:
    """What *process* says and complains until its end."""
    deadline = None if seconds is None else time.monotonic() + seconds
    heard = {process.stdout: bytearray(), process.stderr: bytearray()}
    next_call = time.monotonic() + LISTEN_SECONDS
    watch = _Watch(process.pid, idle_seconds)
    with selectors.DefaultSelector() as talking:
        for stream in heard:
            talking.register(t.cast("t.IO[bytes]", stream), selectors.EVENT_READ)
        while talking.get_map():
            for key, _events in talking.select(_patience(deadline, next_call if listen else None, watch.next_look)):
                chunk = os.read(key.fd, _CHUNK)
                heard[t.cast("t.IO[bytes]", key.fileobj)] += chunk
                if not chunk:
                    talking.unregister(key.fileobj)
            if max(map(len, heard.values())) > most:
                raise TooMuch
            now = time.monotonic()
            if deadline is not None and now > deadline:
                raise TooLong
            watch.look(now, sum(map(len, heard.values())))
            if listen and now >= next_call:
                listen(bytes(heard[process.stdout]))
                next_call = now + LISTEN_SECONDS
    try:
        process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TooLong from None
    return bytes(heard[process.stdout]), bytes(heard[process.stderr])


class _Watch:
    """Whether the program with that *pid* still moves anything, as the kernel counts it (proc(5), /proc/PID/io).

    Processor time is no movement: one that runs in a circle uses it, too. Where the kernel does not tell, all counts
    as movement.
    """

    def __init__(self, pid: int, idle_seconds: float | None) -> None:
        self._counts = f"/proc/{pid}/io"
        self._idle_seconds = idle_seconds
        self._seen: object = None
        self._moved = time.monotonic()
        self.next_look = None if idle_seconds is None else self._moved + min(WATCH_SECONDS, idle_seconds)

    def look(self, now: float, said: int) -> None:
        """Raises TooIdle where nothing has moved for too long; *said* is how many bytes it has said so far."""
        if self._idle_seconds is None or self.next_look is None or now < self.next_look:
            return
        try:
            with open(self._counts, "rb") as stream:
                seen = (stream.read(), said)
        except OSError:
            seen = None
        if seen is None or seen != self._seen:
            self._seen, self._moved = seen, now
        elif now - self._moved > self._idle_seconds:
            raise TooIdle
        self.next_look = now + min(WATCH_SECONDS, self._idle_seconds)


def _patience(*moments: float | None) -> float | None:
    """The seconds until the first of *moments*; None where there is none."""
    known = [moment for moment in moments if moment is not None]
    return max(0.0, min(known) - time.monotonic()) if known else None


def _environment(limits: Limits) -> dict[str, str]:
    """Ours, in the C locale. glibc reserves address space for each thread's heap, which is not meant by a limit."""
    own = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    return {**own, "MALLOC_ARENA_MAX": "2"} if limits.address_space is not None else own


def _preparation(ways: Ways) -> t.Callable[[], object] | None:
    """For the child, before it becomes the program. What it needs is loaded before the fork."""
    if ways == Ways():
        return None
    tasks: list[t.Callable[[], object]] = [let_come]
    if ways.dies_with_us:
        import ctypes  # loaded where something is written

        prctl = ctypes.CDLL(None).prctl
        # killed when the thread that started it ends (prctl(2))
        tasks.append(lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    for name, most in (("CPU", ways.limits.cpu_seconds), ("AS", ways.limits.address_space)):
        if most is not None:
            tasks.append(_limitation(name, most))
    return lambda: [task() for task in tasks]


def _limitation(name: str, most: int) -> t.Callable[[], object]:
    """The setting of a limit: never above the one that we have ourselves."""
    import resource  # loaded where somebody is not trusted

    kind = getattr(resource, f"RLIMIT_{name}")
    own = resource.getrlimit(kind)[1]
    bound = most if own == resource.RLIM_INFINITY else min(most, own)
    return lambda: resource.setrlimit(kind, (bound, bound))
