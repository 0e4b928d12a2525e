# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The lines that say how far a module is: ``[host1] web vda: convert 43 % of 20 GiB, 310 MiB/s, 37 s left``."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._size import format_size
from ansible_collections.kvmops.disk.plugins.module_utils._text import visible


class Lines:
    """What is to be printed for one host: each phase when it begins, while it runs, and when it has ended."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._begun = 0
        self._ended: set[int] = set()

    def new(self, phases: t.Sequence[t.Mapping[str, t.Any]]) -> list[str]:
        """The lines after another look at the job; *phases* as module_utils/_progress.py writes them."""
        found = []
        for number, phase in enumerate(phases):
            if number in self._ended:
                continue
            if number == self._begun:
                self._begun += 1
                found.append(self._line(phase, _share(0, phase["total"])))
                if phase["state"] == "running" and not phase["done"]:
                    continue
            if phase["state"] != "running":
                self._ended.add(number)
            found.append(self._line(phase, _how_far(phase)))
        return found

    def _line(self, phase: t.Mapping[str, t.Any], text: str) -> str:
        return visible(f"[{self.host}] {phase['subject']}: {phase['verb']} {text}")


def _how_far(phase: t.Mapping[str, t.Any]) -> str:
    text = _share(phase["percent"], phase["total"])
    if phase["state"] == "failed":
        return f"failed at {text}"
    if phase["rate"] is not None:
        text += f", {speed(phase['rate'])}"
    if phase["state"] == "done":
        return f"{text}, in {duration(phase['seconds'])}"
    if phase["seconds_left"]:
        text += f", {duration(phase['seconds_left'])} left"
    return text


def _share(percent: int, total: int) -> str:
    """``43 % of 20 GiB``; without the size where nobody knows it."""
    return f"{percent} % of {format_size(total)}" if total else f"{percent} %"


def speed(rate: int) -> str:
    """``310 MiB/s``: as many digits as mean something."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if rate >= size:
            value = rate / size
            return f"{value:.1f} {unit}/s" if value < 10 else f"{value:.0f} {unit}/s"
    return f"{rate / 1024:.0f} KiB/s"


def duration(seconds: float) -> str:
    """``0.4 s``, ``37 s``, ``12 min``, ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
