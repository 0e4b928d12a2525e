# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images that are to be merged, as they are found, and what has to be true of the world around them before."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image import links as _links
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.leftovers import is_same
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import GIVE_THEM_UP, Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import running

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Rest
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


class CommitSurvey:
    """A look at the chain of the overlay, at who uses it, and at the space that there is.

    *qemu_img* opens the images with their secrets once they were looked at. *verified*: the base was compared with the
    overlay, and is the same. *phases* tell how far that is.
    """

    def __init__(self, wish: CommitWish, qemu_img: QemuImg, surroundings: Surroundings, phases: Phases) -> None:
        self.qemu_img = qemu_img
        self.verified = False
        self._wish = wish
        self._surroundings = surroundings
        self._phases = phases

    def look(self) -> tuple[Image, ...]:
        """The images from the overlay to the base. Raises DiskError where they are not what the task says."""
        path = self._wish.path
        if os.path.islink(path) and self._wish.end != "keep":
            raise UnsafeImage(
                f"{path}: is a symbolic link, asked to {self._wish.end} it: name {os.path.realpath(path)} itself",
                path=path,
            )
        below = next(_links.Links().of(path, self._wish.format), (None, None))[0]
        chain = Trust(self._wish.trusted, self._declared(below)).look(self.qemu_img, path, self._wish.format)
        self.qemu_img = _graph.following(self.qemu_img, chain)
        require_whole(chain)
        depth = _decision.depth_of_base(self._wish, chain, self._named(chain))
        _encryption.require_secret(chain, self._wish.openers, "merge it")
        self._unlock(chain, self._wish.openers)
        for image in chain[: depth + 1]:
            _image.require_regular_file(image.path)
        for image in chain[1 : depth + 1]:
            _image.require_format(image.path, image.format)
        return chain[: depth + 1]

    def require_unused(self, images: t.Iterable[Image]) -> None:
        """What somebody writes meanwhile proves nothing, and must not be written."""
        for image in images:
            self._surroundings.require_unused(image.path, "merge the overlay " + self._wish.path, running)

    def observe(self, images: tuple[Image, ...]) -> Observed:
        """What of the disk *images* hold, from the overlay to the base; and where that is to be kept, whether the base
        has the same already."""
        overlay, base = images[0], images[-1]
        held = self.qemu_img.allocated(overlay.path, overlay.format, len(images) - 1)
        observed = Observed(images, held)
        if self._wish.end == "keep" and held and base.virtual_size >= overlay.virtual_size:
            observed = replace(observed, differs=not self.is_same_content(observed))
        return observed

    def is_same_content(self, observed: Observed) -> bool:
        """Whether the base, by itself, is the disk that the overlay shows."""
        from ansible_collections.kvmops.disk.plugins.module_utils._content.comparison import same_content

        overlay, base = observed.overlay, observed.base
        with self._phases("compare", overlay.virtual_size) as phase:
            shown, merged = (overlay.path, overlay.format), (base.path, base.format)
            self.verified = same_content(self.qemu_img, shown, merged, report=phase.percent)
        return self.verified

    def require_nobody_hurt(self, observed: Observed) -> None:
        """Raises where the merge would hurt somebody, or could not write what it has to."""
        users = self._surroundings.users
        for image in observed.images:
            self._surroundings.require_no_saved_state(image.path, "merge it")
            _require_in_no_snapshot(image.path, users)
            self._surroundings.require_resolved(image.path, "merge it")
        self._require_no_other_users(observed, users)
        if not observed.is_merged:
            for image in (observed.overlay, observed.base):  # QEMU opens both so
                _access.require_writable(image.path, "merge them")
            self._require_no_siblings(observed)
            self._require_space(observed)

    def look_at_base(self, rest: Rest) -> None:
        """Has what is left of a chain opened with the secret of what the overlay read."""
        openers = self._wish.openers
        if rest.base is None or rest.base_format is None:
            return
        _image.require_format(rest.base, rest.base_format)
        base = _image.inspect(self.qemu_img, rest.base, rest.base_format)
        self._unlock([base], Openers(openers.below, openers.below) if openers else None)

    def require_removable(self, images: t.Sequence[str]) -> None:
        """Raises where somebody has come to use *images*, which a dead run was about to remove."""
        if not images:
            return
        readers = self._surroundings.readers(images)
        for path in images:
            _unused.require_unused(path, self._surroundings.users, "remove it after its merge")
            self._surroundings.require_resolved(path, "remove it after its merge")
            others = [reader for reader in readers.of(path) if reader not in images]
            _dependents.require_none(path, others, "remove it after its merge", "remove its record")

    def _declared(self, below: str | None) -> tuple[str, ...]:
        """The files that the overlay may read: the base that the task names, and what lies beside the overlay.

        Whoever made an image can have it name any file, and this module writes to that one.
        """
        path, base = self._wish.path, self._wish.base
        if below is None or self._wish.trusted:
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

    def _named(self, chain: t.Sequence[Image]) -> list[int]:
        """The places of the images below the overlay that the task means by its base."""
        base = self._wish.base
        return [number for number, image in enumerate(chain) if number and base and is_same(image.path, base)]

    def _unlock(self, images: t.Sequence[Image], openers: Openers | None) -> None:
        if openers is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, images, openers)

    def _require_no_other_users(self, observed: Observed, users: t.Sequence[_users.User]) -> None:
        """Raises where a domain has an image that goes, or that will be no disk of its own any more."""
        ends = f"{self._wish.end} it after its merge into {observed.base.path}"
        if self._wish.end == "remove":
            _unused.require_unused(observed.overlay.path, users, ends)
        for image in observed.between:
            found = [user for user in users if self._wish.end != "keep" or user.role == "disk"]
            _unused.require_unused(image.path, found, f"write to {observed.base.path}, below it")

    def _require_no_siblings(self, observed: Observed) -> None:
        """Raises HasDependents where other overlays read what is written, what that makes no disk any more, or what
        goes."""
        if self._wish.allow_dependents:
            return
        images, goes = observed.images, self._wish.end == "remove"
        readers = self._surroundings.readers([image.path for image in images])
        touched = [*(images[:-1] if goes else ()), *(images[1:] if not observed.is_merged else ())]
        for image in dict.fromkeys(touched):
            others = [path for path in readers.of(image.path) if not any(is_same(path, one.path) for one in images)]
            to_do = f"merge {observed.overlay.path} into {observed.base.path}"
            _dependents.require_none(image.path, others, to_do, GIVE_THEM_UP)

    def _require_space(self, observed: Observed) -> None:
        base = observed.base
        if base.format == "raw":
            _space.require_length(base.path, observed.overlay.virtual_size)
        in_base = self.qemu_img.held(base.path, base.format, data=True)
        needed = _merge.bytes_needed(base, observed.overlay.virtual_size, observed.held, in_base)
        demands = [(os.path.realpath(base.path), needed)]
        if self._wish.end == "empty":
            overlay = observed.overlay
            empty = _decision.empty_layout(overlay).bytes_of_empty(overlay.virtual_size)
            header = _encryption.HEADER_BYTES if overlay.encrypted else 0
            demands.append((overlay.path, empty + header))
        _space.require_space(demands)


def _require_in_no_snapshot(path: str, users: t.Iterable[_users.User]) -> None:
    found = [user for user in users if user.role == "disk in a snapshot"]
    for user in _users.users_of(path, found):
        raise ImageInUse(
            f"{path}: is a disk in a snapshot of domain {user.domain}, in libvirt's records: remove that snapshot "
            "with kvmops.disk.vm_disk_snapshot (state=absent), which merges it as well; or its record alone "
            "(virsh snapshot-delete --metadata)",
            path=path,
            in_use_by=[dict(vars(user))],
        )
