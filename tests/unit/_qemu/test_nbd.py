# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a server of disks may say: the real qemu-nbd, and ones that break off or are something else."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.nbd import ServedDisk

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + struct.pack(">H", 3)
BROKEN_OFF = "it hung up|Connection reset by peer|Broken pipe"
EXPORT = struct.pack(">QH", 4096, 1)


def serve(path: Path, talk: Callable[[socket.socket], object]) -> threading.Thread:
    """Talks with the first who comes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def answer() -> None:
        with listener, listener.accept()[0] as connection:
            talk(connection)

    server = threading.Thread(target=answer)
    server.start()
    return server


def read(path: Path, start: int = 0, end: int = 512) -> bytes:
    with ServedDisk(str(path)) as disk:
        disk.ask(start, end)
        return bytes(disk.answer())


def test_what_qemu_serves_is_read_and_there_are_zeros_behind_its_end(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(random.Random(1).randbytes(8192))
    with _door.find().served(str(disk), "raw") as socket_path:
        path = Path(socket_path)
        assert read(path, 512, 4096) == disk.read_bytes()[512:4096]
        assert read(path, 8000, 9000) == disk.read_bytes()[8000:] + bytes(808)
        assert read(path, 10000, 10100) == bytes(100)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "its greeting is unknown"),
        ((b"NBDMAGIC" + bytes(10),), "its greeting is unknown"),
        ((b"NBDM",), "it hung up"),
        ((GREETING,), BROKEN_OFF),
        ((GREETING, EXPORT), BROKEN_OFF),
        ((GREETING, EXPORT, struct.pack(">IIQ", 0x67446698, 5, 0)), r"the read at 0 failed \(error 5\)"),
        ((GREETING, EXPORT, struct.pack(">IIQ", 0x668E33EF, 0, 0)), "the read at 0 failed"),
        ((GREETING, EXPORT, struct.pack(">IIQ", 0x67446698, 0, 0) + bytes(100)), "it hung up"),
    ],
)
def test_a_server_that_breaks_off_or_is_none_is_an_error(tmp_path: Path, said: tuple[bytes, ...], why: str) -> None:
    def talk(connection: socket.socket) -> None:
        for number, words in enumerate(said):
            if number:
                connection.recv(64)
            connection.sendall(words)

    server = serve(tmp_path / "s", talk)
    with pytest.raises(QemuImgFailed, match=why):
        read(tmp_path / "s")
    server.join()


def test_where_nobody_serves_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(QemuImgFailed, match="No such file or directory"):
        read(tmp_path / "nothing")
