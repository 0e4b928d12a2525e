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

#: A worker gets at most so many items at a time, and at least so many times where there are more items.
_BATCH, _TURNS = 64, 8

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

    workers = 2 * (os.cpu_count() or 1)
    ended = threading.Event()

    def answers(batch: t.Sequence[_Item]) -> list[_Answer]:
        found = []
        for item in batch:
            if ended.is_set():
                break
            try:
                found.append(look(item))
            except BaseException:
                ended.set()
                raise
        return found

    with ThreadPoolExecutor(max_workers=workers, initializer=refuse) as threads:
        try:
            return [answer for found in threads.map(answers, _batches(items, workers)) for answer in found]
        except BaseException:
            ended.set()
            if cut_short:
                cut_short()
            raise


def _batches(items: t.Sequence[_Item], workers: int) -> list[t.Sequence[_Item]]:
    """*items* in parts: handing one over costs as much as reading a header. There are enough for each of *workers*."""
    size = min(_BATCH, max(1, len(items) // (_TURNS * workers)))
    return [items[first : first + size] for first in range(0, len(items), size)]


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
