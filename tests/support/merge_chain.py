# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A chain of images that is merged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from support.image_tools import MIB, content, create, overlay, qemu_io


@dataclass
class Chain:
    """Images in a directory, each with data of its own: base, middle, top."""

    base: Path
    middle: Path
    top: Path
    base_format: str = "qcow2"

    @property
    def shown(self) -> str:
        return content(self.top)


def make_chain(directory: Path, base_format: str = "qcow2", *base_options: str) -> Chain:
    base = create(directory / "base", base_format, 4 * MIB, *base_options)
    qemu_io(base, "write -P 0x11 0 2M", base_format)
    middle = overlay(directory / "middle", "base", base_format)
    qemu_io(middle, "write -P 0x22 1M 256k")
    top = overlay(directory / "top", "middle")
    qemu_io(top, "write -P 0x33 1152k 256k")
    qemu_io(top, "write -z 64k 128k")
    qemu_io(top, "write -P 0x44 3M 64k")
    return Chain(base, middle, top, base_format)
