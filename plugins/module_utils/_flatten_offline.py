# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks made independent while their domain is off: the order of the steps, and what each of them does.

The overlay is copied, the copy is rebased, compared with the overlay and put in its place. A rebase only adds clusters
to what the overlay itself holds, its zeros among them. So the new file reads the same as an overlay over the old
backing files, too: by a definition that still names them, whatever the moment of a kill, and by other overlays.
"""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils import (
    _flatten,
    _flatten_live,
    _image,
    _staging,
    _transcode,
    _usage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._create import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._flatten import Flattening, FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._hands import Hands
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._records import NEW_FILE


@dataclass
class _Exchange:
    """A new file, and the old one in whose place it is to come: which that is, and when it was last written to."""

    new: _staging.NewFile
    old: list[int]
    as_read: tuple[int, int]


@dataclass
class OfflineWork(Hands):
    """The hands of a flattening of what is off."""

    wish: FlattenWish
    _exchanges: dict[str, _Exchange] = field(default_factory=dict, init=False)
    _before: str | None = field(default=None, init=False)

    def restore(self) -> None:
        self.records.keep()
        self.records.remove()

    def stage(self, item: Flattening) -> None:
        """Makes and verifies the new file. Raises DiskError, and leaves it to be withdrawn."""
        self.require_off()
        _usage.require_unused(item.path, (), "flatten it")
        new = _staging.NewFile(item.file)
        as_read = _staging.last_write(item.file)
        exchange = _Exchange(new, _staging.file_identity(item.file), as_read)
        self._exchanges[item.target] = exchange
        new.begin()
        self._fill(item, new.name)
        _flatten.require_alike(item, _image.inspect(self.qemu_img, new.name, item.image.format))
        if self.wish.verify:
            recipe = _transcode.Recipe(item.path, item.image.format, _flatten.layout(item.image))
            phases = partial(self.phase, item.target)
            _transcode.require_same_content(self.qemu_img, recipe, item.image.virtual_size, new, phases)
        _staging.resemble(new.name, item.file)
        self.records.note(_flatten.recorded(item), item.path, **{NEW_FILE: new.identity()})

    def exchange(self, items: t.Sequence[Flattening]) -> None:
        """Puts the new files in the place of the old ones, and has the definition name what is below them."""
        for item in items:
            found = self._exchanges[item.target]
            self.require_off()
            _usage.require_unused(item.path, (), "put a new image in its place")
            self._require_unwritten(item, item.file)
            found.new.replace(found.old)
            self._require_let_go(item)
        self._before = self.domain.xml(inactive=True)
        _flatten_live.name_chain(self.hypervisor, self.domain, items)

    def define_as_before(self) -> None:
        if self._before is not None and self.domain.xml(inactive=True) != self._before:
            self.hypervisor.define(self._before)

    def withdraw(self, item: Flattening) -> None:
        """Puts the old file back, unless a guest has the new one open, which holds the same (HAZARDS A8)."""
        found = self._exchanges.get(item.target)
        in_place = found is not None and not _staging.is_file(item.file, found.old)
        if found is not None and not (in_place and _usage.is_locked(item.file)):
            found.new.withdraw()

    def finish(self, items: t.Sequence[Flattening]) -> None:
        for item in items:
            self._exchanges[item.target].new.commit()
        self.records.forget({item.path for item in items})

    def _fill(self, item: Flattening, name: str) -> None:
        """The content of the overlay over its own backing file, then over the base."""
        image, below = item.image, item.images[1]
        options = {
            **creation_options(_flatten.layout(image)),
            "backing_file": below.path,
            "backing_fmt": below.format,
        }
        with self.phase(item.target, "convert", image.actual_size) as phase:
            self.qemu_img.convert(item.path, image.format, name, image.format, options, report=phase.percent)
        base = (item.base.path, item.base.format) if item.base else None
        with self.phase(item.target, "merge", image.virtual_size) as phase:
            self.qemu_img.rebase(name, image.format, base, report=phase.percent)

    def _require_unwritten(self, item: Flattening, name: str) -> None:
        if _staging.last_write(name) != self._exchanges[item.target].as_read:
            raise DiskError(
                f"{item.path}: was written to by somebody else while it was copied: the new image was removed: "
                "run again",
                path=item.path,
            )

    def _require_let_go(self, item: Flattening) -> None:
        """Raises where somebody opened the old file in the moment in which the new one took its place."""
        kept = _staging.kept(item.file)
        if not os.path.exists(kept):
            return
        if _usage.is_locked(kept):
            raise ImageInUse(
                f"{item.path}: was opened by somebody else meanwhile: nothing was changed: run again", in_use_by=[]
            )
        self._require_unwritten(item, kept)


def steps(state: DomainState, items: t.Sequence[Flattening], work: OfflineWork) -> tuple[Step, ...]:
    """The steps, in order: record, make each new file, put all in place, let the old ones go and forget."""
    record = _flatten.record(state, "offline", None, items)
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
