# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt's knowledge of QEMU, kept between hypervisors.

A new libvirtd asks QEMU for its capabilities at the first define, which takes seconds. It keeps the answers
in its cache directory, and checks them itself against the times and versions of QEMU, libvirt and the kernel.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab.cache import cache_root


def hand_out(directory: Path, kind: str) -> None:
    """Puts the kept answers into DIRECTORY, a new libvirtd's own; KIND tells hypervisors with other answers apart."""
    directory.mkdir(parents=True)
    for answer in _kept(kind).glob("*.xml"):
        shutil.copy2(answer, directory)


def keep(directory: Path, kind: str) -> None:
    """Keeps the answers in DIRECTORY for the hypervisors to come."""
    kept = _kept(kind)
    for answer in directory.glob("*.xml"):
        if not (kept / answer.name).exists() or (kept / answer.name).read_bytes() != answer.read_bytes():
            kept.mkdir(parents=True, exist_ok=True)
            staged = kept / f".{answer.name}-{os.getpid()}"
            shutil.copyfile(answer, staged)
            staged.rename(kept / answer.name)


def _kept(kind: str) -> Path:
    return cache_root() / "capabilities" / kind
