# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process that makes a hypervisor's namespaces livable, keeps them, and cleans up when it is no longer wanted.

Started as `unshare … python -m lab.holder PLAN`, already inside of the new namespaces; PLAN is a lab.namespaces.Plan
as JSON. It ends at SIGTERM or, when attached, at the end of its standard input: the kernel closes that pipe with the
process at the other end, however that ended. Then all processes of the namespaces are killed and the state is removed.

It is also the parent of all daemons inside: libvirtd waits until a guest's process is gone for good, and the first
process of a container may take seconds to collect it, or never do so.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from lab.processes import kill_all

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    plan = json.loads(sys.argv[1])
    directory = Path(plan["directory"])
    signals, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # the number arrives through the pipe
    signal.set_wakeup_fd(wake)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        furnish(plan)
        with socket.socket(socket.AF_UNIX) as requests:
            requests.bind(str(directory / "holder.sock"))
            requests.listen()
            (directory / "holder.pid").write_text(str(os.getpid()), encoding="ascii")
            os.write(1, b"ready\n")
            os.close(1)
            serve(plan, requests, signals)
    finally:
        kill_all(directory)
        shutil.rmtree(directory, ignore_errors=True)


def furnish(plan: dict[str, Any]) -> None:
    """Names the host, brings up the loopback device, and does the mounts in order."""
    socket.sethostname(plan["hostname"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    for mount in plan["mounts"]:
        if mount["make_target"]:
            os.makedirs(mount["target"], exist_ok=True)
        subprocess.run(["mount", "--no-mtab", *mount["arguments"], mount["target"]], check=True)


def serve(plan: dict[str, Any], requests: socket.socket, signals: int) -> None:
    """Starts the plan's daemon for everyone who connects, and collects dead processes, until it is time to end."""
    owner = [sys.stdin.fileno()] if plan["attached"] else []
    while True:
        ready, _writable, _exceptional = select.select([requests, signals, *owner], [], [])
        if set(owner) & set(ready):
            return
        if signals in ready and signal.SIGTERM in os.read(signals, 4096):
            return
        collect_dead_children()
        if requests in ready:
            connection, _address = requests.accept()
            with connection:
                # The daemon goes into the background when it is ready; until then it says here what is wrong.
                started = subprocess.run(
                    plan["daemon"],
                    env=plan["environment"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    check=False,
                )
                connection.sendall(json.dumps([started.returncode, started.stdout]).encode())


def collect_dead_children() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    main()
