# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The conversion of a domain's disks while it is off: the order of the steps, and what each of them does."""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import Hands
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import shutdown as _shutdown
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks


@dataclass
class Work(Hands):
    """The hands of an offline conversion.

    *chains*: the images of each target, top first, as they were found. *runs* says whether the domain ran when all this
    began, before a run that died meanwhile, too. *require_space* measures again and raises NotEnoughSpace.
    """

    wish: ConvertWish
    chains: t.Mapping[str, t.Sequence[Image]]
    runs: bool
    require_space: t.Callable[[], None]
    _before: str | None = field(default=None, init=False)
    _named: bool = field(default=False, init=False)
    _as_read: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _off_since: float | None = field(default=None, init=False)
    downtime: float | None = field(default=None, init=False)

    def restore(self) -> None:
        """The domain as it was before: running if it ran. Where that fails, the records stay for the next run.

        That the guest was asked to shut down, and has not done so yet, is remembered apart from them.
        """
        self.records.keep()
        if self.runs and not self.domain.is_active():
            self.domain.start()
        _shutdown.settle(self.hypervisor, self.domain)
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
                "runs and nothing was changed: see whether it obeys ACPI, raise shutdown_timeout, or set shutdown "
                "to force. If it still goes off later, the next run starts it again",
                state=self.domain.state(),
            )

    def convert(self, item: Conversion, new_file: _staging.NewFile) -> None:
        """Makes, verifies and publishes the new image. Raises DiskError, and leaves it to be withdrawn."""
        self.require_off()
        _users.require_unused(item.source, (), "convert it")
        self._as_read[item.source] = _staging.last_write(item.source)
        source, recipe = self.chains[item.target], _recipe(item, self.wish)
        size = source[0].virtual_size
        _transcode.make(self.qemu_img, recipe, source, size, new_file, partial(self.phase, item.target))
        _staging.resemble(new_file.name, item.source)
        self.records.note(_decision.recorded(item, self.wish), item.dest, **{NEW_FILE: new_file.identity()})
        new_file.publish()

    def define(self, changes: t.Sequence[_disks.DiskChange]) -> None:
        """Names the new images in the definition as it is now, and makes sure that libvirt took just that."""
        self.require_off()
        self._require_unwritten()
        self._before = self.domain.xml(inactive=True)
        wanted = _disks.with_changes(self._before, changes)
        self._named = True
        self.hypervisor.define(wanted)
        difference = _disks.unexpected_difference(wanted, self.domain.xml(inactive=True))
        if difference:
            raise LibvirtFailed(
                f"{self.domain.name}: libvirt took another definition than it was given, and the old one was put "
                f"back:\n{difference}"
            )
        if self.domain.is_active() and not _runs_on(self.domain, changes):
            raise DiskError(
                f"{self.domain.name}: was started on its old disk in the meantime: the definition was put back: run "
                "again"
            )
        self._require_unwritten()

    def withdraw(self, new_file: _staging.NewFile) -> None:
        """Removes a new image again, unless it may be the domain's disk now.

        A guest may have it open, or the definition name it: libvirt may have taken that and died (HAZARDS G9).
        """
        if not self._named and not _users.is_locked(new_file.path):
            new_file.withdraw()

    def define_as_before(self) -> None:
        if self._before is not None:
            self.hypervisor.define(self._before)
        self._named = False

    def start(self) -> None:
        if not self.domain.is_active():  # or somebody was faster, with the new definition
            self.domain.start()
        if not self.domain.is_active():
            raise LibvirtFailed(f"{self.domain.name}: went off right after its start")
        if self._off_since is not None:
            self.downtime = time.monotonic() - self._off_since

    def forget(self, images: t.Container[str]) -> None:
        """Removes what was written down of the conversion, and of the guest that shut down for it."""
        _shutdown.settle(self.hypervisor, self.domain)
        self.records.forget(images)

    def _require_unwritten(self) -> None:
        """Raises DiskError where a source was written to after it was read: by a domain that ran in between, say."""
        for source, as_read in self._as_read.items():
            if _staging.last_write(source) != as_read:
                raise DiskError(
                    f"{source}: was written to while it was converted: the new image was removed: run again",
                    path=source,
                )


def steps(state: DomainState, wish: ConvertWish, conversions: t.Sequence[Conversion], work: Work) -> tuple[Step, ...]:
    """The steps of a conversion, in order: record, off, convert each, define, on, remove the sources, forget.

    Until the domain runs again (or is defined, where it stays off) everything is undone when something fails;
    from there on nothing is.
    """
    restart = work.runs and wish.restart
    name = state.name
    record = _decision.record("offline", work.runs, wish, conversions)
    found = [Step("", partial(work.records.write, record), work.restore)]
    if state.active:
        how = "destroy" if wish.shutdown == "force" else "shut down"
        found += [Step(f"{how} {name}", work.power_off), Step("", work.require_space)]
    for item in conversions:
        new_file = _staging.NewFile(item.dest)
        found.append(
            Step(
                f"convert {item.target} of {name} from {item.source} ({item.source_format}) to {item.dest} "
                f"({wish.layout.format})",
                partial(work.convert, item, new_file),
                partial(work.withdraw, new_file),
            )
        )
    named = [_decision.change(item, wish) for item in conversions]
    found.append(
        Step(
            f"define {name} with {', '.join(item.path for item in named)}",
            partial(work.define, named),
            work.define_as_before,
            not restart,
        )
    )
    if restart:
        found.append(Step(f"start {name}", work.start, commits=True))
    if not wish.keep_source:
        found += [Step(f"remove {item.source}", partial(_file_set.remove_image, item.source)) for item in conversions]
    found.append(Step("", partial(work.forget, {item.dest for item in conversions})))
    return tuple(found)


def _runs_on(domain: Domain, changes: t.Sequence[_disks.DiskChange]) -> bool:
    live = {disk.target: disk.source for disk in _disks.disks(domain.xml(inactive=False))}
    return all(live.get(change.target) == change.path for change in changes)


def _recipe(item: Conversion, wish: ConvertWish) -> _transcode.Recipe:
    """How the new image is made off line; what is below the old one is read as a part of it, or kept below both."""
    base = item.backing
    return _transcode.Recipe(
        *(item.source, item.source_format, wish.layout),
        base=(base.path or "", base.format or "") if base else None,
        reads_base=True,
        compress=wish.compress,
        verify=wish.verify,
    )
