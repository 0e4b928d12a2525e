# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks made independent while their guest runs, by block pull: the order of the steps, and what each of them does."""

from __future__ import annotations

import os
import typing as t
from dataclasses import dataclass, field
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._domain.work import Hands
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.leftovers import OWNERS
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records


@dataclass
class LiveWork(Hands):
    """The hands of a live flattening.

    *adopted*: the targets whose pull a dead run began. *owners*: those that it found the backing files with.
    """

    wish: FlattenWish
    owners: t.Mapping[str, tuple[int, int]]
    adopted: t.Collection[str] = ()
    _begun: dict[str, Flattening] = field(default_factory=dict, init=False)
    _owners: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def begin(self, record: _records.Record, items: t.Sequence[Flattening]) -> None:
        """Writes down what is in flight, and whose the backing files are: libvirt gives them to others (G16)."""
        found = _staging.owners(image.path for item in items for image in item.images[1:])
        self._owners = {**found, **self.owners}
        self._begun = {item.target: item for item in items if item.target in self.adopted}
        self.records.write(record)
        for disk in record.disks:
            self.records.note(disk, disk.source, **{OWNERS: self._owners})

    def pull(self, item: Flattening) -> None:
        """Fills the image, and waits until nothing is left between it and its base. Raises DiskError where it fails."""
        named = item.named_base
        self._require_as_decided(item)
        with self.phase(item.target, "pull", item.image.virtual_size) as phase:
            if item.target in self.adopted:
                self._limit(item.target)
            else:
                index = f"{item.target}[{named.index}]" if named else None
                self.domain.pull(item.target, index, bandwidth=self.wish.bandwidth)
                self._begun[item.target] = item
            _block_job.await_pull(
                self.domain, item.target, named.path if named else None, self.wish.copy_timeout, phase.at
            )
        _block_job.write_out(self.domain, item.target)
        _decision.require_base(item, _image.inspect(self.qemu_img, item.path, item.image.format))
        name_chain(self.hypervisor, self.domain, [item])

    def end(self, item: Flattening) -> None:
        """Ends the pull, if it is ours and goes on: the image is as good as before."""
        if item.target in self._begun:
            end_pull(self.domain, item.target)

    def restore(self) -> None:
        """Removes the records, unless a pull could not be ended, or an image is not what it was: then the next run is
        to find them."""
        self.records.keep()
        _staging.give_back(self._owners)
        if all(self._is_settled(item) for item in self._begun.values()):
            self.records.remove()

    def finish(self, images: t.Container[str]) -> None:
        _staging.give_back(self._owners)
        self.records.forget(images)

    def _limit(self, target: str) -> None:
        """The pull that is adopted may be as fast as is asked now; it may also be over."""
        try:
            self.domain.limit_block_job(target, self.wish.bandwidth)
        except LibvirtFailed:
            if self.domain.is_active() and self.domain.is_pulled(target):
                raise

    def _require_as_decided(self, item: Flattening) -> None:
        """Raises DiskError where the domain, or its disk, is another than it was (HAZARDS G10)."""
        live = _block_job.live_disk(self.domain, item.target)
        known = item.disk.live
        if (
            not self.domain.is_persistent()
            or live is None
            or known is None
            or (live.source, live.volume) != (known.source, known.volume)
        ):
            raise DiskError(
                f"{self.domain.name}: went off, was undefined, or got another {item.target} in the meantime: nothing "
                "was changed: run again"
            )

    def _is_settled(self, item: Flattening) -> bool:
        """Whether the image is as before, or all of it on stable storage."""
        if self.domain.is_active():
            _block_job.write_out(self.domain, item.target)
            return not self.domain.is_pulled(item.target)
        return _image.inspect(self.qemu_img, item.path, item.image.format).backing_file == item.image.backing_file


def steps(state: DomainState, items: t.Sequence[Flattening], work: LiveWork) -> tuple[Step, ...]:
    """The steps of a live flattening, in order: record, pull each, forget. A pull that fails leaves its image valid."""
    record = _decision.record(state, "live", work.domain.run_number(), items)
    found = [Step("", partial(work.begin, record, items), work.restore)]
    for item in items:
        what = f"the pull of {item}" if item.target in work.adopted else f"{item}"
        how = f"wait for {what}, which an interrupted run began" if item.target in work.adopted else f"pull {what}"
        found.append(
            Step(f"{how}, below {state.name} while it runs", partial(work.pull, item), partial(work.end, item))
        )
    found.append(Step("", partial(work.finish, {item.path for item in items})))
    return tuple(found)


def end_pull(domain: Domain, target: str) -> None:
    """Ends the pull below a disk, if there is one."""
    if domain.is_active() and domain.is_pulled(target):
        _block_job.end(domain, target)


def name_chain(hypervisor: Hypervisor, domain: Domain, items: t.Iterable[Flattening]) -> None:
    """Has the definition name the backing files that the images have, where it names any, and nothing else changed.

    Raises LibvirtFailed where libvirt makes something else of it.
    """
    definition = domain.xml(inactive=True)
    wanted = shortened(definition, items)
    if wanted == definition:
        return
    hypervisor.define(wanted)
    difference = _disks.unexpected_difference(wanted, domain.xml(inactive=True))
    if difference:
        raise LibvirtFailed(f"{domain.name}: libvirt took another definition than it was given:\n{difference}")


def shortened(definition: str, items: t.Iterable[Flattening]) -> str:
    """The definition with the backing files that the images have once they are flattened."""
    for item in items:
        definition = _disks.with_shorter_chain(definition, item.target, _named(definition, item))
    return definition


def _named(definition: str, item: Flattening) -> str | None:
    """The base as the definition calls it."""
    if item.base is None:
        return None
    wanted = os.path.realpath(item.base.path)
    links = [link for disk in _disks.disks(definition) if disk.target == item.target for link in disk.chain or ()]
    names = [link.path for link in links if link.path and os.path.realpath(link.path) == wanted]
    return names[0] if names else item.base.path
