# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is done to convert the disks of a domain while it is off."""

from __future__ import annotations

import time
import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._domain import start as _start
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import bitmaps_of
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import shutdown as _shutdown
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.work import Work as ConvertWork
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


@dataclass
class Work(ConvertWork):
    """One method for each step of an offline conversion.

    *chains*: the images of each target, top first, as they were found. *bitmaps*: what was to become of the dirty
    bitmaps of each target; *warn* tells a person what becomes of them otherwise. *runs* says whether the domain ran
    when all this began, before a run that died meanwhile, too. *measure* looks at the space again and raises
    NotEnoughSpace.
    """

    wish: ConvertWish
    chains: t.Mapping[str, t.Sequence[Image]]
    bitmaps: t.Mapping[str, Carried]
    warn: t.Callable[[str], None]
    runs: bool
    measure: t.Callable[[], None]
    _new: dict[str, _staging.NewFile] = field(default_factory=dict, init=False)
    _before: str | None = field(default=None, init=False)
    _named: bool = field(default=False, init=False)
    _as_read: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _off_since: float | None = field(default=None, init=False)
    downtime: float | None = field(default=None, init=False)

    def begin(self, record: Record) -> None:
        """Writes down what is in flight."""
        self.records.write(record)

    def restore(self) -> None:
        """The domain as it was before: running if it ran. Where that fails, the records stay for the next run.

        That the guest was asked to shut down, and has not done so yet, is remembered apart from them.
        """
        self.records.keep()
        if self.runs:
            _start.start_again(self.hypervisor, self.domain)
        self.settle_shutdown()
        self.records.remove()

    def power_off(self) -> None:
        """Raises LibvirtFailed where the guest does not go off in time and must not be forced."""
        self._off_since = time.monotonic()
        if self.wish.shutdown == "force":
            self.domain.destroy()
            return
        _shutdown.remember(self.domain)
        if not self.domain.shut_down(self.wish.shutdown_timeout):
            raise LibvirtFailed(
                f"{self.domain.name}: the guest did not shut down within {self.wish.shutdown_timeout} s: it still "
                "runs and nothing was changed: see whether it obeys ACPI, and what its guest agent does, raise "
                "shutdown_timeout, or set shutdown to force. If it still goes off later, the next run starts it again",
                state=self.domain.state(),
            )

    def require_space(self) -> None:
        """Raises NotEnoughSpace where there is less space than before the guest went off."""
        self.measure()

    def convert(self, item: Conversion) -> None:
        """Makes, verifies and publishes the new image. Raises DiskError, and leaves it to be withdrawn."""
        new_file = self._new[item.target] = _staging.NewFile(item.dest, item.source)
        self.require_off()
        _unused.require_unused(item.source, (), "convert it")
        self._as_read[item.source] = _same_file.last_write(item.source)
        source, recipe = self.chains[item.target], _recipe(item, self.wish, bitmaps=self._has_bitmaps(item))
        size = source[0].virtual_size
        _transcode.make(self.qemu_img, recipe, source, size, new_file, partial(self.phase, item.target))
        _rest.resemble(new_file.name, item.source)
        self.records.note(_decision_conversion.recorded(item, self.wish), item.dest, **{NEW_FILE: new_file.identity()})
        new_file.publish()

    def _has_bitmaps(self, item: Conversion) -> bool:
        """Whether the new image gets dirty bitmaps of the old one: QEMU has only now written back what it had open.

        Raises DiskError where one gets lost that is required.
        """
        found = bitmaps_of(item.source, item.source_format)
        carried = _decision_conversion.carried_bitmaps(item, found, self.wish, "offline")
        if carried.warning is not None and carried.warning != self.bitmaps[item.target].warning:
            self.warn(carried.warning)
        return bool(carried.kept)

    def name(self, changes: t.Sequence[_disk_changes.DiskChange]) -> None:
        """Names the new images in the definition as it is now, and makes sure that libvirt took just that."""
        self.require_off()
        self._require_unwritten()
        self._before = self.domain.xml(inactive=True)
        self._named = True
        self.define(_disk_changes.with_changes(self._before, changes), ": it was put back")
        if self.domain.is_active() and not _runs_on(self.domain, changes):
            raise DiskError(
                f"{self.domain.name}: was started on its old disk in the meantime: the definition was put back: run "
                "again"
            )
        self._require_unwritten()

    def withdraw(self, item: Conversion) -> None:
        """Removes a new image again, unless it may be the domain's disk now.

        A guest may have it open, or the definition name it: libvirt may have taken that and died (HAZARDS G9).
        """
        new_file = self._new.get(item.target)
        if new_file is not None and not self._named and not _image_locks.is_locked(new_file.path):
            new_file.withdraw()

    def define_as_before(self) -> None:
        """Puts the old definition back."""
        if self._before is not None:
            self.hypervisor.define(self._before)
        self._named = False

    def start(self) -> None:
        """Starts the domain, as its new definition says, and tells from then on for how long it was off.

        Raises LibvirtFailed: the domain may still run on its old disks, once all is undone.
        """
        _start.start(self.domain)
        if self._off_since is not None:
            self.downtime = time.monotonic() - self._off_since

    def _require_unwritten(self) -> None:
        """Raises DiskError where a source was written to after it was read: by a domain that ran in between, say."""
        for source, as_read in self._as_read.items():
            if _same_file.last_write(source) != as_read:
                raise DiskError(
                    f"{source}: was written to while it was converted: the new image was removed: run again",
                    path=source,
                )


def _runs_on(domain: ActingDomain, changes: t.Sequence[_disk_changes.DiskChange]) -> bool:
    live = {disk.target: disk.source for disk in _disks.disks(domain.xml(inactive=False))}
    return all(live.get(change.target) == change.path for change in changes)


def _recipe(item: Conversion, wish: ConvertWish, *, bitmaps: bool) -> _transcode.Recipe:
    """How the new image is made offline; what is below the old one is read as a part of it, or kept below both."""
    base = item.backing
    return _transcode.Recipe(
        *(item.source, item.source_format, wish.layout),
        base=(base.path or "", base.format or "") if base else None,
        reads_base=True,
        compress=wish.compress,
        bitmaps=bitmaps,
        verify=wish.verify,
        step=item.step,
    )
