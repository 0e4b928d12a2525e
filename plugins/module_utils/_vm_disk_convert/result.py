# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vm_disk_convert returns of a disk: what it is now, and how it became that."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion

#: How a disk became what it is that was as wanted before.
UNCHANGED: dict[str, t.Any] = {
    "previous_path": None,
    "previous_format": None,
    "previous_actual_size": None,
    "mode": None,
    "verified": False,
    "downtime_seconds": None,
}


def converted(
    item: Conversion, source: Image, mode: str | None, *, verified: bool, downtime: float | None
) -> dict[str, t.Any]:
    """How a disk was converted, or would be; *downtime* is for how many seconds the domain was off for that."""
    return {
        "previous_path": item.source,
        "previous_format": item.source_format,
        "previous_actual_size": source.actual_size,
        "mode": mode,
        "verified": verified,
        "downtime_seconds": downtime,
    }


def facts(domain: str, disk: DomainDisk, images: t.Sequence[Image], became: dict[str, t.Any]) -> dict[str, t.Any]:
    """One disk as the module returns it: its *images*, top first, none for a disk without a file, and how it *became*
    so. Sizes are in bytes."""
    top = images[0] if images else None
    return {
        "domain": domain,
        "target": disk.target,
        "path": top.path if top else disk.path,
        "format": top.format if top else disk.format,
        "virtual_size": top.virtual_size if top else None,
        "actual_size": top.actual_size if top else None,
        "backing_chain": [image.facts() for image in images],
        **became,
    }
