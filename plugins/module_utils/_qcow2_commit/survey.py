# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The images that are to be merged, as they are found, and what has to be true of the world around them before."""

from __future__ import annotations

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
from ansible_collections.kvmops.disk.plugins.module_utils._task.image_task import InPlaceTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users


class CommitSurvey(InPlaceTask):
    """A look at the chain of the overlay, at who uses it, and at the space that there is."""

    def __init__(self, module: AnsibleModule, wish: CommitWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.openers = _key_slots.openers_from(module.params, "encryption")
        self.trusted: bool = module.params["trusted"]
        self.qemu_img = self.qemu_img.limiting(not self.trusted)

    def look(self) -> tuple[_image.Image, ...]:
        """The images from the overlay to the base. Raises DiskError where they are not what the task says."""
        path = self.wish.path
        if os.path.islink(path) and self.wish.end != "keep":
            raise UnsafeImage(
                f"{path}: is a symbolic link, asked to {self.wish.end} it: name {os.path.realpath(path)} itself",
                path=path,
            )
        below = next(_image.Links().of(path, self.wish.format), (None, None))[0]
        chain = Trust(self.trusted, self._declared(below)).look(self.qemu_img, path, self.wish.format)
        depth = _decision.depth_of_base(self.wish, chain, is_same)
        self.require_secret("merge it", *chain)
        self.unlock(*chain)
        for image in chain[: depth + 1]:
            _image.require_regular_file(image.path)
        for image in chain[1 : depth + 1]:
            _image.require_format(image.path, image.format)
        return chain[: depth + 1]

    def _declared(self, below: str | None) -> tuple[str, ...]:
        """The files that the overlay may read: the base that the task names, and what lies beside the overlay.

        Whoever made an image can have it name any file, and this module writes to that one.
        """
        path, base = self.wish.path, self.wish.base
        if below is None or self.trusted:
            return ()
        directory = os.path.dirname(os.path.realpath(path))
        if os.path.dirname(os.path.realpath(below)) != directory and not (base and is_same(below, base)):
            raise UnsafeImage(
                f"{path}: reads the backing file {below}, which lies in another directory, and which the task does "
                "not name: the merge would write to a file that may belong to something else: name it as base, or "
                "set trusted=true if you know that it belongs there",
                path=path,
                reference=below,
            )
        return (below,)

    def require_unused(self, images: t.Iterable[_image.Image]) -> None:
        """What somebody writes meanwhile proves nothing, and must not be written."""
        running = [user for user in self.users() if user.running]
        for image in images:
            _users.require_unused(image.path, running, "merge the overlay " + self.wish.path)

    def require_possible(self, observed: Observed) -> None:
        """Raises where the images cannot be merged, or where that would hurt somebody."""
        _merge.require_mergeable(observed)
        overlay = observed.overlay
        _decision.require_endable(self.wish, overlay, _bitmaps.bitmaps_of(overlay.path, overlay.format))
        users = self.users()
        for image in observed.images:
            self.require_no_saved_state(image.path, users)
            self._require_in_no_snapshot(image.path, users)
        self._require_no_other_users(observed, users)
        if not observed.is_merged:
            self._require_writable(observed)
            self._require_no_siblings(observed, users)
            self._require_space(observed)

    def _require_in_no_snapshot(self, path: str, users: t.Iterable[_users.User]) -> None:
        found = [user for user in users if user.role == "disk in a snapshot"]
        for user in _users.users_of(path, found):
            raise ImageInUse(
                f"{path}: is a disk in a snapshot of domain {user.domain}, in libvirt's records: remove that snapshot "
                "with kvmops.disk.vm_disk_snapshot (state=absent), which merges it as well; or its record alone "
                "(virsh snapshot-delete --metadata)",
                path=path,
                in_use_by=[dict(vars(user))],
            )

    def _require_no_other_users(self, observed: Observed, users: t.Sequence[_users.User]) -> None:
        """Raises where a domain has an image that goes, or that will be no disk of its own any more."""
        ends = f"{self.wish.end} it after its merge into {observed.base.path}"
        if self.wish.end == "remove":
            _users.require_unused(observed.overlay.path, users, ends)
        for image in observed.between:
            found = [user for user in users if self.wish.end != "keep" or user.role == "disk"]
            _users.require_unused(image.path, found, f"write to {observed.base.path}, below it")

    def _require_no_siblings(self, observed: Observed, users: t.Sequence[_users.User]) -> None:
        """Raises HasDependents where other overlays read what is written, what that makes no disk any more, or what
        goes."""
        if self.module.params["allow_dependents"]:
            return
        images, goes = observed.images, self.wish.end == "remove"
        readers = self.readers([image.path for image in images], users)
        touched = [*(images[:-1] if goes else ()), *(images[1:] if not observed.is_merged else ())]
        for image in dict.fromkeys(touched):
            others = [path for path in readers.of(image.path) if not any(is_same(path, one.path) for one in images)]
            _dependents.require_none(
                image.path,
                others,
                f"merge {observed.overlay.path} into {observed.base.path}",
                "set allow_dependents=true to give them up",
            )

    def _require_writable(self, observed: Observed) -> None:
        for image in (observed.overlay, observed.base):  # QEMU opens both so
            if not os.access(image.path, os.W_OK):
                raise DiskError(f"{image.path}: no permission to write to it", path=image.path)

    def _require_space(self, observed: Observed) -> None:
        base = observed.base
        in_base = self.qemu_img.held(base.path, base.format, data=True)
        needed = _merge.bytes_needed(base, observed.overlay.virtual_size, observed.held, in_base)
        demands = [(os.path.realpath(base.path), needed)]
        if self.wish.end == "empty":
            overlay = observed.overlay
            options = creation_options(_decision.empty_layout(overlay))
            measured = self.qemu_img.measure_empty(overlay.virtual_size, "qcow2", options)
            header = _encryption.HEADER_BYTES if overlay.encrypted else 0
            demands.append((overlay.path, measured.required + header))
        _space.require_space(demands)


def is_same(one: str, other: str) -> bool:
    """Whether two names mean one file."""
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)
