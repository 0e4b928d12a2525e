# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirtd behind a socket that keeps its answers back when it is told so: what was asked for is done, and unsaid."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from lab import Hypervisor


class Between:
    """Passes on what clients say to libvirtd, and its answers until they are withheld."""

    def __init__(self, hv: Hypervisor, listener: socket.socket) -> None:
        self.uri = f"qemu+unix:///system?socket={listener.getsockname()}"
        self._hv, self._listener = hv, listener
        self._withheld = False
        threading.Thread(target=self._serve, daemon=True).start()

    def withhold(self) -> None:
        """From now on no client gets an answer; each is cut off when libvirtd is."""
        self._withheld = True

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                client, _address = self._listener.accept()
                libvirtd = socket.socket(socket.AF_UNIX)
                libvirtd.connect(str(self._hv.socket))
                for way in ((client, libvirtd, lambda: True), (libvirtd, client, lambda: not self._withheld)):
                    threading.Thread(target=_pass_on, args=way, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, may_pass: Callable[[], bool]) -> None:
    with contextlib.suppress(OSError):
        while said := source.recv(1 << 16):
            if may_pass():
                target.sendall(said)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def between(hv: Hypervisor) -> Iterator[Between]:
    path = hv.directory / "between"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield Between(hv, listener)
    path.unlink()
