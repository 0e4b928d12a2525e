# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The binding to libvirt, loaded when it is first needed, and the one place where its errors become ours."""

from __future__ import annotations

import threading
import traceback
import typing as t
from contextlib import contextmanager, suppress

from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    LibvirtFailed,
    MissingLibrary,
    NoAnswer,
)
from ansible_collections.kvmops.disk.plugins.module_utils._signals import put_off

#: The binding; loaded with the first connection, since most runs of an image module need none.
libvirt: t.Any = None

#: Seconds that a call gets which takes a fraction of one: Linux, too, says of a task that it hangs after as many.
PATIENCE = 120.0
#: Seconds to find out why something takes too long.
AT_ONCE = 5.0
#: libvirtd is asked every so many seconds whether it is there, and so many times, before it counts as gone.
KEEPALIVE = (10, 6)
_Answer = t.TypeVar("_Answer")


def load() -> None:
    """Imports libvirt-python, once.

    The event loop comes before the first connection, or events never arrive. It has a thread of its own: libvirtd asks
    every few seconds whether we are there, and takes us for dead after half a minute without an answer.
    """
    global libvirt  # pylint: disable=global-statement
    if libvirt is not None:
        return
    try:
        import libvirt as binding
    except ImportError as error:
        raise MissingLibrary("libvirt-python", "to speak with libvirt", traceback.format_exc()) from error
    binding.registerErrorHandler(lambda _context, _error: None, None)  # errors arrive as exceptions, not on stderr too
    binding.virEventRegisterDefaultImpl()
    libvirt = binding
    with put_off():  # which are for the main thread
        threading.Thread(target=_serve_events, daemon=True).start()


def _serve_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def connect(uri: str, *, readonly: bool, seconds: float | None = None) -> t.Any:
    """A connection that ends where libvirtd is silent for too long. Raises libvirtError, and NoAnswer."""
    opened = answered(libvirt.openReadOnly if readonly else libvirt.open, uri, seconds=seconds)
    with suppress(libvirt.libvirtError):  # a driver without a daemon has nobody to ask
        opened.setKeepAlive(*KEEPALIVE)
    return opened


def monitor() -> t.Any:
    """The part of libvirt-python that speaks with QEMU's monitor."""
    try:
        import libvirt_qemu
    except ImportError as error:
        reason = "to ask QEMU for what libvirt does not tell (its module libvirt_qemu)"
        raise MissingLibrary("libvirt-python", reason, traceback.format_exc()) from error
    return libvirt_qemu


@contextmanager
def translated(what: str) -> t.Iterator[None]:
    """Raises what libvirt refuses in the block as LibvirtFailed, with *what* before libvirt's own words."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise failure(what, error) from error
    except NoAnswer as error:
        raise NoAnswer(f"{what}: {error}", **error.facts) from error


def failure(what: str, error: t.Any) -> LibvirtFailed:
    """*error* of libvirt in words of ours. Facts: ``libvirt_code``."""
    return LibvirtFailed(f"{what}: {error.get_error_message()}", libvirt_code=error.get_error_code())


def is_missing_domain(error: DiskError) -> bool:
    """Whether *error* says that a domain, listed a moment ago, is gone."""
    return bool(libvirt is not None and error.facts.get("libvirt_code") == libvirt.VIR_ERR_NO_DOMAIN)


def is_silent_agent(error: DiskError) -> bool:
    """Whether *error* says that the guest agent does not answer. It may still do what it was asked for."""
    names = ("VIR_ERR_AGENT_UNRESPONSIVE", "VIR_ERR_AGENT_UNSYNCED", "VIR_ERR_AGENT_COMMAND_TIMEOUT")
    known = [getattr(libvirt, name) for name in names if hasattr(libvirt, name)]
    return error.facts.get("libvirt_code") in known


def answered(
    call: t.Callable[..., _Answer],
    *arguments: t.Any,
    seconds: float | None = None,
    silent: t.Callable[[], str] = lambda: "libvirt does not answer",
) -> _Answer:
    """What *call* answers, for which *seconds* (or PATIENCE) are waited: libvirt itself waits for QEMU for ever.

    Raises NoAnswer, with what *silent* says of it, and libvirtError as the call does. The call goes on then. A signal
    comes after it, as it is too late to take it back.
    """
    limit = PATIENCE if seconds is None else seconds
    asked = _Call(call, arguments)
    with put_off():
        asked.start()
        asked.join(limit)
        if asked.is_alive():
            raise NoAnswer(
                f"waited {limit:g} s for an answer: {silent()}: it may still do what was asked: run again when it "
                "answers: that run finishes the work"
            )
    if asked.error is not None:
        raise asked.error
    return t.cast(_Answer, asked.answer)


def asked_about(
    domain: t.Any, call: t.Callable[..., _Answer], *arguments: t.Any, seconds: float | None = None
) -> _Answer:
    """What *call* answers, for which libvirt may have to ask the QEMU of *domain*. Raises NoAnswer, and libvirtError.

    libvirt itself gives up, after half a minute, where another call waits for that QEMU already.
    """
    try:
        return answered(call, *arguments, seconds=seconds, silent=lambda: _who_is_silent(domain))
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_TIMEOUT:
            raise
        reason = f"{_who_is_silent(domain)}: run again when it answers: {error.get_error_message()}"
        raise NoAnswer(reason) from error


def _who_is_silent(domain: t.Any) -> str:
    """Whom a call waits for that is not answered: libvirt says what QEMU owes it without asking that."""
    try:
        state, _detail, milliseconds = answered(domain.controlInfo, 0, seconds=AT_ONCE)
    except (NoAnswer, libvirt.libvirtError):
        return "libvirt does not answer: see whether libvirtd (or virtqemud) is at work"
    name, seconds = domain.name(), milliseconds / 1000
    where = f"libvirt works on {name} for {seconds:.0f} s already: it needs that time, or "
    if state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED:
        where = f"libvirt waits for QEMU's answer for {seconds:.0f} s already: "
    return f"{where}QEMU of {name} does not answer: see whether its process is stopped, or its storage hangs"


class _Call(threading.Thread):
    """A call in a thread of its own, which nobody waits for at the end."""

    def __init__(self, call: t.Callable[..., t.Any], arguments: tuple[t.Any, ...]) -> None:
        super().__init__(daemon=True)
        self._call, self._arguments = call, arguments
        self.answer: t.Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        with self:
            self.answer = self._call(*self._arguments)

    def __enter__(self) -> None:
        """An error in the call is kept for whoever waits for it."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        self.error = error
        return True
