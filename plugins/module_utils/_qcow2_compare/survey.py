# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at two images that are to be compared: what they read, and whether they stay as they are meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust, require_not_corrupt
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._task import still as _still
from ansible_collections.kvmops.disk.plugins.module_utils._usage import counting as _counting

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_compare.wish import CompareWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings

_TO_DO = "compare it"


def look(qemu_img: QemuImg, wish: CompareWish, surroundings: Surroundings) -> tuple[QemuImg, list[Image]]:
    """The two images, and *qemu_img*, which opens them with the secrets of the task.

    Raises DiskError where one of them cannot be read, or what is read of it would be no whole disk.
    """
    trust = Trust(wish.trusted)
    chains = [trust.look(qemu_img, side.path, side.format) for side in wish.sides]
    for side, chain in zip(wish.sides, chains):
        qemu_img = _graph.following(qemu_img, chain)
        _encryption.require_secret(chain, side.openers, _TO_DO, side.secret_in)
        if side.openers is not None:
            qemu_img = _key_slots.unlocked(qemu_img, chain, side.openers)
    for chain in chains:
        _require_still(qemu_img, chain, surroundings)
    return qemu_img, [chain[0] for chain in chains]


def _require_still(qemu_img: QemuImg, chain: tuple[Image, ...], surroundings: Surroundings) -> None:
    top = chain[0]
    require_not_corrupt(chain)
    require_whole(chain)
    _still.require_settled(qemu_img, top.path, top.format, _beside.look(top.path))
    surroundings.require_unused(top.path, _TO_DO, _counting.running_as_disk, locks=False)
    for image in chain:
        _still.require_unwritten(image)
