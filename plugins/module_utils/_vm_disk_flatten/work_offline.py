# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to make disks independent while their domain is off.

The overlay is copied, the copy is rebased, compared with the overlay and put in its place. A rebase only adds clusters
to what the overlay itself holds, its zeros among them. So the new file reads the same as an overlay over the old
backing files, too: by a definition that still names them, whatever the moment of a kill, and by other overlays.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.exchange import Exchange
from ansible_collections.kvmops.disk.plugins.module_utils._content.thickness import tell_if_thinner
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import layout_of
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision_obstacles as _obstacles
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.work import Work as FlattenWork

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


@dataclass
class Work(FlattenWork):
    """One method for each step of a flattening of what is off."""

    wish: FlattenWish
    _exchanges: dict[str, Exchange] = field(default_factory=dict, init=False)
    _before: str | None = field(default=None, init=False)

    def begin(self, record: Record) -> None:
        """Writes down what is in flight."""
        self.records.write(record)

    def restore(self) -> None:
        """Removes the records; where that fails, they are for the next run."""
        self.records.keep()
        self.records.remove()

    def stage(self, item: Flattening) -> None:
        """Makes and verifies the new file. Raises DiskError, and leaves it to be withdrawn."""
        self.require_off()
        new = self._exchanges[item.target] = Exchange(item.images, "flatten it")
        new.begin()
        self._fill(item, new.name)
        made = _image.inspect(self.qemu_img, new.name, item.image.format)
        _obstacles.require_alike(item, made, _survey.file_below(made))
        if self.wish.verify:
            with self.phase(item.target, "compare", item.image.virtual_size) as phase:
                new.require_same_content(item.image.format, self.qemu_img, phase.percent)
        self.records.note(_decision.recorded(item), item.path, **{NEW_FILE: new.dress()})
        if item.image.is_thick:  # dress() has reserved what can be
            made = _image.inspect(self.qemu_img, new.name, item.image.format)
            tell_if_thinner(item.image, made, "flattening", self.warn)

    def exchange(self, items: t.Sequence[Flattening]) -> None:
        """Puts the new files in the place of the old ones, and has the definition name what is below them."""
        for item in items:
            self.require_off()
            self._exchanges[item.target].put_in_place()
        self._before = self.domain.xml(inactive=True)
        self.name_chain(items)

    def define_as_before(self) -> None:
        """Puts the old definition back, where it is another by now."""
        if self._before is not None and self.domain.xml(inactive=True) != self._before:
            self.hypervisor.define(self._before)

    def withdraw(self, item: Flattening) -> None:
        """Puts the old image back, and removes the new one."""
        found = self._exchanges.get(item.target)
        if found is not None:
            found.withdraw()

    def finish(self, items: t.Sequence[Flattening]) -> None:
        """Lets go of the old images, and removes the records."""
        for item in items:
            self._exchanges[item.target].finish()
        self.forget({item.path for item in items})

    def _fill(self, item: Flattening, name: str) -> None:
        """The content of the overlay over its own backing file, then over the base."""
        image, below = item.image, item.images[1]
        options = {
            **creation_options(layout_of(image)),
            "backing_file": below.path,
            "backing_fmt": below.format,
        }
        with self.phase(item.target, "convert", image.actual_size) as phase:
            self.qemu_img.convert(item.path, image.format, name, image.format, options, report=phase.percent)
        base = (item.base.path, item.base.format) if item.base else None
        with self.phase(item.target, "merge", image.virtual_size) as phase:
            self.qemu_img.rebase(name, image.format, base, report=phase.percent)
