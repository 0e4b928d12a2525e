# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many looks at once, where the host has cores for them."""

from __future__ import annotations

import functools
import os
import threading
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._signals import refuse

_Item = t.TypeVar("_Item")
_Answer = t.TypeVar("_Answer")


def in_parallel(
    look: t.Callable[[_Item], _Answer], items: t.Sequence[_Item], cut_short: t.Callable[[], object] | None = None
) -> list[_Answer]:
    """What *look* answers for each of *items*, in their order. A look waits for another program most of its time.

    Where one fails, or we are told to end, no further one is begun, and those that are under way are waited for;
    *cut_short* is called before that.
    """
    if len(items) < 2:
        return [look(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # loaded where there is something to gain by it

    with ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1), initializer=refuse) as threads:
        try:
            return list(threads.map(look, items))
        except BaseException:
            if cut_short:
                cut_short()
            raise


def once(look: t.Callable[[_Item], _Answer]) -> t.Callable[[_Item], _Answer]:
    """*look*, but for each item that it has an answer for it looks once, however many threads ask at a time."""
    remembered = functools.lru_cache(maxsize=None)(look)
    guard = threading.Lock()
    turns: dict[_Item, threading.Lock] = {}

    def ask(item: _Item) -> _Answer:
        with guard:
            turn = turns.setdefault(item, threading.Lock())
        with turn:
            return remembered(item)

    return ask
