# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks made independent while their domain is off: the order of the steps, and what each of them does.

The overlay is copied, the copy is rebased, compared with the overlay and put in its place. A rebase only adds clusters
to what the overlay itself holds, its zeros among them. So the new file reads the same as an overlay over the old
backing files, too: by a definition that still names them, whatever the moment of a kill, and by other overlays.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content.exchange import Exchange
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import Hands
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import work_live as _work_live
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish


@dataclass
class OfflineWork(Hands):
    """The hands of a flattening of what is off."""

    wish: FlattenWish
    _exchanges: dict[str, Exchange] = field(default_factory=dict, init=False)
    _before: str | None = field(default=None, init=False)

    def restore(self) -> None:
        self.records.keep()
        self.records.remove()

    def stage(self, item: Flattening) -> None:
        """Makes and verifies the new file. Raises DiskError, and leaves it to be withdrawn."""
        self.require_off()
        new = self._exchanges[item.target] = Exchange(item.path, "flatten it")
        new.begin()
        self._fill(item, new.name)
        _decision.require_alike(item, _image.inspect(self.qemu_img, new.name, item.image.format))
        if self.wish.verify:
            with self.phase(item.target, "compare", item.image.virtual_size) as phase:
                new.require_same_content(item.image.format, self.qemu_img, phase.percent)
        self.records.note(_decision.recorded(item), item.path, **{NEW_FILE: new.dress()})

    def exchange(self, items: t.Sequence[Flattening]) -> None:
        """Puts the new files in the place of the old ones, and has the definition name what is below them."""
        for item in items:
            self.require_off()
            self._exchanges[item.target].put_in_place()
        self._before = self.domain.xml(inactive=True)
        _work_live.name_chain(self.hypervisor, self.domain, items)

    def define_as_before(self) -> None:
        if self._before is not None and self.domain.xml(inactive=True) != self._before:
            self.hypervisor.define(self._before)

    def withdraw(self, item: Flattening) -> None:
        found = self._exchanges.get(item.target)
        if found is not None:
            found.withdraw()

    def finish(self, items: t.Sequence[Flattening]) -> None:
        for item in items:
            self._exchanges[item.target].finish()
        self.records.forget({item.path for item in items})

    def _fill(self, item: Flattening, name: str) -> None:
        """The content of the overlay over its own backing file, then over the base."""
        image, below = item.image, item.images[1]
        options = {
            **creation_options(_decision.layout(image)),
            "backing_file": below.path,
            "backing_fmt": below.format,
        }
        with self.phase(item.target, "convert", image.actual_size) as phase:
            self.qemu_img.convert(item.path, image.format, name, image.format, options, report=phase.percent)
        base = (item.base.path, item.base.format) if item.base else None
        with self.phase(item.target, "merge", image.virtual_size) as phase:
            self.qemu_img.rebase(name, image.format, base, report=phase.percent)


def steps(state: DomainState, items: t.Sequence[Flattening], work: OfflineWork) -> tuple[Step, ...]:
    """The steps, in order: record, make each new file, put all in place, let the old ones go and forget."""
    record = _decision.record(state, "offline", None, items)
    found = [Step("", partial(work.records.write, record), work.restore)]
    found += [
        Step(f"merge {item} of {state.name}, in a new file", partial(work.stage, item), partial(work.withdraw, item))
        for item in items
    ]
    found.append(
        Step(
            f"put the new {', '.join(item.path for item in items)} in place of the old",
            partial(work.exchange, items),
            work.define_as_before,
            commits=True,
        )
    )
    found.append(Step("", partial(work.finish, items)))
    return tuple(found)
