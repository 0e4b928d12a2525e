# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vm_disk_reclaim returns of a disk: what its image occupied, and what it occupies now."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_reclaim.decision import Reclaiming


def facts(
    domain: str, item: Reclaiming, images: t.Sequence[Image], after: int | None, **became: t.Any
) -> dict[str, t.Any]:
    """One disk as the module returns it, with its *images*, top first: *after* is what its own occupies now, None
    before anything is done. *became*: how it was done, and why not. Sizes are in bytes."""
    before = item.image.actual_size
    return {
        "domain": domain,
        "target": item.target,
        "path": item.path,
        "format": item.image.format,
        "virtual_size": item.image.virtual_size,
        "actual_size": images[0].actual_size,
        "backing_chain": [image.facts() for image in images],
        "before": before,
        "after": after,
        "gained": max(0, before - after) if after is not None else item.foretold,
        **became,
    }
