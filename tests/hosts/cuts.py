# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the power is cut: at instants that a seed gives, and right after a playbook has reported its success."""

from __future__ import annotations

import random


def instants(seed: int, host: str, playbook: str, count: int) -> list[float]:
    """COUNT instants, as fractions of a whole run; the last one is 1.0, the moment after it.

    A seed gives each playbook of each host the same instants, whatever else is run.
    """
    if not count:
        return []
    source = random.Random(f"{seed} {host} {playbook}")
    return [*(round(source.uniform(0.05, 0.98), 3) for _cut in range(count - 1)), 1.0]
