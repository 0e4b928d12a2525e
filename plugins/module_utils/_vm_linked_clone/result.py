# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A clone as the module returns it: one that is there, one that is to be made, to go, or to move."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED, CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Blueprint
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
        Existing,
        Neighbour,
    )
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_rebase import Move
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks, Mark


def facts_of(found: Existing, source: Source, seed: str | None) -> dict[str, t.Any]:
    """A clone that is there, with the disks that *source* has, too, and the *seed* that it has, or is to have."""
    disks = [disk for disk in found.disks if disk.target in {one.target for one in source.disks}]
    return {
        "name": found.looks.name,
        "uuid": found.looks.uuid,
        "macs": list(found.looks.macs),
        "nvram": found.looks.nvram,
        "seed": seed or _decision_seed.of(found.xml, found.looks.mark),
        "disks": [
            {
                "target": disk.target,
                "path": disk.path,
                "format": disk.format,
                "backing_file": disk.chain[0] if disk.chain else None,
            }
            for disk in disks
        ],
        "identity": [],
        "shared": [],
    }


def facts_of_new(plan: Blueprint, unknown: t.Collection[t.Any]) -> dict[str, t.Any]:
    """A clone that is to be made, or has been made so; *unknown* are values that are random, and not chosen yet."""
    identity = plan.identity
    return {
        "name": identity.name,
        "uuid": None if identity.uuid in unknown else identity.uuid,
        "macs": list(identity.macs),
        "nvram": identity.nvram,
        "seed": plan.spec.seed or _decision_seed.of(plan.definition.xml, identity.mark),
        "disks": [
            {
                "target": disk.target,
                "path": disk.path,
                "format": disk.format,
                "backing_file": disk.chain[0].path if disk.chain else None,
            }
            for disk in identity.disks
        ],
        "identity": [
            {**asdict(change), "after": None if change.after in unknown else change.after}
            for change in plan.definition.changes
        ],
        "shared": list(plan.definition.shared),
    }


def facts_of_none(name: str) -> dict[str, t.Any]:
    """A clone that is to go, where there is no domain of its name."""
    return {"name": name, "uuid": None, "macs": [], "disks": [], "kept": []}


def facts_of_removed(found: Neighbour, mark: Mark, kept: t.Iterable[str]) -> dict[str, t.Any]:
    """A clone that is to go, with what is *kept* of it."""
    disks = [{"target": disk.target, "path": disk.path, "backing_file": disk.base} for disk in mark.disks]
    looks = found.looks
    return {"name": looks.name, "uuid": looks.uuid, "macs": list(looks.macs), "disks": disks, "kept": list(kept)}


def facts_of_moved(looks: Looks, moves: t.Iterable[Move]) -> dict[str, t.Any]:
    """A clone that has another base, or is to have one."""
    disks = [
        {"target": one.disk.target, "path": one.path, "format": one.disk.format, "backing_file": one.base.path}
        for one in moves
    ]
    told = {"name": looks.name, "uuid": looks.uuid, "macs": list(looks.macs), "nvram": looks.nvram, "disks": disks}
    return {**told, "identity": [], "shared": []}


def warnings(wish: CloneWish, new: t.Sequence[Blueprint], missing: t.Sequence[str]) -> list[str]:
    """What is done as *wish* has it, and may still hurt: of *new* clones, and of seeds that are *missing*."""
    found = []
    if new and new[0].identity.mark.mode == LINKED and not wish.protect_base:
        found.append(f"{wish.source} is not protected: starting it, or changing its images, destroys its clones")
    if missing:
        found.append(f"seed: {', '.join(missing)}: does not exist yet: make it before the task runs outside check mode")
    if new and new[0].definition.shared:
        shared = ", ".join(new[0].definition.shared)
        found.append(
            f"{wish.source} and its clones share what only one of them can have, or write, while it runs: {shared}"
        )
    return found


def definition_diff(source: Source, plan: Blueprint, unknown: t.Collection[str]) -> str:
    """The definition of a clone that is to be made, or has been made so, against that of its source."""
    after = plan.definition.xml
    for value in unknown:
        after = after.replace(value, "random")
    return _disk_changes.definition_diff(source.definition, after)
