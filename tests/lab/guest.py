# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A running lab guest, spoken to over its serial console."""

from __future__ import annotations

import base64
import contextlib
import secrets
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import libvirt

if TYPE_CHECKING:
    from lab.hypervisor import Hypervisor


class GuestError(RuntimeError):
    """The guest does not answer, or a command in it failed."""


class Guest:
    """The guest of domain NAME.

    Every command has a connection of its own: the domain may be shut down, started and migrated to another
    QEMU process by anybody in between. QEMU serves one connection at a time, so a second user waits.
    """

    def __init__(self, hv: Hypervisor, name: str) -> None:
        self.hv = hv
        self.name = name

    def wait_ready(self, timeout: float = 300) -> None:
        """Waits until the guest answers."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                # What is typed before the guest listens may be lost, so the question is repeated.
                self.run(":", timeout=max(0.1, deadline - time.monotonic()), ask_every=0.25)
                return
            except GuestError as error:
                if time.monotonic() > deadline:
                    tail = "\n".join(self.console().splitlines()[-15:])
                    raise GuestError(
                        f"{self.name}: the guest is not ready after {timeout:g} s ({error})\n{tail}"
                    ) from None
                time.sleep(0.1)

    def run(self, command: str, timeout: float = 300, ask_every: float | None = None) -> tuple[int, str]:
        """Runs shell COMMAND; returns its exit status and its output (both streams).

        With ASK_EVERY the command is sent again after so many seconds, and then more and more rarely, until it is
        answered: a guest that is slower than the questions come would never be through with them.
        """
        mark = secrets.token_hex(4)
        # The line break in front ends what an earlier connection may have left half said.
        request = f"\n{mark} {base64.b64encode(command.encode()).decode()}\n".encode()
        if len(request) > 4000:
            raise ValueError(f"{self.name}: {len(request)} bytes of command do not pass the guest's terminal (4000)")
        begin, end = f"LAB BEGIN {mark}\n".encode(), f"\nLAB END {mark} ".encode()
        received = b""
        deadline = time.monotonic() + timeout
        ask_again = 0.0
        with contextlib.closing(self._connect(deadline)) as console:
            while True:
                now = time.monotonic()
                if now >= deadline:
                    raise GuestError(
                        f"{self.name}: no answer to `{command}` within {timeout:g} s; it said {received[-400:]!r}"
                    )
                try:
                    if now >= ask_again:
                        console.sendall(request)
                        ask_again = now + ask_every if ask_every else deadline
                        ask_every = min(2 * ask_every, 4) if ask_every else None
                    console.settimeout(max(0.01, min(deadline, ask_again) - now))
                    chunk = console.recv(65536)
                except TimeoutError:
                    continue
                except OSError as error:
                    raise GuestError(f"{self.name}: the console closed during `{command}`: {error}") from None
                if not chunk:
                    raise GuestError(f"{self.name}: the guest went off during `{command}`; it said {received[-400:]!r}")
                received += chunk
                _before, started, answer = received.partition(begin)
                output, ended, status = answer.partition(end)
                if started and ended and b"\n" in status:
                    return int(status.split(b"\n")[0]), output.decode(errors="replace")

    def must(self, command: str, timeout: float = 300) -> str:
        """Runs shell COMMAND, which must succeed; returns its output."""
        status, output = self.run(command, timeout)
        if status:
            raise GuestError(f"{self.name}: `{command}` ended with {status}:\n{output}")
        return output

    def disk_size(self, device: str = "vda") -> int:
        """The size (bytes) of a disk as the guest sees it."""
        return 512 * int(self.must(f"cat /sys/block/{device}/size"))

    def console(self) -> str:
        """Everything that came over the serial console since the domain was defined."""
        try:
            return self.hv.serial(self.name).with_suffix(".log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def wait_off(self, timeout: float = 300) -> None:
        """Waits until the domain is shut off, or gone."""
        deadline = time.monotonic() + timeout
        with contextlib.closing(self.hv.connect()) as connection:
            while True:
                try:
                    if not connection.lookupByName(self.name).isActive():
                        return
                except libvirt.libvirtError as error:
                    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                        return
                    raise
                if time.monotonic() > deadline:
                    raise GuestError(f"{self.name}: still on after {timeout:g} s")
                time.sleep(0.05)

    def _connect(self, deadline: float) -> socket.socket:
        console = socket.socket(socket.AF_UNIX)
        console.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            console.connect(str(self._socket_path()))
        except OSError as error:
            console.close()
            raise GuestError(f"{self.name}: no console: {error}") from None
        return console

    def _socket_path(self) -> Path:
        """Where the lab would have put it, else where the domain says (a clone has its own)."""
        usual = self.hv.serial(self.name)
        if usual.exists():
            return usual
        with contextlib.closing(self.hv.connect()) as connection:
            try:
                tree = ElementTree.fromstring(connection.lookupByName(self.name).XMLDesc())
            except libvirt.libvirtError as error:
                raise GuestError(str(error)) from None
        source = tree.find("devices/serial/source")
        if source is None or not source.get("path"):
            raise GuestError(f"{self.name}: the domain has no serial console on a Unix socket")
        return Path(source.get("path", ""))
