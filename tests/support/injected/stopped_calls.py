# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has the kernel stop a process before some of its system calls (seccomp(2)), for whoever traces it (../swapper.py)."""

from __future__ import annotations

import ctypes
import os
import struct

_SET_SECCOMP, _BY_FILTER = 22, 2  # prctl(2)
_LOAD, _UNLESS_EQUAL, _RETURN = 0x20, 0x15, 0x06
_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000
_STATEMENT = struct.Struct("=HBBI")


def stop_before(calls: str) -> None:
    """Before those of the kind CALLS, numbered as the kernel does, or "all"; this thread, and all that it starts."""
    trace = _STATEMENT.pack(_RETURN, 0, 0, _TRACE)
    program = trace
    if calls != "all":
        kind = _STATEMENT.pack(_LOAD, 0, 0, 0) + _STATEMENT.pack(_UNLESS_EQUAL, 0, 1, int(calls))
        program = kind + trace + _STATEMENT.pack(_RETURN, 0, 0, _ALLOW)
    statements = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("@HP", len(program) // _STATEMENT.size, ctypes.addressof(statements))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, _BY_FILTER, whole, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
