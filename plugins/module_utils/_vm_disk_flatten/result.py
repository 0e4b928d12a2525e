# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vm_disk_flatten returns of a disk: what it is now, and how it became that."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening

#: How a disk became what it is that was as wanted before.
UNCHANGED: dict[str, t.Any] = {
    "previous_backing_chain": None,
    "previous_actual_size": None,
    "mode": None,
    "verified": False,
}


def flattened(item: Flattening, mode: str | None, *, verified: bool) -> dict[str, t.Any]:
    """How a disk was flattened, or would be."""
    return {
        "previous_backing_chain": [image.facts() for image in item.images],
        "previous_actual_size": item.image.actual_size,
        "mode": mode,
        "verified": verified,
    }


def facts(domain: str, target: str, images: t.Sequence[Image], became: dict[str, t.Any]) -> dict[str, t.Any]:
    """One disk as the module returns it: its *images*, top first, and how it *became* so. Sizes are in bytes."""
    return {
        "domain": domain,
        "target": target,
        "path": images[0].path,
        "format": images[0].format,
        "virtual_size": images[0].virtual_size,
        "actual_size": images[0].actual_size,
        "backing_chain": [image.facts() for image in images],
        **became,
    }
