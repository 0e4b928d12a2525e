# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be true of the world before an image is rewritten: users, overlays, bitmaps, space."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import bitmaps as _bitmaps
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import bitmaps_of
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import KEEP_AUTO

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming


@dataclass(frozen=True)
class ChangeSurvey:
    """One look at everything around the disks of *state* whose images are to be rewritten."""

    surroundings: Surroundings
    state: DomainState

    def require_unused(self, item: Reclaiming) -> None:
        """Raises ImageInUse where somebody else has to do with the image."""

        def is_other(claim: Claim) -> bool:
            return (claim.uuid, claim.target) != (self.state.uuid, item.target)

        self.surroundings.require_unused(item.path, "rewrite it", is_other)

    def require_no_dependents(self, items: t.Iterable[Reclaiming]) -> None:
        """Raises HasDependents where overlays read an image."""
        for item in items:
            otherwise = "reclaim the space of what reads it, or flatten that (kvmops.disk.vm_disk_flatten)"
            self.surroundings.require_no_dependents(item.path, "rewrite it", otherwise)

    def require_space(self, items: t.Iterable[Reclaiming]) -> None:
        """Raises NotEnoughSpace where the new images do not fit beside the old ones."""
        demands = []
        for item in items:
            cluster = item.image.cluster_size
            bitmaps = carried_bitmaps(item).bytes_needed(item.image.virtual_size, cluster)
            demands.append((os.path.realpath(item.path), (item.most or 0) + bitmaps))
        _space.require_space(demands)


def carried_bitmaps(item: Reclaiming) -> Carried:
    """What becomes of the dirty bitmaps of the image."""
    return _bitmaps.carried(item.path, bitmaps_of(item.path, item.image.format), KEEP_AUTO, None)
