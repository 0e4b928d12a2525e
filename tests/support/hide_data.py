# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Becomes the program of its arguments, to which lseek(2) says of each file that nothing but a hole is left in it.

The kernel answers so for it: a filter of seccomp(2) has each look for data fail as it does behind the last data.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

LSEEK = {"x86_64": 8, "aarch64": 62}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
#: Offsets in struct seccomp_data: the number of the call, and the lower half of its third argument.
NUMBER, WHENCE = 0, 32


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def hide_data() -> None:
    program = b"".join(
        (
            instruction(LOAD, NUMBER),
            instruction(JUMP_IF_EQUAL, LSEEK[platform.machine()], 0, 3),
            instruction(LOAD, WHENCE),
            instruction(JUMP_IF_EQUAL, os.SEEK_DATA, 0, 1),
            instruction(RETURN, FAIL | errno.ENXIO),
            instruction(RETURN, ALLOW),
        )
    )
    code = ctypes.create_string_buffer(program, len(program))
    filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filters)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "the filter was not taken")


hide_data()
os.execv(sys.argv[1], sys.argv[1:])
