# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What qcow2_bitmap returns."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.decision import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_bitmap.wish import BitmapWish


def facts(plan: Plan, observed: Observed) -> dict[str, t.Any]:
    """The result of *plan*, after which the bitmaps are as *observed*."""
    return _result(plan, observed, [observed.facts(one) for one in observed.bitmaps])


def predicted(plan: Plan, wish: BitmapWish, observed: Observed) -> dict[str, t.Any]:
    """The result that *plan* would have, which is not carried out; the bitmaps are as *observed* before."""
    if not plan:
        return facts(plan, observed)
    known = [observed.facts(one) for one in observed.bitmaps]
    after, there = plan.after["bitmap"], observed.find(wish.name)
    if there is None or after is None:
        known = [one for one in known if one["name"] != wish.name] + ([after] if after else [])
    else:
        known = [after if one["name"] == there.text else one for one in known]
    return _result(plan, observed, known)


def _result(plan: Plan, observed: Observed, bitmaps: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    return {**plan.full_report(), "bitmaps": bitmaps, "image": observed.image.facts()}
