# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What clones that are there lack."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec, CloneWish


@dataclass(frozen=True)
class Lack:
    """What a clone that is there lacks: the definition that it is to have instead of *xml*, its *start*, and the end of
    a run that died on the paths *left*. Falsy where it lacks nothing."""

    name: str
    xml: str
    wanted: str
    start: bool = False
    left: tuple[str, ...] = ()

    @property
    def defines(self) -> bool:
        return self.wanted != self.xml

    def __bool__(self) -> bool:
        return self.defines or self.start or bool(self.left)


def lack(spec: CloneSpec, wish: CloneWish, found: Neighbour, left: t.Iterable[str]) -> Lack:
    """What the clone lacks, which has the right base. Raises DiskError where its definition has no place for that."""
    wanted = _decision_seed.with_seed(found.xml, spec.seed, wish.seed_bus) if spec.seed is not None else found.xml
    return Lack(spec.name, found.xml, wanted, start=wish.start and not found.active, left=tuple(left))
