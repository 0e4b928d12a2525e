# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vm_disk_resize returns of a disk."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_resize.decision import Resizing


def facts(domain: str, item: Resizing, images: t.Sequence[Image]) -> dict[str, t.Any]:
    """The disk as the module returns it, with its *images* now, top first. Sizes are in bytes."""
    return {
        "domain": domain,
        "target": item.target,
        "path": item.path,
        "format": item.image.format,
        "virtual_size": images[0].virtual_size,
        "actual_size": images[0].actual_size,
        "previous_size": item.before if item.growth else None,
        "mode": item.mode if item.growth else None,
        "backing_chain": [image.facts() for image in images],
    }
