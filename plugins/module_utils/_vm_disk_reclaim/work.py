# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done so that a disk gives its space back."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.exchange import Exchange
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import DomainWork
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import bitmaps_of
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import layout_of, require_alike
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.survey_change import carried_bitmaps

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.wish import ReclaimWish


@dataclass
class Work(DomainWork):
    """One method for each step. *after* is what each image occupies then, by target."""

    state: DomainState
    wish: ReclaimWish
    after: dict[str, int] = field(default_factory=dict, init=False)
    _exchanges: dict[str, Exchange] = field(default_factory=dict, init=False)

    def trim(self, items: t.Sequence[Reclaiming]) -> None:
        """Has the guest trim what it has mounted; what the images occupy says whether that was worth anything."""
        try:
            self.domain.trim(self.wish.agent_timeout)
        except LibvirtFailed as error:
            raise _obstacles.agent_silent(self.state, error) from error
        for item in items:
            self.after[item.target] = after = _occupied(item.path)
            if after >= item.image.actual_size:
                self.warn(
                    f"{self.domain.name}: {item.target}: its guest has trimmed its file systems, and {item.path} "
                    "occupies no less than before: a layer in the guest (LVM, encryption) may keep discards to itself, "
                    "or the file system of the image may not punch holes"
                )

    def stage(self, item: Reclaiming) -> None:
        """Makes and verifies the new file. Raises DiskError, and leaves it to be withdrawn."""
        self.require_off()
        new = self._exchanges[item.target] = Exchange(item.images, "rewrite it")
        new.begin()
        carried = carried_bitmaps(item)
        self._fill(item, new.name, bitmaps=bool(carried.kept))
        made = _image.inspect(self.qemu_img, new.name, item.image.format)
        require_alike(item.image, made)
        _obstacles.require_bitmaps(item, carried, bitmaps_of(new.name, made.format))
        with self.phase(item.target, "compare", item.image.virtual_size) as phase:
            new.require_same_content(item.image.format, self.qemu_img, phase.percent)
        self._refer_as_before(item, new.name)
        new.dress(thin=True)
        _obstacles.require_gain(item, _occupied(new.name))

    def withdraw(self, item: Reclaiming) -> None:
        """Puts the old image back, and removes the new one."""
        found = self._exchanges.get(item.target)
        if found is not None:
            found.withdraw()

    def exchange(self, items: t.Sequence[Reclaiming]) -> None:
        """Puts the new files in the place of the old ones."""
        for item in items:
            self.require_off()
            self._exchanges[item.target].put_in_place()

    def finish(self, items: t.Sequence[Reclaiming]) -> None:
        """Lets go of the old images."""
        for item in items:
            self._exchanges[item.target].finish()
            self.after[item.target] = _occupied(item.path)

    def _fill(self, item: Reclaiming, name: str, *, bitmaps: bool) -> None:
        image, below = item.image, item.images[1] if len(item.images) > 1 else None
        with self.phase(item.target, "convert", image.actual_size) as phase:
            self.qemu_img.convert(
                *(item.path, image.format, name, image.format, creation_options(layout_of(image))),
                out_of_order=image.format == "raw",
                backing=(below.path, below.format) if below else None,
                bitmaps=bitmaps,
                report=phase.percent,
            )

    def _refer_as_before(self, item: Reclaiming, name: str) -> None:
        """Names the backing file as the old image does: it may be by a path that begins where the image lies."""
        _format, points_to, _header = _image.first_look(item.path, item.image.format)
        if points_to.backing_file is not None:
            below_format = t.cast(str, item.image.backing_format)
            self.qemu_img.refer(name, item.image.format, (points_to.backing_file, below_format))


def _occupied(path: str) -> int:
    return os.stat(path).st_blocks * 512
