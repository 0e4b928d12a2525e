# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that a guest or a stranger may hand to us, for the tests of every module that opens images.

What they point to is a canary: a file with a secret, a directory, and a port at which somebody listens. Whoever opens
one of them was led there.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.tree import tree_state
from support.foreign import make_foreign
from support.watched import opened_files
from unit.qcow2_header import BACKING_FORMAT, CORRUPT, DATA_FILE, EXTERNAL_DATA, Made, snapshot

KIB, MIB, PIB = 1 << 10, 1 << 20, 1 << 50
SECRET = b"root:$6$the-secret-of-the-victim:19000:0:99999:7:::\n"
READ_ONLY = ("bochs", "cloop", "dmg")
FORMATS = ("qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels")


class Canary:
    """What no hostile image may lead to, below DIRECTORY."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.file = directory / "shadow"
        self.file.write_bytes(SECRET * 2000)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]

    @contextmanager
    def untouched(self, *, unopened: bool = True) -> Iterator[None]:
        """Asserts that the block neither opens the file (if UNOPENED), nor writes there, nor calls at the port."""
        before = tree_state(self.directory)
        with opened_files(self.file) as opened:
            yield
        assert not (unopened and opened), "the victim was opened"
        assert tree_state(self.directory) == before, "the victim was written to"
        try:
            self._listener.accept()
        except BlockingIOError:
            return
        raise AssertionError("a connection was made")

    def close(self) -> None:
        self._listener.close()


@dataclass(frozen=True)
class Hostile:
    """An image, and the format that a task would say it has."""

    name: str
    path: Path
    format: str


Maker = Callable[[Path, Canary], str]
_makers: dict[str, Maker] = {}


def corpus(directory: Path, canary: Canary, *, only: str | None = None) -> list[Hostile]:
    """All of them, or the ONLY one, each in a directory of its own."""
    found = []
    for name, make in _makers.items():
        if only not in (None, name):
            continue
        own = directory / name
        own.mkdir()
        found.append(Hostile(name, own / "disk", make(own / "disk", canary)))
    return found


def flipped(directory: Path, image_format: str, offsets: Iterable[int], seed: int) -> list[Hostile]:
    """Sound images of IMAGE_FORMAT, each with another value in one byte of its beginning, at one of OFFSETS."""
    content = make_sound(directory / f"sound.{image_format}", image_format).read_bytes()
    values = random.Random(seed)
    found = []
    for offset in offsets:
        path = directory / f"flipped {offset}.{image_format}"
        wrong = bytearray(content)
        wrong[offset] ^= values.randrange(1, 256)
        path.write_bytes(wrong)
        found.append(Hostile(f"{image_format} {offset}", path, image_format))
    return found


def make_sound(path: Path, image_format: str) -> Path:
    """An image of 4 MiB, a quarter of which is written."""
    if image_format in READ_ONLY:
        return make_foreign(path, image_format, (b"\x5a" * MIB).ljust(4 * MIB, b"\0"))
    raw = path.with_name(path.name + ".plain")
    raw.write_bytes(b"\x5a" * MIB)
    os.truncate(raw, 4 * MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", image_format, raw, path], check=True)
    raw.unlink()
    return path


def hostile(maker: Maker) -> Maker:
    _makers[maker.__name__] = maker
    return maker


def planted(name: str, reference: Callable[[Canary], str], backing_format: str | None = "raw") -> None:
    """A qcow2 image with REFERENCE as its backing file."""

    def make(path: Path, canary: Canary) -> str:
        extensions = [(BACKING_FORMAT, backing_format.encode())] if backing_format else []
        path.write_bytes(whole(Made(extensions=extensions, backing=reference(canary).encode())))
        return "qcow2"

    make.__name__ = name
    hostile(make)


def whole(made: Made) -> bytes:
    """The header with the tables that it names: one refcount block, an empty L1 table."""
    content = bytearray(bytes(made).ljust(4 * 65536, b"\0"))
    content[65536 : 65536 + 8] = struct.pack(">Q", 2 * 65536)
    content[2 * 65536 : 2 * 65536 + 8] = struct.pack(">4H", 1, 1, 1, 1)
    return bytes(content)


def damaged(name: str, **fields: object) -> None:
    """A qcow2 image whose header has FIELDS."""

    def make(path: Path, _canary: Canary) -> str:
        path.write_bytes(whole(Made(**fields)))  # type: ignore[arg-type]
        return "qcow2"

    make.__name__ = name
    hostile(make)


def patched(name: str, *patches: tuple[int, bytes]) -> None:
    """A sound qcow2 image with other bytes at some offsets."""

    def make(path: Path, _canary: Canary) -> str:
        make_sound(path, "qcow2")
        with path.open("r+b") as stream:
            for offset, content in patches:
                stream.seek(offset)
                stream.write(content)
        return "qcow2"

    make.__name__ = name
    hostile(make)


# --- F1, F3: backing files ---------------------------------------------------------------------------------------

planted("backing_file", lambda canary: str(canary.file))
planted("backing_file_without_format", lambda canary: str(canary.file), None)
planted("backing_file_relative", lambda canary: f"../../{canary.directory.name}/shadow")
planted("backing_file_with_protocol", lambda canary: f"file:{canary.file}")
planted("backing_json", lambda canary: f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{canary.file}"}}}}')
planted("backing_nbd", lambda canary: f"nbd://127.0.0.1:{canary.port}/x")
planted("backing_http", lambda canary: f"http://127.0.0.1:{canary.port}/x")
planted("backing_fat", lambda canary: f"fat:rw:{canary.directory}")


@hostile
def qcow1_backing_file(path: Path, canary: Canary) -> str:
    name = str(canary.file).encode()
    path.write_bytes(
        struct.pack(">4sIQIIQBBHIQ", b"QFI\xfb", 1, 48, len(name), 0, MIB, 12, 9, 0, 0, 4096).ljust(48, b"\0") + name
    )
    os.truncate(path, 64 * KIB)
    return "qcow"


@hostile
def qed_backing_file(path: Path, canary: Canary) -> str:
    name = str(canary.file).encode()
    fields = (b"QED\0", 65536, 4, 1, 1 | 4, 0, 0, 65536, MIB, 64, len(name))
    path.write_bytes(struct.pack("<4sIIIQQQQQII", *fields) + name)
    os.truncate(path, MIB)
    return "qed"


# --- F2: data files ----------------------------------------------------------------------------------------------


@hostile
def data_file(path: Path, canary: Canary) -> str:
    path.write_bytes(whole(Made(incompatible=EXTERNAL_DATA, extensions=[(DATA_FILE, str(canary.file).encode())])))
    return "qcow2"


@hostile
def raw_data_file(path: Path, canary: Canary) -> str:
    made = Made(incompatible=EXTERNAL_DATA, extensions=[(DATA_FILE, str(canary.file).encode())])
    content = bytearray(whole(made))
    content[88:96] = struct.pack(">Q", 2)  # autoclear: the data file is valid as a raw image
    path.write_bytes(content)
    return "qcow2"


@hostile
def raw_disk_that_looks_like_an_overlay(path: Path, canary: Canary) -> str:
    extensions = [(BACKING_FORMAT, b"raw")]
    path.write_bytes(whole(Made(extensions=extensions, backing=str(canary.file).encode())))
    return "raw"


damaged("data_file_without_name", incompatible=EXTERNAL_DATA)


# --- F4: chains --------------------------------------------------------------------------------------------------


def overlay_with(path: Path, reference: str, backing_format: str) -> Path:
    """A qcow2 image at PATH that reads REFERENCE, whatever that is."""
    path.write_bytes(whole(Made(extensions=[(BACKING_FORMAT, backing_format.encode())], backing=reference.encode())))
    return path


def overlay(path: Path, below: Path) -> None:
    overlay_with(path, str(below), "qcow2")


@hostile
def circle_of_one(path: Path, _canary: Canary) -> str:
    overlay(path, path)
    return "qcow2"


@hostile
def circle_of_two(path: Path, _canary: Canary) -> str:
    overlay(path, path.with_name("below"))
    overlay(path.with_name("below"), path)
    return "qcow2"


@hostile
def chain_of_seventy(path: Path, _canary: Canary) -> str:
    overlay(path, path.with_name("1"))
    for number in range(1, 70):
        overlay(path.with_name(str(number)), path.with_name(str(number + 1)))
    path.with_name("70").write_bytes(whole(Made()))
    return "qcow2"


# --- F5: extents and parents of VMDK -----------------------------------------------------------------------------

DESCRIPTOR = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'


def descriptor(name: str, lines: Callable[[Canary], str]) -> None:
    def make(path: Path, canary: Canary) -> str:
        os.link(canary.file, path.with_name("sibling"))
        path.write_text(DESCRIPTOR + lines(canary) + "\n", encoding="ascii")
        return "vmdk"

    make.__name__ = name
    hostile(make)


descriptor("extent_elsewhere", lambda canary: f'RW 100 FLAT "{canary.file}" 0')
descriptor("extent_beside", lambda _canary: 'RW 100 FLAT "sibling" 0')
descriptor("extent_without_spaces", lambda canary: f'RW 100FLAT "{canary.file}" 0')
descriptor("extent_over_lines", lambda canary: f'RW\n100\nVMFSSPARSE"{canary.file}"')
descriptor("extent_by_protocol", lambda canary: f'RW 100 FLAT "nbd://127.0.0.1:{canary.port}/x" 0')
descriptor("parent_elsewhere", lambda canary: f'parentFileNameHint="{canary.file}"')
descriptor("extent_text_of_blanks", lambda _canary: " \n" * 400_000)


def sparse_vmdk(capacity: int, text: str, sector: int) -> bytes:
    head = struct.pack("<4sIIQQQQIQQQ", b"KDMV", 1, 3, capacity, 128, sector, 20, 512, 0, 21, 128)
    return head.ljust(sector * 512, b"\0") + text.encode()


@hostile
def sparse_vmdk_with_a_hidden_parent(path: Path, canary: Canary) -> str:
    content = bytearray(sparse_vmdk(2048, DESCRIPTOR, 64).ljust(MIB, b"\0"))
    hint = f'x parentFileNameHint="{canary.file}"\nCID=1\n'.encode()
    content[512 : 512 + len(hint)] = hint
    path.write_bytes(content)
    return "vmdk"


@hostile
def sparse_vmdk_without_a_capacity(path: Path, canary: Canary) -> str:
    path.write_bytes(sparse_vmdk(0, DESCRIPTOR + f'RW 100 FLAT "{canary.file}" 0\n', 3).ljust(MIB, b"\0"))
    return "vmdk"


# --- F6, F7: numbers ---------------------------------------------------------------------------------------------


def with_snapshots(path: Path, count: int) -> None:
    """A qcow2 image at PATH with COUNT snapshots, none of which has anything."""
    table = [snapshot(str(number).encode(), b"s%d" % number) for number in range(count)]
    content = bytes(Made(snapshots=table, snapshots_at=65536))
    path.write_bytes(whole(Made(snapshot_count=count, snapshots_at=4 * 65536)) + content[65536:])


@hostile
def snapshots_65536(path: Path, _canary: Canary) -> str:
    with_snapshots(path, 65536)
    return "qcow2"


damaged("snapshots_missing", snapshot_count=65536, snapshots_at=1 << 20)
damaged("snapshots_too_many", snapshot_count=0xFFFFFFFF, snapshots_at=1 << 62)
damaged("size_60_pib", size=60 * PIB, cluster_bits=21)
damaged("size_of_nothing", size=0)
damaged("size_beyond_all", size=(1 << 64) - 512)
damaged("size_not_in_sectors", size=MIB + 1)


@hostile
def size_60_pib_for_real(path: Path, _canary: Canary) -> str:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, str(60 * PIB)], check=True
    )
    return "qcow2"


@hostile
def many_clusters_of_one(path: Path, _canary: Canary) -> str:
    """16 GiB of data that are one and the same cluster of a file of 1 MiB."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16G"], check=True)
    l1_at = int.from_bytes(path.read_bytes()[40:48], "big")
    l2_at, data_at = 10 * 65536, 11 * 65536
    with path.open("r+b") as stream:
        stream.seek(l1_at)
        stream.write(struct.pack(">Q", 1 << 63 | l2_at) * 32)
        stream.seek(l2_at)
        stream.write(struct.pack(">Q", data_at) * 8192)
        stream.seek(data_at)
        stream.write(b"\x5a" * 65536)
    return "qcow2"


def exaggerating(name: str, image_format: str, *patches: tuple[int, bytes]) -> None:
    """An image of a format that is only read, with other bytes at some offsets (from its end, if negative)."""

    def make_it(path: Path, _canary: Canary) -> str:
        content = bytearray(make_sound(path, image_format).read_bytes())
        for offset, wrong in patches:
            at = offset % len(content)
            content[at : at + len(wrong)] = wrong
        path.write_bytes(content)
        return image_format

    make_it.__name__ = name
    hostile(make_it)


exaggerating("bochs_catalog_of_everything", "bochs", (72, b"\xff\xff\xff\x7f"))
exaggerating("cloop_of_everything", "cloop", (132, b"\xff" * 4))
exaggerating("cloop_blocks_anywhere", "cloop", (144, b"\x7f" * 8))
exaggerating("dmg_table_of_everything", "dmg", (-512 + 0xE0, b"\x7f" * 8))
exaggerating("dmg_of_everything", "dmg", (-512 + 0x1EC, b"\x7f" * 8))


# --- F8: what is cut off, and what is no image -------------------------------------------------------------------


def cut_off(name: str, image_format: str, length: int) -> None:
    def make(path: Path, _canary: Canary) -> str:
        make_sound(path, image_format)
        os.truncate(path, length)
        return image_format

    make.__name__ = name
    hostile(make)


for _length in (0, 3, 4, 71, 103, 511, 512, 65536, 3 * 65536):
    cut_off(f"qcow2_of_{_length}_bytes", "qcow2", _length)
for _format in FORMATS[1:]:
    cut_off(f"{_format}_of_512_bytes", _format, 512)


@hostile
def fifo(path: Path, _canary: Canary) -> str:
    os.mkfifo(path)
    return "raw"


@hostile
def directory(path: Path, _canary: Canary) -> str:
    path.mkdir()
    return "raw"


@hostile
def link_to_zeros(path: Path, _canary: Canary) -> str:
    path.symlink_to("/dev/zero")
    return "raw"


# --- F9, and other fields ----------------------------------------------------------------------------------------

damaged("corrupt_bit", incompatible=CORRUPT)
damaged("unknown_incompatible", incompatible=1 << 40)
damaged("unknown_encryption", crypt=9)
damaged("luks_without_header", crypt=2)
damaged("version_0", version=0)
damaged("version_255", version=255)
damaged("clusters_of_one", cluster_bits=0)
damaged("clusters_of_everything", cluster_bits=63)
damaged("refcounts_of_2_to_the_63", refcount_order=63)
damaged("header_of_4_gib", header_length=104, extensions=[(BACKING_FORMAT, b"x" * 60000)])
damaged("backing_name_of_4_gib", backing=b"x", backing_length=0xFFFFFFFF)
damaged("backing_name_beyond", backing=b"x", backing_at=1 << 60)
damaged("backing_name_empty", backing=b"x", backing_length=0)
patched("l1_table_of_32_gib", (36, b"\xff\xff\xff\xff"))
patched("l1_table_beyond", (40, b"\x7f" + b"\xff" * 7))
patched("l1_table_is_the_header", (40, bytes(8)))
patched("refcounts_beyond", (48, b"\x7f" + b"\xff" * 7))
patched("refcounts_of_everything", (56, b"\xff\xff\xff\xff"))
patched("header_length_of_everything", (100, b"\xff\xff\xff\xff"))
patched("l2_table_is_the_l1_table", (3 * 65536, struct.pack(">Q", 1 << 63 | 3 * 65536)))
patched("l2_table_beyond", (3 * 65536, struct.pack(">Q", 1 << 55)))
patched("l2_entries_of_nonsense", (4 * 65536, b"\xff" * 65536))
patched("l2_entries_compressed_beyond", (4 * 65536, struct.pack(">Q", 1 << 62 | 0x3FFFFFFFFFFFFFFF & ~0xFFF) * 8192))
