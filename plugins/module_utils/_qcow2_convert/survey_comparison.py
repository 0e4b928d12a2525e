# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the destination has the content that is wanted: compared once, as long as nobody writes to the files."""

from __future__ import annotations

import os
import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.transcode import Recipe
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


class Comparison:
    """The comparison of a task, of which *phases* tell how far it is. *is_same* is what it found, False before."""

    def __init__(self, phases: Phases) -> None:
        self.is_same = False
        self._phases = phases
        self._states: object = None

    def compare(
        self, qemu_img: QemuImg, recipe: Recipe, size: int, source: t.Iterable[Image], chain: t.Sequence[Image]
    ) -> bool:
        """Whether the first of *chain*, an image and what it reads, has the content of *size* bytes that *recipe* says.

        *source* has the images that are read for it.
        """
        from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode

        states = [file_state(file) for image in (*source, *chain) for file in image.files]
        if self._states != states:
            with self._phases("compare", size) as phase:
                self.is_same = _transcode.same_content(qemu_img, recipe, chain[0].path, phase.percent)
            self._states = states
        return self.is_same


def file_state(path: str) -> tuple[int, ...]:
    """Equal as long as the file at *path* is the same one and nobody writes to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
