# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many looks at once: all of them in order, and no further one where one has failed."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils import _parallel


@pytest.mark.parametrize("number", [0, 1, 2, 63, 1000, 5001])
def test_answers_come_in_the_order_of_the_items(number: int) -> None:
    assert _parallel.in_parallel(str, range(number)) == [str(item) for item in range(number)]


def test_a_few_looks_are_all_under_way_at_once() -> None:
    together = threading.Barrier(2, timeout=60)
    assert sorted(_parallel.in_parallel(lambda _item: together.wait(), range(2))) == [0, 1]


def test_thousands_of_looks_are_handed_over_in_hundreds_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[Any] = []

    submit = concurrent.futures.ThreadPoolExecutor.submit

    def counted(threads: concurrent.futures.ThreadPoolExecutor, call: Any, *arguments: Any) -> Any:
        parts.append(arguments)
        return submit(threads, call, *arguments)

    monkeypatch.setattr(concurrent.futures.ThreadPoolExecutor, "submit", counted)
    assert len(_parallel.in_parallel(str, range(10_000))) == 10_000
    assert len(parts) <= 200


def test_where_a_look_fails_no_further_one_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    begun: list[int] = []
    told: list[str] = []
    under_way, failed = threading.Event(), threading.Event()

    def look(item: int) -> int:
        begun.append(item)
        if item == 0:
            assert under_way.wait(60)
            raise ValueError("no such image")
        under_way.set()
        assert failed.wait(60)
        return item

    def cut_short() -> None:
        told.append("cut short")
        failed.set()

    with pytest.raises(ValueError, match="no such image"):
        _parallel.in_parallel(look, range(1000), cut_short)
    assert len(begun) == 2
    assert told == ["cut short"]
