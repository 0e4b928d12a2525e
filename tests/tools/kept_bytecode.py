# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps what Python compiles from zip files, in the checkout's .cache. The checkout's venv imports this at each start.

A module that Ansible sends is a zip file, and zipimport compiles everything in it anew, and twice, in each task: that
is half of what a play of the tests costs. What runs is the same; KVMOPS_COMPILE_ANEW in the environment turns it off,
for whoever measures.
"""

from __future__ import annotations

import _imp
import marshal
import os
import sys
import zipimport
from types import CodeType
from typing import Any

DIRECTORY = os.path.join(os.path.dirname(sys.prefix), ".cache", "bytecode")


def keep_in(directory: str) -> None:
    """From now on, what this process would compile from a zip file is taken from DIRECTORY, or goes there."""
    functions: dict[str, Any] = vars(zipimport)
    compile_anew = functions["_compile_source"]
    give_path = vars(_imp)["_fix_co_filename"]

    def compile_once(path: str, source: bytes) -> CodeType:
        kept = os.path.join(directory, name_of(source))
        code = read(kept)
        if code is None:
            code = compile_anew(path, source)
            write(kept, code)
        give_path(code, path)  # tracebacks name it: each task has a zip file of its own
        return code

    functions["_compile_source"] = compile_once


def name_of(source: bytes) -> str:
    """What the bytecode of SOURCE is called; that of another Python is called otherwise."""
    from importlib.util import source_hash

    return f"{sys.implementation.cache_tag}-{sys.flags.optimize}-{source_hash(source).hex()}-{len(source)}"


def read(kept: str) -> CodeType | None:
    try:
        with open(kept, "rb") as stream:
            code: CodeType = marshal.load(stream)
    except (OSError, EOFError, ValueError, TypeError):
        return None
    return code


def write(kept: str, code: CodeType) -> None:
    """Whoever may not write there goes without."""
    unfinished = f"{kept}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        with open(unfinished, "xb") as stream:
            marshal.dump(code, stream)
        os.replace(unfinished, kept)
    except OSError:
        return


if "KVMOPS_COMPILE_ANEW" not in os.environ:
    keep_in(DIRECTORY)
