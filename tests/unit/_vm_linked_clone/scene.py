# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wishes for clones of a domain with one disk, that domain, and a clone of it: plain facts."""

from __future__ import annotations

from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
    Existing,
    ExistingDisk,
    Neighbour,
    NeighbourDisk,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec, CloneWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks, Mark
from unit.samples import MIB, disk, domain, element, qcow2

UUID = "22222222-2222-4222-8222-222222222222"
GOLDEN = "/images/golden.qcow2"
ELEMENT = element(GOLDEN, "qcow2")


def spec(**given: Any) -> CloneSpec:
    return CloneSpec.parse({"name": "pc-1", **given}, {})


def wish(*clones: CloneSpec, **fields: Any) -> CloneWish:
    return CloneWish("golden", clones or (spec(),), **fields)


def state(*disks: DiskElement, **fields: Any) -> DomainState:
    return domain(*(disk(found) for found in (disks or (ELEMENT,))), name="golden", **fields)


SOURCE = Source(state(), Looks("golden", "u", (), 0, 1, None, None, None), (SourceDisk("vda", (qcow2(),), (False,)),))
LOOKS = Looks("pc-1", UUID, ("52:54:00:00:00:01",), 256 * MIB, 2, "a desk", None, Mark("golden", "u", "full", ()))
NEIGHBOUR = Neighbour(
    LOOKS, frozenset(LOOKS.macs), False, (NeighbourDisk("vda", "/d/pc-1.qcow2", "qcow2"),), "<domain/>"
)
THERE = Existing(LOOKS, False, "<domain/>", (ExistingDisk("vda", "/d/pc-1.qcow2", "qcow2", there=True),))
