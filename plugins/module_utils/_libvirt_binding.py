# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The binding to libvirt, loaded when it is first needed, and the one place where its errors become ours."""

from __future__ import annotations

import signal
import traceback
import typing as t
from contextlib import contextmanager

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed, MissingLibrary

#: The binding; loaded with the first connection, since most runs of an image module need none.
libvirt: t.Any = None


def load() -> None:
    """Imports libvirt-python, once. The event loop comes before the first connection, or events never arrive."""
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


def failure(what: str, error: t.Any) -> LibvirtFailed:
    """*error* of libvirt in words of ours. Facts: ``libvirt_code``."""
    return LibvirtFailed(f"{what}: {error.get_error_message()}", libvirt_code=error.get_error_code())


def is_missing_domain(error: DiskError) -> bool:
    """Whether *error* says that a domain, listed a moment ago, is gone."""
    return bool(libvirt is not None and error.facts.get("libvirt_code") == libvirt.VIR_ERR_NO_DOMAIN)


@contextmanager
def without_signals() -> t.Iterator[None]:
    """Keeps signals until the block is over: an exception that a handler raises in a callback would be lost in C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
