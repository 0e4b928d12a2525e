# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A decision carried out: once without a lock, once more while the records are held; what is noted of bases follows."""

from __future__ import annotations

import typing as t
from contextlib import ExitStack

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    ImageInUse,
    QemuImgFailed,
    may_still_happen,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases

_Decision = t.TypeVar("_Decision")


def carry_out(
    decide: t.Callable[[Operation | None], Plan],
    verb: str,
    paths: t.Callable[[], t.Iterable[str]],
    module: AnsibleModule,
    *,
    counted: t.Callable[[], t.Iterable[str]] = lambda: (),
) -> Plan:
    """Decides, and where there is something to do, does it.

    *decide* looks at the world and returns the plan. It is called once without a lock: what needs no change writes
    nothing, not even a record; and once more while the records of *paths* are held, since the world may have moved.
    *paths* is asked for after each; where the second plan means other images than are held, all begins anew.
    *counted* are the directories of new or larger images, asked for like *paths*: with max_overcommit nobody else fills
    their file systems meanwhile who counts, too, what they may come to need.
    """
    plan = decide_after_others(lambda: decide(None), verb, paths, module)
    while plan and not module.check_mode:
        with _lock.operation(verb, paths()) as operation, alone_on(module, counted()):
            plan = decide(operation)
            if {*paths()} <= {*operation.paths}:
                apply_followed(plan, operation, module)
                break
    return plan


def decide_after_others(
    decide: t.Callable[[], _Decision],
    verb: str,
    paths: t.Callable[[], t.Iterable[str]],
    module: AnsibleModule,
    patience: float = _lock.PATIENCE,
) -> _Decision:
    """What *decide* says, and where another run that is at work on *paths* is in its way, once more after that run.

    It may have an image open, or be moving its files. In check mode nobody is waited for.
    """
    try:
        return decide()
    except (ImageInUse, QemuImgFailed) as error:
        alive = any((_lock.look(path) or {}).get("alive") for path in paths())
        if module.check_mode or (isinstance(error, ImageInUse) and not alive):
            raise
        if alive:
            with _lock.operation(verb, paths(), patience):
                pass
        return decide()


def apply_followed(plan: Plan, operation: Operation, module: AnsibleModule) -> None:
    """Applies *plan*; what is noted of bases follows, whether it succeeds or not, unless nobody knows that."""
    _noted_bases.find(operation, {})
    with ExitStack() as ended:
        ended.push(lambda _kind, error, _trace: None if may_still_happen(error) else settle_bases(module, [operation]))
        plan.apply()


def settle_bases(module: AnsibleModule, operations: t.Iterable[Operation]) -> None:
    """Brings what is noted of bases up to date; a warning says what could not be."""
    for failure in _noted_bases.settle(operations, readers(module)):
        module.warn(failure)


def alone_on(module: AnsibleModule, directories: t.Iterable[str]) -> t.ContextManager[None]:
    """Holds the file systems of *directories* against all others that count what they promise, where the task does."""
    return _lock.alone_on(directories if module.params.get("max_overcommit") is not None else ())


def readers(module: AnsibleModule) -> _base_note.Readers:
    """Searches for the images that read a base as a module's parameters say: by uri and search_paths."""

    def search(base: str) -> list[str]:
        surroundings = Surroundings.at(module.params["uri"], module.params.get("search_paths", ()))
        return surroundings.readers([base]).of(base)

    return search
