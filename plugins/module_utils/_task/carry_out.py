# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A decision carried out: once without a lock, and where there is something to do once more, while records are held."""

from __future__ import annotations

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    ImageInUse,
    QemuImgFailed,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan

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
    if not plan or module.check_mode:
        return plan
    from ansible_collections.kvmops.disk.plugins.module_utils._task.held import decide_and_do

    return decide_and_do(decide, verb, paths, module, counted)


def decide_after_others(
    decide: t.Callable[[], _Decision],
    verb: str,
    paths: t.Callable[[], t.Iterable[str]],
    module: AnsibleModule,
    patience: float | None = None,
) -> _Decision:
    """What *decide* says, and where other runs at work on *paths* are in its way, once more after each of them.

    They may have an image open, or be moving its files. One may also have ended between the decision and the look for
    it, so that no decision is believed before the second one without any. In check mode nobody is waited for.
    """
    deadline, looked_alone = None, False
    while True:
        try:
            return decide()
        except (ImageInUse, QemuImgFailed):
            alive = any((_beside.look(path) or {}).get("alive") for path in paths())
            if module.check_mode or (looked_alone and not alive):
                raise
            looked_alone = not alive
            if not alive:
                continue
            from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock

            now = time.monotonic()
            deadline = now + (_lock.PATIENCE if patience is None else patience) if deadline is None else deadline
            if now > deadline:
                raise
            with _lock.operation(verb, paths(), deadline - now):
                pass
