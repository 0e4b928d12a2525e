# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done while the records of images are held: decided once more, applied; what is noted of bases follows."""

from __future__ import annotations

import typing as t
from contextlib import ExitStack, nullcontext

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import may_still_happen
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan


def decide_and_do(
    decide: t.Callable[[Operation | None], Plan],
    verb: str,
    paths: t.Callable[[], t.Iterable[str]],
    module: AnsibleModule,
    counted: t.Callable[[], t.Iterable[str]],
) -> Plan:
    """The plan of carry_out(), decided again while the records of *paths* are held, and applied."""
    while True:
        with _lock.operation(verb, paths()) as operation, alone_on(module, verb, counted()):
            plan = decide(operation)
            if {*paths()} <= {*operation.paths}:
                apply_followed(plan, operation, module)
                return plan
        if not plan:
            return plan


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


def alone_on(module: AnsibleModule, verb: str, directories: t.Iterable[str]) -> t.ContextManager[None]:
    """Holds the file systems of *directories* against all others that count what they promise, where the task does."""
    if module.params.get("max_overcommit") is None:
        return nullcontext()
    from ansible_collections.kvmops.disk.plugins.module_utils._files import turns as _turns

    return _turns.alone_on(directories, verb)


def readers(module: AnsibleModule) -> _base_note.Readers:
    """Searches for the images that read a base as a module's parameters say: by uri and search_paths."""

    def search(base: str) -> list[str]:
        search_paths = module.params.get("search_paths", ())
        surroundings = Surroundings.at(module.params["uri"], search_paths, warn=module.warn)
        return surroundings.readers([base]).of(base)

    return search
