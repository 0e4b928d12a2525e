# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A clone made: its images, its variable store, its definition, its first start; each with the way back.

All overlays of one size over one image are the same, byte for byte. So qemu-img makes the first of them, and the
others are copies of that (the tests compare them with what qemu-img makes).
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, Interrupted, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.staging import NewFile
from ansible_collections.kvmops.disk.plugins.module_utils._host.file_copy import reflink
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import WITH_BACKING
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.leftovers import MAKE, REMOVE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED, REFLINK, CloneWish

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases, Progress
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import (
        Blueprint,
        NewImage,
    )
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import SourceDisk

_LARGEST_MODEL = 16 << 20


@dataclass
class Overlays:
    """The overlays of one run: qemu-img is asked for the first of each kind, the others are copies of it."""

    qemu_img: QemuImg
    wish: CloneWish
    _models: dict[tuple[str, int], bytes] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def make(self, image: NewImage, name: str) -> None:
        key = (image.disk.path, image.size)
        with self._lock:
            if key not in self._models:
                self._create(image, name)
                if os.path.getsize(name) <= _LARGEST_MODEL:
                    with open(name, "rb") as stream:
                        self._models[key] = stream.read()
                return
        with open(name, "xb") as stream:
            stream.write(self._models[key])

    def _create(self, image: NewImage, name: str) -> None:
        options = creation_options(self.wish.layout(image.format))
        self.qemu_img.create(
            name, image.format, image.size, options, (image.disk.path, image.disk.format), unopened=True
        )


@dataclass
class Work:
    """One method for each step that makes a clone, no decisions between them.

    *stopped* tells that the task was told to end.
    """

    hypervisor: Hypervisor
    qemu_img: QemuImg
    operation: Operation
    overlays: Overlays
    wish: CloneWish
    plan: Blueprint
    stopped: t.Callable[[], bool]
    progress: Progress
    _files: dict[str, NewFile] = field(default_factory=dict, init=False)
    _domain: ActingDomain | None = field(default=None, init=False)
    _unsure: bool = field(default=False, init=False)

    def clear(self) -> None:
        """Removes what dead runs left where the clone comes to lie."""
        clear(self.operation)

    def make_image(self, image: NewImage) -> None:
        new = self._begin(image.path, image.disk.path)
        mode = self.plan.identity.mark.mode
        if mode == LINKED:
            self.overlays.make(image, new.name)
        elif mode == REFLINK:
            self._reflink(image, new.name)
        else:
            self._copy(image, new)
        _dress(new.name, image.disk)
        self._publish(new)

    def copy_nvram(self, source: str, path: str) -> None:
        new = self._begin(path, source)
        shutil.copyfile(source, new.name)
        _rest.resemble(new.name, source)
        self._publish(new)

    def withdraw(self, path: str) -> None:
        new = self._files.get(path)
        if new is not None and not self._unsure:
            new.withdraw()

    def define(self) -> None:
        """libvirt takes a definition of a known name and UUID for a change of that domain, so both are looked for."""
        if self.hypervisor.find(self.plan.identity.name) is not None:
            raise DiskError(f"{self.plan.identity.name}: a domain of this name was defined in the meantime")
        try:
            self._domain = acting(self.hypervisor.define(self.plan.definition.xml, validate=self.plan.validate))
        except LibvirtFailed:
            self._look_again()
            raise

    def undefine(self) -> None:
        if self._domain is None:
            return
        try:
            self._domain.undefine()
        except LibvirtFailed:
            self._keep()
            raise

    def start(self) -> None:
        if self._domain is not None:
            self._domain.start()

    def stop(self) -> None:
        if self._domain is not None and self._domain.is_active():
            self._domain.destroy()

    def _look_again(self) -> None:
        """A definition that failed may have been made (HAZARDS G9)."""
        try:
            found = self.hypervisor.find(self.plan.identity.name)
        except LibvirtFailed:
            self._keep()
            return
        if found is not None and found.uuid == self.plan.identity.uuid:
            self._domain = acting(found)

    def _keep(self) -> None:
        """Leaves the files where a definition may name them, and their records for the next run, which can tell."""
        self._unsure = True
        for path in self.operation.paths:
            self.operation.keep(path)

    def _begin(self, path: str, model: str) -> NewFile:
        self._require_wanted()
        if os.path.lexists(path):
            raise DiskError(
                f"{path}: a file exists already: it was left alone: remove it, or choose another name or disk_dir",
                path=path,
            )
        new = NewFile(path, model)
        new.begin()
        self._files[path] = new
        return new

    def _publish(self, new: NewFile) -> None:
        self._require_wanted()
        self.operation.note(new.path, item=self.plan.spec.name, new_file=new.identity())
        new.publish()

    def _copy(self, image: NewImage, new: NewFile) -> None:
        recipe = _transcode.Recipe(
            image.disk.path, image.disk.format, self.wish.layout(image.format), verify=self.wish.verify
        )
        qemu_img = self.qemu_img.holding(*self.operation.descriptors)
        _transcode.make(qemu_img, recipe, image.disk.images, image.disk.size, new, self._phases(image))
        self._grow(image, new.name)

    def _reflink(self, image: NewImage, name: str) -> None:
        """The image once more, which shares its blocks with the first until one of them is written to."""
        as_read = _same_file.last_write(image.disk.path)
        with open(image.disk.path, "rb") as source, open(name, "xb") as target:
            reflink(source.fileno(), target.fileno())
        if _same_file.last_write(image.disk.path) != as_read:
            raise DiskError(f"{image.disk.path}: was written to in the meantime: no clone was made of it")
        if image.format in WITH_BACKING:
            _graph.require_same_references(name, image.disk.images[0])
        if len(image.disk.images) > 1:
            below = image.disk.images[1]
            self.qemu_img.refer(name, image.format, (below.path, below.format))
        self._grow(image, name)

    def _grow(self, image: NewImage, name: str) -> None:
        if image.size > image.disk.size:
            self.qemu_img.resize(
                name, image.format, image.size, preallocation=self.wish.layout(image.format).preallocation
            )

    def _phases(self, image: NewImage) -> Phases:
        """The parts of the work on *image*, each of which ends where the task is told to end."""
        subject = f"{self.plan.spec.name} {image.disk.target}"
        return lambda verb, total: self.progress.phase(subject, verb, total, self._require_wanted)

    def _require_wanted(self) -> None:
        if self.stopped():
            raise Interrupted(f"{self.plan.spec.name}: not made, because the task was stopped")


def clear(operation: Operation) -> None:
    """Removes what dead runs made, or began to remove, as far as their records prove that the files are theirs."""
    for path in operation.paths:
        left = operation.left_behind(path)
        if left and left.get("verb") in (MAKE, REMOVE) and _same_file.is_file(path, left.get(NEW_FILE)):
            _base_note.remove(path)
        _staging.discard(path)
        operation.settled(path)


def _dress(name: str, disk: SourceDisk) -> None:
    """Owner, mode and labels of the source's image, which may be protected from writes: a clone's is not.

    Those of a block device are no model for a file.
    """
    if disk.block[0]:
        os.chmod(name, 0o600)
        return
    _rest.resemble(name, disk.path)
    os.chmod(name, disk.mode | stat.S_IWUSR)
