# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that were cut short, as an interrupted upload leaves them: every format, every layer, many places to cut."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.foreign import make_foreign

KIB, MIB = 1 << 10, 1 << 20
#: What a guest sees: data at both ends, a hole, and an end within a cluster of formats whose clusters are large.
DISK = 3 * MIB + 64 * KIB


@dataclass(frozen=True)
class Whole:
    """An image in order, in a DIRECTORY of its own. FILES are those of it that can be cut."""

    name: str
    format: str
    directory: Path
    content: bytes
    top: str
    files: tuple[str, ...]

    @contextmanager
    def cut(self, file: str, length: int) -> Iterator[Path]:
        """Its top, while LENGTH bytes are left of FILE; afterwards all is as it was."""
        kept = self.directory.with_name(f"{self.name} kept")
        shutil.copytree(self.directory, kept)
        os.truncate(self.directory / file, length)
        try:
            yield self.directory / self.top
        finally:
            shutil.rmtree(self.directory)
            kept.rename(self.directory)

    def places(self, file: str, seed: int, number: int) -> list[int]:
        """Lengths to which FILE can be cut: its last bytes, its halves, and NUMBER of others."""
        whole = (self.directory / file).stat().st_size
        chosen = random.Random(f"{self.name} {file} {seed}")
        near = (1, 511, 513, 4 * KIB, 64 * KIB, 65 * KIB, MIB)
        places = [*(whole - gap for gap in near), *(whole * part // 8 for part in (7, 6, 4, 2, 1))]
        places += chosen.choices(range(1, whole), k=number)
        return sorted({place for place in places if 0 < place < whole})


Maker = Callable[[Path, Path], tuple[str, str, tuple[str, ...]]]
_makers: dict[str, Maker] = {}


def whole_images(directory: Path, *, only: str | None = None) -> Iterator[Whole]:
    """All of them, or the ONLY one, each in a directory of its own below DIRECTORY."""
    content = _content()
    plain = directory / "plain"
    plain.write_bytes(content)
    for name in [only] if only else NAMES:
        own = directory / name
        own.mkdir()
        image_format, top, files = _makers[name](own, plain)
        yield Whole(name, image_format, own, content, top, files)


def _content() -> bytes:
    data = random.Random("cut").randbytes
    return data(MIB + 64 * KIB) + bytes(MIB) + data(DISK - 2 * MIB - 64 * KIB)


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def qemu_io(image: Path, image_format: str, *commands: str) -> None:
    argv = [part for command in commands for part in ("-c", command)]
    subprocess.run(["qemu-io", "-f", image_format, *argv, image], check=True, stdout=subprocess.DEVNULL)


def converted(name: str, image_format: str, *options: str, extents: tuple[str, ...] = ()) -> None:
    """An image that qemu-img makes with OPTIONS; EXTENTS are the files that hold its data, if it does not itself."""

    def make(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
        top = f"disk.{image_format}"
        chosen = [option.replace("OWN", str(own)) for option in options]
        qemu_img("convert", "-f", "raw", "-O", image_format, *chosen, plain, own / top)
        return image_format, top, extents or (top,)

    _makers[name] = make


def hand_made(maker: Maker) -> Maker:
    _makers[maker.__name__] = maker
    return maker


converted("qcow2", "qcow2")
converted("qcow2-v2-of-4k-clusters", "qcow2", "-o", "compat=0.10,cluster_size=4096")
converted("qcow2-of-2m-clusters", "qcow2", "-o", "cluster_size=2M")
converted("qcow2-with-subclusters", "qcow2", "-o", "extended_l2=on,cluster_size=128k")
converted("qcow2-compressed", "qcow2", "-c")
converted("qcow2-preallocated", "qcow2", "-o", "preallocation=metadata")
converted("qcow", "qcow")
converted("qed", "qed")
converted("vdi", "vdi")
converted("vdi-static", "vdi", "-o", "static=on")
converted("parallels", "parallels")
converted("vhdx", "vhdx")
converted("vpc", "vpc", "-o", "force_size=on")
converted("vpc-fixed", "vpc", "-o", "subformat=fixed,force_size=on")
converted("vmdk-sparse", "vmdk")
converted("vmdk-stream", "vmdk", "-o", "subformat=streamOptimized")
converted("vmdk-flat", "vmdk", "-o", "subformat=monolithicFlat", extents=("disk-flat.vmdk",))
converted("vmdk-split-flat", "vmdk", "-o", "subformat=twoGbMaxExtentFlat", extents=("disk-f001.vmdk",))
converted("vmdk-split-sparse", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", extents=("disk-s001.vmdk",))


@hand_made
def qcow2_with_data_file(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
    options = f"data_file={own / 'data'}"
    qemu_img("create", "-f", "qcow2", "-o", options, own / "disk.qcow2", str(DISK))
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", plain, own / "disk.qcow2")
    return "qcow2", "disk.qcow2", ("disk.qcow2", "data")


@hand_made
def qcow2_with_snapshot(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
    """A snapshot shares its data with the active layer, which has written more since."""
    top = own / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", top, str(DISK))
    qemu_io(top, "qcow2", "write -P 7 1M 300k")
    qemu_img("snapshot", "-c", "before", top)
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", plain, top)
    return "qcow2", top.name, (top.name,)


def _overlay(base_format: str, base_top: str) -> Maker:
    def make(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
        """Half of the content is in the base, half of it in the overlay."""
        base, top = own / base_top, own / "disk.qcow2"
        qemu_img("convert", "-f", "raw", "-O", base_format, plain, base)
        qemu_img("create", "-f", "qcow2", "-b", base_top, "-F", base_format, top, str(DISK))
        patch = own.parent / "patch"
        patch.write_bytes(plain.read_bytes()[: 512 * KIB])
        qemu_io(top, "qcow2", f"write -s {patch} 0 512k")
        return "qcow2", top.name, (top.name, base_top)

    return make


_makers["overlay-of-qcow2"] = _overlay("qcow2", "base.qcow2")
_makers["overlay-of-vdi"] = _overlay("vdi", "base.vdi")
_makers["overlay-of-vmdk"] = _overlay("vmdk", "base.vmdk")


@hand_made
def bochs(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
    return _foreign("bochs", own, plain)


@hand_made
def cloop(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
    return _foreign("cloop", own, plain)


@hand_made
def dmg(own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
    return _foreign("dmg", own, plain)


def _foreign(image_format: str, own: Path, plain: Path) -> tuple[str, str, tuple[str, ...]]:
    make_foreign(own / f"disk.{image_format}", image_format, plain.read_bytes())
    return image_format, f"disk.{image_format}", (f"disk.{image_format}",)


NAMES = tuple(sorted(_makers))
