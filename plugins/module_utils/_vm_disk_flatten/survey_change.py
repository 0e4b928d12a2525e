# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of the world before the disks of a domain are made independent: users, bitmaps, space."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import layout_of
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision_obstacles as _obstacles

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening


@dataclass(frozen=True)
class ChangeSurvey:
    """One look at everything around the disks of *state* that are to be flattened."""

    surroundings: Surroundings
    qemu_img: QemuImg
    state: DomainState

    def require_unused(self, items: t.Sequence[Flattening]) -> None:
        """Raises ImageInUse where somebody else has to do with an image that is to change, or writes one below it.

        Offline, the overlays of other domains that are off too do not stand in the way: they read the same afterwards.
        """
        live = self.state.active
        for item in items:
            self.surroundings.require_unused(item.path, "flatten it", self._is_in_the_way_of(item), locks=not live)
            for below in item.images[1:] if not live else ():
                if _image_locks.is_locked(below.path, against_readers=True):
                    raise ImageInUse(
                        f"{below.path}: is open for writing, asked to flatten {item.path}, which reads it: "
                        "stop what uses it first",
                        path=below.path,
                        in_use_by=[],
                    )

    def _is_in_the_way_of(self, item: Flattening) -> t.Callable[[_users.Claim], bool]:
        def counts(claim: _users.Claim) -> bool:
            if (claim.uuid, claim.target) == (self.state.uuid, item.target):
                return False
            return self.state.active or claim.running or claim.role != "backing file of"

        return counts

    def require_no_bitmaps(self, items: t.Sequence[Flattening]) -> None:
        """Raises DiskError where a new image would not have the dirty bitmaps of the old one."""
        for item in items:
            specific = self.qemu_img.info(item.path, item.image.format).get("format-specific", {}).get("data", {})
            _obstacles.require_no_bitmaps(item, [bitmap["name"] for bitmap in specific.get("bitmaps", ())])

    def require_space(self, items: t.Sequence[Flattening]) -> None:
        """Raises NotEnoughSpace. Live, the image grows where it is; offline, it is made anew beside it."""
        live = self.state.active
        demands = []
        for item in items:
            image = item.image
            layout = layout_of(image)
            options = layout.options() if layout.format == "qcow2" else {}
            measured = self.qemu_img.measure(item.path, image.format, "qcow2", options).required
            needed = _decision.most_bytes(item, measured)
            demands.append((item.file, max(0, needed - image.actual_size) if live else needed))
        _space.require_space(demands)
