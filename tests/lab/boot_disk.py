# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that boots by itself: MBR, GRUB, and one ext4 partition with the lab's guest and data to verify."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

from lab import debs
from lab.cache import cache_key, cached
from lab.guest_image import COMMAND_LINE, GuestImage, guest_image
from lab.namespaces import ENVIRONMENT
from lab.pattern import MIB, write_pattern

SECTOR = 512
PARTITION_START = MIB
# Kernel, initramfs, the file system's own tables and journal, and the mebibyte in front of the partition.
OVERHEAD_MIB = 32


def build_boot_disk(
    path: Path, size_mib: int = 64, data_mib: int = 8, seed: str = "lab", cmdline_extra: str = ""
) -> Path:
    """Makes PATH, a sparse raw disk of SIZE_MIB that a BIOS domain boots from; returns PATH.

    The partition holds one pattern file of DATA_MIB and SHA256SUMS; the guest mounts it on /data.
    The disk is built once and kept in the cache; every further call is a sparse copy.
    """
    if size_mib < data_mib + OVERHEAD_MIB:
        raise ValueError(f"{path}: {data_mib} MiB of data need a disk of {data_mib + OVERHEAD_MIB} MiB, not {size_mib}")
    guest = guest_image()
    inputs = (f"{size_mib} {data_mib} {seed} {cmdline_extra}", guest.initrd, guest.kernel.parent.name, Path(__file__))
    key = cache_key(*inputs, debs.version("grub-pc-bin"), debs.version(_grub_programs()))

    def build(directory: Path) -> None:
        content = directory / "content"
        content.mkdir(mode=0o755)
        _write_content(content, guest, data_mib, seed)
        core = _grub_core(directory, f"{COMMAND_LINE} {cmdline_extra}".strip())
        _write_disk(directory / "disk.raw", size_mib, content, core)
        shutil.rmtree(content)

    template = cached("boot-disks", key, build) / "disk.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", template, path], check=True)
    return path


def _write_content(directory: Path, guest: GuestImage, data_mib: int, seed: str) -> None:
    guest.copied_to(directory)
    write_pattern(directory / "pattern.bin", data_mib, seed)
    sums = subprocess.run(
        ["sha256sum", *sorted(path.name for path in directory.iterdir())],
        cwd=directory,
        stdout=subprocess.PIPE,
        check=True,
    )
    (directory / "SHA256SUMS").write_bytes(sums.stdout)


def _grub_modules() -> Path:
    return debs.unpacked("grub-pc-bin") / "usr/lib/grub/i386-pc"


def _grub_programs() -> str:
    """The package with grub-mkimage: grub-common, since forky grub2-common."""
    return next(name for name in debs.dependencies("grub-pc-bin") if name.startswith("grub"))


def _grub_core(directory: Path, cmdline: str) -> bytes:
    """GRUB's core image, with its whole configuration inside."""
    config = directory / "early.cfg"
    config.write_text(f"set root=(hd0,msdos1)\nlinux /vmlinuz {cmdline}\ninitrd /initrd.gz\nboot\n", encoding="ascii")
    core = directory / "core.img"
    subprocess.run(
        [
            debs.unpacked(_grub_programs()) / "usr/bin/grub-mkimage",
            *("-O", "i386-pc", "-d", _grub_modules(), "-p", "(hd0,msdos1)/", "-c", config, "-o", core),
            *("biosdisk", "part_msdos", "ext2", "linux"),
        ],
        check=True,
    )
    content = core.read_bytes()
    if len(content) > PARTITION_START - SECTOR:
        raise RuntimeError(f"GRUB's core image of {len(content)} bytes does not fit in front of the partition")
    config.unlink()
    core.unlink()
    return content


def _write_disk(path: Path, size_mib: int, content: Path, core: bytes) -> None:
    sectors = (size_mib * MIB - PARTITION_START) // SECTOR
    # Boot code (440 bytes), disk signature, one active Linux partition, three empty entries, the boot signature.
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION_START // SECTOR, sectors)
    master_boot_record = (
        (_grub_modules() / "boot.img").read_bytes()[:440] + b"LAB0\0\0" + entry + bytes(48) + b"\x55\xaa"
    )
    with open(path, "wb") as disk:
        disk.write(master_boot_record + core)
        disk.truncate(size_mib * MIB)
    # The features that every GRUB reads.
    subprocess.run(
        [
            *("mkfs.ext4", "-q", "-F", "-O", "^64bit,^metadata_csum", "-E", f"offset={PARTITION_START}"),
            *("-d", content, path, f"{sectors * SECTOR // 1024}k"),
        ],
        check=True,
        env=ENVIRONMENT,
    )
