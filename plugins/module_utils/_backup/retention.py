# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which backups of a domain are kept, and which may go. Pure.

A backup that others stand on stays as long as one of these does. So what goes is whole chains, and the ends of chains.
"""

from __future__ import annotations

import typing as t
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains as _chains
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup


@dataclass(frozen=True)
class Keep:
    """How many backups are kept: the *last* ones, and the newest of each of the last days, weeks and months of which
    there is a backup. Days are those of UTC, weeks begin on Monday."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    @property
    def says_nothing(self) -> bool:
        return not (self.last or self.daily or self.weekly or self.monthly)


def removable(found: t.Sequence[Backup], keep: Keep, held: t.Collection[str] = ()) -> tuple[Backup, ...]:
    """Those of the backups *found* of a domain that nothing keeps, the newest first: so none is removed before those
    that stand on it.

    *held* are the names of such as somebody uses. One that is not whole is neither counted nor removed. It keeps what
    it stands on, and where nobody knows what that is, all is kept (unknown).
    """
    if unknown(found):
        return ()
    whole = sorted((one for one in found if one.whole), key=lambda one: (one.taken, one.name), reverse=True)
    kept = {
        *(one.name for one in _wanted(whole, keep)),
        *(one.name for one in found if not one.whole or one.name in held),
    }
    base = _chains.newest_tracked(found)  # from which the next one goes on
    kept.update([base.name] if base is not None else [])
    needed = {link.name for one in found if one.name in kept for link in _chains.chain(one, found)}
    return tuple(one for one in whole if one.name not in needed)


def unknown(found: t.Iterable[Backup]) -> tuple[Backup, ...]:
    """Those of which nobody can say what they stand on."""
    return tuple(one for one in found if one.manifest is None)


def _wanted(newest_first: t.Sequence[Backup], keep: Keep) -> t.Iterator[Backup]:
    """The backups that the rules keep for their own sake."""
    yield from newest_first[: keep.last]
    for number, period in ((keep.daily, _day), (keep.weekly, _week), (keep.monthly, _month)):
        newest: dict[tuple[int, ...], Backup] = {}
        for one in newest_first:
            newest.setdefault(period(datetime.fromisoformat(one.taken).astimezone(timezone.utc)), one)
        yield from list(newest.values())[:number]


def _day(taken: datetime) -> tuple[int, ...]:
    return (taken.year, taken.month, taken.day)


def _week(taken: datetime) -> tuple[int, ...]:
    return tuple(taken.isocalendar())[:2]


def _month(taken: datetime) -> tuple[int, ...]:
    return (taken.year, taken.month)
