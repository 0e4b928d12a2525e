# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an image is after each single write of qemu-img: its writes are recorded, and done again one by one.

QEMU's driver blklogwrites writes a log like that of the kernel's dm-log-writes: a sector that says what it is, then for
each write a sector with its place and length, followed by its data.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
NOT_A_WRITE = 1 | 4 | 8  # a flush, a discard, a mark
PAGE = 4096


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


def writes_of(image: Path, *verb: str, key: Path | None = None, size: str | None = None) -> list[Write]:
    """The writes of `qemu-img VERB` on IMAGE, which has been worked on afterwards; SIZE is what a resize ends with.

    KEY holds the secret of an encrypted image. A write of several pages is as many: a process that is killed may have
    written some of them.
    """
    log = image.with_name(image.name + ".log")
    log.touch()
    options = (
        f"driver=qcow2,file.driver=blklogwrites,file.file.driver=file,file.file.filename={image},"
        f"file.log.driver=file,file.log.filename={log}"
    )
    argv = ["qemu-img", verb[0]]
    if key is not None:
        argv += ["--object", f"secret,id=s,file={key}"]
        options += ",encrypt.key-secret=s"
    argv += [*verb[1:], "--image-opts", options, *([size] if size else [])]
    subprocess.run(argv, check=True, capture_output=True)
    found = list(_parsed(log.read_bytes()))
    log.unlink()
    return found


def _parsed(log: bytes) -> Iterator[Write]:
    magic, _version, entries, size = struct.unpack_from("<QQQI", log)
    assert (magic, size) == (0x6A736677736872, SECTOR)
    at = SECTOR
    for _entry in range(entries):
        sector, sectors, flags, _length = struct.unpack_from("<QQQQ", log, at)
        at += SECTOR
        if sectors and not flags & NOT_A_WRITE:
            data = log[at : at + sectors * SECTOR]
            yield from (
                Write(sector * SECTOR + start, data[start : start + PAGE]) for start in range(0, len(data), PAGE)
            )
            at += sectors * SECTOR


def replay(before: Path, writes: list[Write], image: Path) -> None:
    """Makes IMAGE what BEFORE is after WRITES."""
    shutil.copyfile(before, image)
    with image.open("r+b") as stream:
        for write in writes:
            stream.seek(write.offset)
            stream.write(write.data)


def cut_short(image: Path, *verb: str, size: str | None = None) -> None:
    """Leaves IMAGE as `qemu-img VERB` does that is killed after half of its writes."""
    with tempfile.TemporaryDirectory(prefix="kvmops-writes-") as directory:
        before, worked = (Path(shutil.copyfile(image, Path(directory) / name)) for name in ("before", "worked"))
        writes = writes_of(worked, *verb, size=size)
        replay(before, writes[: len(writes) // 2], image)
