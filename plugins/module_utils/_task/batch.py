# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several things that one task is about: each is done, and undone, by itself, many at once."""

from __future__ import annotations

import errno
import threading
import typing as t
from contextlib import ExitStack

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    Interrupted,
    NotEnoughSpace,
    may_still_happen,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._task.held import alone_on, settle_bases
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._task.items import Item

#: Seconds that a run waits for another one on one of the things: that may be at work on many.
PATIENCE = 120.0


#: What is to be done for an item, decided anew while its records are held.
Decide = t.Callable[[t.Any, Operation], Plan]


@dataclass
class Several:
    """The items of a task; *verb* stands in their records, and *at_once* is for how many these are held together.

    *counted* are the directories of new images, as for carry_out().
    """

    module: AnsibleModule
    verb: str
    at_once: int = 100
    counted: t.Sequence[str] = ()
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def stopped(self) -> bool:
        """Whether the task was told to end: what is under way then gives up, and is undone."""
        return self._stop.is_set()

    def carry_out(
        self, items: t.Iterable[t.Any], decide: Decide, prepare: t.Callable[[list[t.Any]], None] = lambda _items: None
    ) -> None:
        """Does what is open of *items*; the error of one is noted in it, and the others go on.

        *prepare* is told which items come next, while their records are held, and may note errors in them, too. What is
        noted of bases follows. Raises Interrupted where we are told to end; what is finished by then stays.
        """
        todo = sorted((item for item in items if item.open), key=lambda item: sorted(item.paths))
        for first in range(0, len(todo), self.at_once):
            self._carry_out_together(todo[first : first + self.at_once], decide, prepare)

    def _carry_out_together(
        self, items: t.Sequence[t.Any], decide: Decide, prepare: t.Callable[[list[t.Any]], None]
    ) -> None:
        with ExitStack() as held:
            ready, begun = [], []
            for item in items:
                try:
                    operation = held.enter_context(_lock.operation(self.verb, item.paths, PATIENCE))
                except DiskError as error:
                    item.error = error
                    continue
                _noted_bases.find(operation, item.bases)
                self._note(item, operation)
                begun.append((item, operation))
                ready.append((item, operation))
            held.enter_context(alone_on(self.module, self.verb, self.counted))
            try:
                prepare([item for item, _operation in ready])
                ready = [pair for pair in ready if pair[0].error is None]
                in_parallel(lambda pair: self._carry_out_one(*pair, decide), ready, self._stop.set)
            finally:
                settle_bases(self.module, [one for item, one in begun if not may_still_happen(item.error)])

    def _note(self, item: Item, operation: Operation) -> None:
        """Says beside each path what it is about, so that a run that dies early is known again, too."""
        for path in operation.paths:
            if operation.left_behind(path) is None:
                operation.note(path, durable=False, item=item.name)

    def _carry_out_one(self, item: Item, operation: Operation, decide: Decide) -> None:
        if self.stopped():
            raise Interrupted(f"{item.name}: not begun, because the task was stopped")
        try:
            plan = decide(item, operation)
            plan.apply()
            item.actions = tuple(plan.report()["actions"])
        except DiskError as error:
            item.error = error
            if may_still_happen(error):
                operation.keep_noted()
        except OSError as error:
            item.error = _told(item, error)


def _told(item: Item, error: OSError) -> DiskError:
    where = error.filename or (item.paths[0] if item.paths else item.name)
    kind = NotEnoughSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else DiskError
    return kind(f"{item.name}: {where}: {error.strerror}: what was begun was undone")
