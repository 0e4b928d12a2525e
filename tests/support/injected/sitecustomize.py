# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals a module at an exact point of its run. Python imports this file by itself where it is on PYTHONPATH.

A point is "NAME COUNT": the moment before the COUNTth call (from 1) of a function that changes the world or starts
qemu-img, counted from the first record that the module takes, or its turn on a domain; "record 1" is the moment before
that. AT_POINT names the
point and AT_SIGNAL the signal that the process then gets; POINTS names a file that receives the points as they come by.
AT_POINT may also be of any other function that is written in C, or "ask-CALL COUNT", before libvirt is asked for that;
in "A > B", B is counted from A on.

CONSTANTS are other values of constants of the library, as JSON, by wing and file ("_libvirt.binding"), for waits that
are too long for a test; AT_CONSTANTS those that hold from AT_POINT on. One that the library does not have is an error.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from importlib.machinery import SourceFileLoader
from types import CodeType, FrameType, ModuleType
from typing import Any
from zipimport import zipimporter

LIBRARY = "ansible_collections.kvmops.disk.plugins.module_utils."
WATCHED = {
    "fsync",
    "link",
    "mkdir",
    "pwrite",
    "rename",
    "unlink",
    "virDomainAttachDeviceFlags",
    "virDomainAbortJob",
    "virDomainBackupBegin",
    "virDomainBlockCommit",
    "virDomainBlockCopy",
    "virDomainBlockJobAbort",
    "virDomainBlockPull",
    "virDomainBlockRebase",
    "virDomainBlockResize",
    "virDomainCheckpointDelete",
    "virDomainGetBlockInfo",
    "virDomainCreate",
    "virDomainDefineXMLFlags",
    "virDomainDestroy",
    "virDomainDetachDeviceFlags",
    "virDomainQemuMonitorCommand",
    "virDomainRevertToSnapshot",
    "virDomainSetBlockIoTune",
    "virDomainSetMetadata",
    "virDomainShutdown",
    "virDomainUndefineFlags",
    "virDomainUpdateDeviceFlags",
    "virDomainSnapshotCreateXML",
    "virDomainSnapshotDelete",
}
#: The function of the library that makes a record, or a turn: its calls are no points of their own.
HOLDS = "_made"
seen: Counter[str] = Counter()
constants: dict[str, dict[str, Any]] = json.loads(os.environ.get("CONSTANTS", "{}"))


@functools.cache
def asked(name: str) -> str:
    """What the environment says at the first record: a process may have been begun with another one."""
    return os.environ.get(name, "")


@functools.cache
def points_left() -> list[str]:
    """Those that are still to come."""
    return asked("AT_POINT").split(" > ")


def name_of(event: str, function: Any, frame: FrameType) -> str | None:
    """Of a call that counts."""
    name = None
    if event == "c_call":
        name = getattr(function, "__name__", None)
        if frame.f_code.co_name == HOLDS:
            return None
        if name == "fork_exec":
            arguments = frame.f_locals.get("args") or ["", "?"]
            return f"qemu-img-{arguments[1]}"
    elif event == "call" and frame.f_code.co_name == "answered":
        name = f"ask-{getattr(frame.f_locals['call'], '__name__', '?')}"
    return name if name in WATCHED or name == points_left()[0].split(" ")[0] else None


def on_call(frame: FrameType, event: str, function: Any) -> None:
    name = name_of(event, function, frame)
    if name is None:
        return
    seen[name] += 1
    point = f"{name} {seen[name]}"
    if asked("POINTS"):
        sys.setprofile(None)
        with open(asked("POINTS"), "a", encoding="utf-8") as stream:
            stream.write(point + "\n")
        sys.setprofile(on_call)
    if point == points_left()[0]:
        come_to(point)


def come_to(point: str) -> None:
    if len(points_left()) > 1:
        points_left().remove(point)
        seen.clear()
        seen["record"] = 1
        return
    sys.setprofile(None)
    for name, values in json.loads(asked("AT_CONSTANTS") or "{}").items():
        set_in(sys.modules[LIBRARY + name], values)
    number = signal.Signals[asked("AT_SIGNAL")]
    before = signal.getsignal(number)
    os.kill(os.getpid(), number)
    if asked("STOPPED_CALLS"):
        import stopped_calls

        stopped_calls.stop_before(asked("STOPPED_CALLS"))
    if threading.current_thread() is not threading.main_thread() and number != signal.SIGSTOP:
        while signal.getsignal(number) is before and not puts_off(number):
            time.sleep(0.001)
        raise InterruptedError("the signal came before the call, whose caller gets it")


def puts_off(number: signal.Signals) -> bool:
    """Whether the main thread, which acts upon signals (and then no more), has put them off until a call is over."""
    with open(f"/proc/self/task/{os.getpid()}/status", encoding="utf-8") as status:
        (blocked,) = (line.split()[1] for line in status if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (number - 1) & 1)


def set_in(module: ModuleType, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name not in vars(module):
            raise LookupError(f"{module.__name__} has no {name}")
        setattr(module, name, value)


def change_constants(loaders: Any) -> None:
    """Has LOADERS load a module as if its source said so: what is made of a constant there is made of its value."""
    load = loaders.exec_module

    def load_changed(loader: Any, module: ModuleType) -> None:
        values = constants.get(module.__name__.removeprefix(LIBRARY))
        if values:
            exec(changed(module, loader.get_source(module.__name__), values), vars(module))
        else:
            load(loader, module)

    loaders.exec_module = load_changed


def changed(module: ModuleType, source: str, values: dict[str, Any]) -> CodeType:
    """The code of MODULE, whose constants have other VALUES than its SOURCE gives them."""
    tree = ast.parse(source)
    unknown = set(values)
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in values:
                statement.value = ast.parse(repr(values[target.id]), mode="eval").body  # type: ignore[attr-defined]
                unknown.discard(target.id)
    if unknown:
        raise LookupError(f"{module.__name__} has no {', '.join(sorted(unknown))}")
    code: CodeType = compile(ast.fix_missing_locations(tree), str(module.__file__), "exec")
    return code


def is_taken(name: str) -> bool:
    """Whether the file of that name is a record, or a turn on a domain."""
    return name.endswith(".kvmops") or "/kvmops.disk/domain-" in name


def on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    if seen or event not in ("open", "os.link"):
        return
    name = arguments[1] if event == "os.link" else arguments[0] if arguments[2] & os.O_CREAT else ""
    if is_taken(str(name)):
        seen["record"] = 1
        if points_left()[0] == "record 1":
            come_to("record 1")
        if asked("AT_POINT") or asked("POINTS"):
            sys.setprofile(on_call)
            threading.setprofile(on_call)  # for those that are begun later


sys.addaudithook(on_audit)
if constants:
    change_constants(SourceFileLoader)
    change_constants(zipimporter)  # of what Ansible sends
