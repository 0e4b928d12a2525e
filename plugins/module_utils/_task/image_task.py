# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task on one image that may be written where it is: its secrets, its overlays, what a dead run left on it."""

from __future__ import annotations

import functools
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._task import attributes as _attributes
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import Task

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
    from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts


class InPlaceTask(Task):
    """A task on the image at *path*, which *openers* open where it is encrypted.

    *limited*: qemu-img gets only so much of the host, since nobody knows who wrote the image.
    """

    def __init__(
        self, module: AnsibleModule, path: str, openers: Openers | None = None, *, limited: bool = True
    ) -> None:
        qemu_img = _door.find(limited=limited)
        super().__init__(module, qemu_img, functools.lru_cache(None)(self._find_libvirts))
        self.path = path
        self.openers = openers

    @property
    def only_reads(self) -> bool:
        """Whether the task asks for nothing that writes: then a libvirt that does not answer is only warned of."""
        return False

    def _find_libvirts(self) -> Libvirts:
        from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import ask

        return ask(self.module.params["uri"], must_answer=not self.only_reads)

    def paths(self) -> t.Iterable[str]:
        return [self.path]

    def settling(
        self, image_format: str | None, operation: Operation | None, *, finishing: str | None = None
    ) -> tuple[Step, ...]:
        """What is to be done first where a run died on the image."""
        if operation is None and not _beside.has_traces(self.path):
            return ()
        from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import interrupted

        return interrupted(self.path, image_format, operation, self.holding(operation), finishing=finishing)

    def dress(self, path: str) -> None:
        """Gives the file of a new image what the task says of its owner, mode and attributes."""
        _attributes.dress(self.module, path)

    def unlock(self, *images: Image) -> None:
        """Has *images*, one and what it reads, opened with the secrets of the task from now on, where it gives any.

        Raises DiskError where those do not open them.
        """
        if self.openers is not None:
            from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots

            self.qemu_img = _key_slots.unlocked(self.qemu_img, images, self.openers)

    def require_secret(self, to_do: str, *images: Image) -> None:
        """Raises DiskError where one of *images* is encrypted, and the task gives no secret."""
        if any(image.encrypted for image in images):
            from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import require_secret

            require_secret(images, self.openers, to_do)

    def require_no_dependents(self, to_do: str) -> None:
        """Raises HasDependents where overlays read what is to be written, unless the task gives them up."""
        if not self.module.params["allow_dependents"]:
            self.surroundings.require_no_dependents(self.path, to_do)
