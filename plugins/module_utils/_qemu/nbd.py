# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads a disk that qemu-nbd serves, byte for byte: QEMU's own tools ask where holes are, and read nothing there.

After the NBD protocol (doc/proto.md of the project NetworkBlockDevice): the fixed newstyle handshake, and requests
that are answered by simple replies. Without structured replies a server has no way to leave holes out.
"""

from __future__ import annotations

import socket
import struct
import typing as t
from contextlib import ExitStack, contextmanager, suppress

from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed

_GREETING = struct.Struct(">8s8sH")
_CHOICE = struct.Struct(">I8sII")  # the flags of the client, and the option that ends the handshake: a name, empty
_EXPORT = struct.Struct(">QH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_FIXED_WITHOUT_ZEROES = 0b11
_EXPORT_NAME = 1
_READ, _DISCONNECT = 0, 2
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698


class ServedDisk:
    """The disk that is served at a Unix socket; *size* is in bytes. One piece is asked for at a time."""

    def __init__(self, path: str) -> None:
        """Raises QemuImgFailed where the server does not serve one."""
        self._asked = 0, 0
        with ExitStack() as broken_off:
            self._socket = broken_off.enter_context(socket.socket(socket.AF_UNIX))
            with _talking():
                self._socket.connect(path)
                self.size = self._shake_hands()
            broken_off.pop_all()

    def __enter__(self) -> ServedDisk:
        return self

    def __exit__(self, *_exception: object) -> None:
        with self._socket, suppress(QemuImgFailed):
            self._send(_DISCONNECT, 0, 0)

    def ask(self, start: int, end: int) -> None:
        """Asks for the bytes from *start* to *end*."""
        self._asked = start, end
        if start < self.size:
            self._send(_READ, start, min(end, self.size) - start)

    def answer(self) -> bytearray:
        """The bytes that were asked for; behind the end of the disk they are zeros. Raises QemuImgFailed."""
        start, end = self._asked
        if start >= self.size:
            return bytearray(end - start)
        magic, error, _handle = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or error:
            raise _failed(f"the read at {start} failed (error {error})")
        return self._receive(min(end, self.size) - start).ljust(end - start, b"\0")

    def _shake_hands(self) -> int:
        magic, option, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != b"NBDMAGIC" or option != b"IHAVEOPT" or flags & _FIXED_WITHOUT_ZEROES != _FIXED_WITHOUT_ZEROES:
            raise _failed("its greeting is unknown")
        self._socket.sendall(_CHOICE.pack(_FIXED_WITHOUT_ZEROES, b"IHAVEOPT", _EXPORT_NAME, 0))
        size: int = _EXPORT.unpack(self._receive(_EXPORT.size))[0]
        return size

    def _send(self, what: int, start: int, length: int) -> None:
        with _talking():
            self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, what, 0, start, length))

    def _receive(self, length: int) -> bytearray:
        found = bytearray(length)
        left = memoryview(found)
        while left:
            with _talking():
                count = self._socket.recv_into(left)
            if not count:
                raise _failed("it hung up")
            left = left[count:]
        return found


@contextmanager
def _talking() -> t.Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failed(str(error)) from error


def _failed(why: str) -> QemuImgFailed:
    return QemuImgFailed(f"the disk that qemu-nbd serves cannot be read: {why}")
