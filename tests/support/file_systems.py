# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small file systems of known sizes, some of which share extents between files, for the tests of capacity."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How each is made; one of xfs has 300 MiB at least. Files on ext2 have no space that is only reserved.
MAKERS = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "--quiet"],
    "ext4": ["mkfs.ext4", "-q"],
    "ext2": ["mkfs.ext2", "-q"],
}


@contextmanager
def mounted(place: Path, kind: str, mib: int = 320) -> Iterator[Path]:
    """A file system of KIND, in a sparse file beside PLACE, mounted at PLACE."""
    image = place.with_name(f"{place.name}.{kind}")
    image.touch()
    os.truncate(image, mib << 20)
    subprocess.run([*MAKERS[kind], image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        place.chmod(0o711)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        image.unlink()


@contextmanager
def of_large_sectors(place: Path, mib: int = 64) -> Iterator[Path]:
    """An ext4 at PLACE on a device whose sectors have 4096 bytes."""
    image = place.with_name(f"{place.name}.sectors")
    image.touch()
    os.truncate(image, mib << 20)
    attach = ["losetup", "--find", "--show", "--sector-size", "4096", str(image)]
    device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run([*MAKERS["ext4"], device], check=True, capture_output=True)
        place.mkdir()
        subprocess.run(["mount", device, place], check=True)
        try:
            place.chmod(0o711)
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


@contextmanager
def in_memory(place: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of exactly MIB mebibytes, mounted at PLACE."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0711", "images", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextmanager
def over(place: Path, lower: Path | None = None) -> Iterator[Path]:
    """A file system mounted at PLACE that passes on what another one says, of LOWER: such a one could be above any."""
    layers = place.with_name(f"{place.name}.layers")
    lower, upper, work = lower or layers / "lower", layers / "upper", layers / "work"
    for made in (place, layers, lower, upper, work):
        made.mkdir(exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "over", place], check=True)
    try:
        place.chmod(0o711)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
