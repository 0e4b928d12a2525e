# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A clone as the module returns it: one that is there, and one that is to be made."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_existing as _decision_existing,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Blueprint
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source


def facts_of(found: Neighbour, source: Source, seed: str | None) -> dict[str, t.Any]:
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
                "backing_file": _decision_existing.first_backing(disk),
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
