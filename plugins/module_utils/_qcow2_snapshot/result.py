# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qcow2_snapshot returns."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.decision import Observed, outcome

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish


def facts(plan: Plan, image: Image, removed: t.Sequence[str]) -> dict[str, t.Any]:
    """The result of *plan*, after which the image is *image*; *removed* are the snapshots that have gone."""
    return {
        **plan.full_report(),
        "snapshots": [dict(vars(snapshot)) for snapshot in image.snapshots],
        "removed": [*removed],
        "image": image.facts(),
    }


def predicted(plan: Plan, wish: SnapshotWish, observed: Observed) -> Image:
    """The image after *plan*, which is not carried out."""
    image = observed.image
    if not plan:
        return image
    if wish.state == "reverted":
        return replace(image, virtual_size=plan.after["virtual_size"])
    return replace(image, snapshots=tuple(entry.snapshot for entry in outcome(wish, observed)))
