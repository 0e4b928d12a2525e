# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision what to do first where a run died on an image that is checked."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import Leftovers


def settling(left: Leftovers, plan: Plan, discard: t.Callable[[], None]) -> tuple[Step, ...]:
    """The steps before those of *plan*, which verifies the image, and so settles itself what a dead run left of it.

    *discard* removes an unfinished file. A disk between two contents stays so: its record leads whoever writes the
    image next.
    """
    first = []
    if left.unfinished_file:
        first.append(Step(f"remove the unfinished file that an interrupted run left for {left.path}", discard))
    if left.record is not None and left.is_whole and not plan:
        first.append(Step(f"forget the run that was interrupted on {left.path} at {left.started}", lambda: None))
    return tuple(first)
