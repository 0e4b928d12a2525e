# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vm_disk returns of a disk."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Spot


def facts(
    domain: str,
    spot: Spot,
    images: t.Sequence[Image],
    *,
    whose: t.Mapping[str, t.Any],
    attached: bool,
    pending: t.Sequence[str] = (),
    size: int | None = None,
) -> dict[str, t.Any]:
    """A disk as the module returns it, with its *images*, top first; *size* is what its image is to have, in bytes.

    *whose* says the owner, the group and the mode of its image. *attached*: the guest has it, or, where that is off,
    will have it. *pending* is what its next start changes.
    """
    top = images[0] if images else None
    return {
        "domain": domain,
        "target": spot.target or None,
        "bus": spot.bus or None,
        "device": spot.device,
        "path": spot.path or None,
        "format": spot.format,
        "virtual_size": size if size is not None else top.virtual_size if top else None,
        "actual_size": top.actual_size if top else None,
        "backing_chain": [image.facts() for image in images],
        "file": dict(whose),
        "attached": attached,
        "pending": list(pending),
    }
