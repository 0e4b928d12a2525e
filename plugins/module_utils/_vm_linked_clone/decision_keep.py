# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What clones that are there lack, and the steps that give them that. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_seed as _decision_seed

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Existing
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec, CloneWish


@dataclass(frozen=True)
class Lack:
    """What a clone that is there lacks: the definition that it is to have instead of *xml*, its *start*, and the end of
    a run that died on the paths *left*. Falsy where it lacks nothing."""

    name: str
    uuid: str
    xml: str
    wanted: str
    start: bool = False
    left: tuple[str, ...] = ()

    @property
    def defines(self) -> bool:
        return self.wanted != self.xml

    def __bool__(self) -> bool:
        return self.defines or self.start or bool(self.left)


class Work(t.Protocol):
    """What is done to the world when a clone is given what it lacks."""

    def forget(self) -> None: ...

    def define(self) -> None: ...

    def define_again(self) -> None: ...

    def start(self) -> None: ...


def lack(spec: CloneSpec, wish: CloneWish, found: Existing, left: t.Iterable[str]) -> Lack:
    """What the clone lacks, which has the right base. Raises DiskError where its definition has no place for that."""
    wanted = _decision_seed.with_seed(found.xml, found.seed, wish.seed_bus) if found.seed is not None else found.xml
    start = wish.start and not found.active
    return Lack(spec.name, found.looks.uuid, found.xml, wanted, start=start, left=tuple(left))


def steps(missing: Lack, seed: str | None, work: Work) -> tuple[Step, ...]:
    """The steps, in order; *seed* is the file that goes into the definition."""
    found = []
    if missing.left:
        found.append(Step(f"forget the run that was interrupted when it had made {missing.name}", work.forget))
    if missing.defines:
        found.append(Step(f"give {missing.name} the seed {seed}", work.define, work.define_again))
    if missing.start:
        found.append(Step(f"start {missing.name}", work.start))
    return tuple(found)
