# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of one module: takes checkout, module and arguments as JSON from its standard input.

As `run_module_process.py DESCRIPTOR CHECKOUT` it is the template of many such processes (see lab.module_template).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

PACKAGE = "ansible_collections.kvmops.disk.plugins.modules."
#: They take longer to be linked than most modules take to do their work.
LIBRARIES = ("libvirt", "lxml.etree")
#: Those of a message to the template: standard input, output and error, and where it is said how the process fares.
DESCRIPTORS = 4


def main() -> None:
    if len(sys.argv) == 1:
        run(json.load(sys.stdin))
    else:
        descriptor, checkout = sys.argv[1:]
        find_collection(checkout)
        with socket.socket(fileno=int(descriptor)) as template:
            is_copy = serve(template)
        if is_copy:
            with leaving_at_once():
                run(as_asked(json.load(sys.stdin)))


def run(request: dict[str, Any]) -> None:
    """Is the module, from here on."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    find_collection(request["checkout"])

    from ansible.module_utils import basic

    basic._ANSIBLE_ARGS = json.dumps(request["arguments"]).encode()
    # ansible-core 2.19 and later look here for the JSON dialect; earlier ones do not look.
    basic._ANSIBLE_PROFILE = "legacy"
    module = PACKAGE + request["module"]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Ends the process when the module has ended, as Python does, but for its clearing of the memory.

    That would touch, and so copy, each page that the process shares with its template.
    """
    try:
        yield
    except SystemExit as end:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        status = 0 if end.code is None else end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def find_collection(checkout: str) -> None:
    """An ansible_collections package elsewhere on the path would hide the checkout's.

    The folders down to the library are plain packages, as in the file that Ansible makes of a module. To Python they
    would be namespaces, whose places it finds out anew at every import.
    """
    if "ansible_collections" in sys.modules:
        return
    name, place = "ansible_collections", os.path.join(checkout, ".ansible", "collections", "ansible_collections")
    for below in ("kvmops", "disk", "plugins", "module_utils", None):
        package = types.ModuleType(name)
        package.__path__ = [place]
        sys.modules[name] = package
        if below is not None:
            name, place = f"{name}.{below}", os.path.join(place, below)


class Copies:
    """The processes that were made, by the sockets where it is said how they ended."""

    def __init__(self) -> None:
        self.by_socket: dict[int, int] = {}
        self._told: set[int] = set()
        self._left_alone: set[int] = set()

    def tell_who_ended(self) -> None:
        """A process that has ended is there, as a zombie, until that was heard."""
        for status, process in self.by_socket.items():
            ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended and process not in self._told:
                self._told.add(process)
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it
                    os.write(status, b"%d\n" % code)
        for process in [*self._left_alone]:
            self._reap(process)

    def give_up(self, status: int) -> None:
        """Whoever asked for the process has heard how it ended, or does not want to."""
        self._reap(self.by_socket.pop(status))
        os.close(status)

    def _reap(self, process: int) -> None:
        """Collects the process, now or when it has ended."""
        if os.waitpid(process, os.WNOHANG)[0]:
            self._left_alone.discard(process)
            self._told.discard(process)
        else:
            self._left_alone.add(process)


def serve(template: socket.socket) -> bool:
    """Makes a process for each message; true in such a process, false when nobody is left who could want one."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # it arrives through the pipe
    copies = Copies()
    while True:
        ready, _writable, _exceptional = select.select([template.fileno(), woken, *copies.by_socket], [], [])
        for status in {*copies.by_socket} & {*ready}:
            copies.give_up(status)
        if woken in ready:
            os.read(woken, 4096)
            copies.tell_who_ended()
        if template.fileno() in ready:
            module, descriptors, _flags, _address = socket.recv_fds(template, 1000, DESCRIPTORS)
            if not module:
                return False
            load(module.decode())
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                become(descriptors, [woken, wake, *copies.by_socket])
                return True
            *standard, status = descriptors
            for descriptor in standard:
                os.close(descriptor)
            copies.by_socket[status] = process


def load(name: str) -> None:
    """Imports what the module imports; it is itself loaded anew in its process."""
    for imported in (PACKAGE + name, *LIBRARIES):
        with contextlib.suppress(ImportError):  # as it will say itself
            importlib.import_module(imported)
    sys.modules.pop(PACKAGE + name, None)
    gc.freeze()  # the copies share the memory as long as they leave it alone


def become(descriptors: list[int], others: list[int]) -> None:
    """A process of its own: with a session, the standard streams, and nothing else that is open."""
    os.setsid()
    *standard, status = descriptors
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    os.write(status, b"%d\n" % os.getpid())
    for descriptor in (*descriptors, *others):
        os.close(descriptor)


def as_asked(request: dict[str, Any]) -> dict[str, Any]:
    """Takes over the environment and the limits of who asked."""
    os.environ.clear()
    os.environ.update(request["environment"])
    for limit, (soft, hard) in request["limits"].items():
        resource.setrlimit(int(limit), (soft, hard))
    return request


main()
