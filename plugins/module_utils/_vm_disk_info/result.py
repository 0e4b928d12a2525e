# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vm_disk_info returns of a disk, and what it warns of."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info.survey import Observed, SeenImages


def facts(
    observed: Observed, disk: DomainDisk, seen: SeenImages, users: t.Iterable[User], dependents: t.Sequence[str]
) -> dict[str, t.Any]:
    """One disk as the module returns it. *users* are the other domains that use its image, *dependents* the images that
    read it; sizes are in bytes."""
    state, element, top = observed.state, disk.element, seen.images[0] if seen.images else None
    return {
        "domain": state.name,
        "uuid": state.uuid,
        "state": state.state,
        "target": disk.target,
        "bus": element.bus,
        "device": element.device,
        "type": element.type,
        "path": disk.path,
        "format": disk.format,
        "readonly": element.readonly or element.device == "cdrom",
        "shareable": element.shareable,
        "discard": element.discard,
        "virtual_size": top.virtual_size if top else None,
        "actual_size": top.actual_size if top else None,
        "backing_chain": [image.facts() for image in seen.images],
        "users": [asdict(user) for user in users],
        "dependents": list(dependents),
        "job": observed.has_job(disk),
        "unfinished": observed.is_unfinished(disk),
        "problem": seen.problem or state.unreadable or (observed.silence if disk.live else None),
    }


def warning(observed: Observed, disk: dict[str, t.Any]) -> str | None:
    """What to say of a *disk*, as facts() describes it, that a guest writes while clones read its image, which nothing
    prevents (HAZARDS G18); None where there is no need."""
    if not observed.state.active or not disk["dependents"] or disk["readonly"]:
        return None
    return (
        f"{disk['domain']} is {disk['state']} on {disk['path']} ({disk['target']}), which {len(disk['dependents'])} "
        f"image(s) read as their backing file ({', '.join(disk['dependents'][:5])}): what its guest writes destroys "
        "those: shut it down, and make them again from a base that no domain runs on"
    )
