# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals a module at an exact point of its run. Python imports this file by itself where it is on PYTHONPATH.

A point is "NAME COUNT": the moment before the COUNTth call (from 1) of a function that changes the world or starts
qemu-img, counted from the first record that the module takes; "record 1" is the moment before that. AT_POINT names the
point and AT_SIGNAL the signal that the process then gets; POINTS names a file that receives the points as they come by.
CONSTANTS are other values of constants, as JSON, by wing and file ("_libvirt.binding"): for waits that are long.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections import Counter
from importlib.machinery import SourceFileLoader
from types import FrameType, ModuleType
from typing import Any

WATCHED = {
    "fsync",
    "link",
    "mkdir",
    "pwrite",
    "rename",
    "unlink",
    "virDomainBlockCommit",
    "virDomainBlockCopy",
    "virDomainBlockJobAbort",
    "virDomainBlockPull",
    "virDomainBlockRebase",
    "virDomainBlockResize",
    "virDomainGetBlockInfo",
    "virDomainCreate",
    "virDomainDefineXMLFlags",
    "virDomainDestroy",
    "virDomainQemuMonitorCommand",
    "virDomainSetMetadata",
    "virDomainRevertToSnapshot",
    "virDomainShutdown",
    "virDomainUndefineFlags",
    "virDomainSnapshotCreateXML",
    "virDomainSnapshotDelete",
}
seen: Counter[str] = Counter()
constants = json.loads(os.environ.get("CONSTANTS", "{}"))
load = SourceFileLoader.exec_module


@functools.cache
def asked(name: str) -> str:
    """What the environment says at the first record: a process may have been begun with another one."""
    return os.environ.get(name, "")


def name_of(function: Any, frame: FrameType) -> str | None:
    name: str | None = getattr(function, "__name__", None)
    if name == "fork_exec":
        arguments = frame.f_locals.get("args") or ["", "?"]
        return f"qemu-img-{arguments[1]}"
    return name if name in WATCHED else None


def on_call(frame: FrameType, event: str, function: Any) -> None:
    name = name_of(function, frame) if event == "c_call" else None
    if name is None:
        return
    seen[name] += 1
    point = f"{name} {seen[name]}"
    if asked("POINTS"):
        sys.setprofile(None)
        with open(asked("POINTS"), "a", encoding="utf-8") as stream:
            stream.write(point + "\n")
        sys.setprofile(on_call)
    if point == asked("AT_POINT"):
        sys.setprofile(None)
        number = signal.Signals[os.environ["AT_SIGNAL"]]
        os.kill(os.getpid(), number)
        if threading.current_thread() is not threading.main_thread() and number != signal.SIGSTOP:
            raise InterruptedError("the signal came before the call, whose caller gets it")


def load_with_constants(loader: SourceFileLoader, module: ModuleType) -> None:
    load(loader, module)
    vars(module).update(constants.get(".".join(module.__name__.split(".")[-2:]), {}))


def on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and not seen and str(arguments[0]).endswith(".kvmops") and arguments[2] & os.O_CREAT:
        seen["record"] = 1
        if asked("AT_POINT") == "record 1":
            os.kill(os.getpid(), signal.Signals[os.environ["AT_SIGNAL"]])
        elif asked("AT_POINT") or asked("POINTS"):
            sys.setprofile(on_call)
            threading.setprofile(on_call)  # for those that are begun later


sys.addaudithook(on_audit)
if constants:
    SourceFileLoader.exec_module = load_with_constants  # type: ignore[method-assign,assignment]
