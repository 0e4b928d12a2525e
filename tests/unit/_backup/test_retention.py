# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups go: never one that another one needs, and never one of which too little is known."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains, retention
from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk, BackupFile, Manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.retention import Keep
from hypothesis import given
from hypothesis import strategies as st

UUID = "11111111-2222-3333-4444-555555555555"
MONDAY = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)


def backup(name: str, taken: datetime, parent: str | None = None, *problems: str, tracked: bool = False) -> Backup:
    checkpoint = f"kvmops-{32 * '1'}" if tracked else None
    disk = BackupDisk("vda", "incremental" if parent else "full", "qcow2", 1, tracked)
    files = {"domain.xml": BackupFile(1, 64 * "0"), "vda.qcow2": BackupFile(1, 64 * "0")}
    said = Manifest(name, "vm", UUID, taken.isoformat(), True, False, parent, checkpoint, (disk,), files, {})
    return Backup(f"/backup/{UUID}/{name}", UUID, name, said, problems)


def nights(number: int, chain: int = 1) -> tuple[Backup, ...]:
    """A backup of each night, named by its number, in chains of that many."""
    return chains.with_chain_problems(
        backup(f"b{night:03}", MONDAY + timedelta(days=night), f"b{night - 1:03}" if night % chain else None)
        for night in range(number)
    )


def gone(found: tuple[Backup, ...], *held: str, **rules: int) -> list[str]:
    return [one.name for one in retention.removable(found, Keep(**rules), held)]


def left(found: tuple[Backup, ...], **rules: int) -> list[str]:
    removed = gone(found, **rules)
    return [one.name for one in found if one.name not in removed]


def test_the_last_ones_stay_and_the_newest_of_the_others_goes_first() -> None:
    assert gone(nights(5), last=2) == ["b002", "b001", "b000"]
    assert gone(nights(2), last=2) == []


def test_what_a_kept_one_stands_on_stays_and_the_end_of_a_chain_goes() -> None:
    assert left(nights(8, 4), last=2) == ["b004", "b005", "b006", "b007"]
    assert left(nights(9, 4), last=2) == ["b004", "b005", "b006", "b007", "b008"]
    assert gone(nights(8, 4), "b001", last=1) == ["b003", "b002"]


def test_the_newest_of_each_day_week_and_month_stays() -> None:
    twice = tuple(
        backup(f"{night}{when}", MONDAY + timedelta(days=night, hours=hour))
        for night in range(3)
        for when, hour in (("a", 0), ("b", 6))
    )
    assert left(twice, daily=2) == ["1b", "2b"]
    assert left(nights(17), weekly=2) == ["b013", "b016"]
    assert left(nights(40), monthly=2) == ["b026", "b039"]
    assert left(nights(40), last=1, weekly=2, monthly=3) == ["b026", "b034", "b039"]


def test_a_day_without_a_backup_does_not_count() -> None:
    found = tuple(backup(f"b{day}", MONDAY + timedelta(days=day)) for day in (0, 1, 30))
    assert left(found, daily=2) == ["b1", "b30"]


def test_the_one_from_which_the_next_goes_on_stays() -> None:
    found = (
        backup("base", MONDAY, tracked=True),
        *(backup(f"off{day}", MONDAY + timedelta(days=day)) for day in range(1, 4)),
    )
    assert left(found, last=1) == ["base", "off3"]


def test_one_that_is_not_whole_stays_with_what_it_needs_and_does_not_count() -> None:
    found = chains.with_chain_problems(
        (
            backup("old", MONDAY - timedelta(days=1)),
            backup("full", MONDAY),
            backup("broken", MONDAY + timedelta(days=1), "full", "vda.qcow2 is missing"),
            backup("above", MONDAY + timedelta(days=2), "broken"),
            backup("new", MONDAY + timedelta(days=3)),
        )
    )
    assert left(found, last=1) == ["full", "broken", "above", "new"]


def test_nothing_goes_beside_one_that_nobody_can_read() -> None:
    strange = Backup(f"/backup/{UUID}/x", UUID, "x", None, ("backup.json is no JSON",))
    assert gone((strange, *nights(5)), last=1) == []
    assert retention.unknown((strange, *nights(5))) == (strange,)


RULES = st.builds(Keep, *(st.integers(0, 5) for _rule in range(4)))


@given(st.integers(1, 60), st.integers(1, 9), RULES, st.sets(st.integers(0, 59), max_size=4))
def test_whatever_the_rules_no_chain_is_cut_and_nothing_more_goes_the_next_time(
    number: int, chain: int, keep: Keep, damaged: set[int]
) -> None:
    found = chains.with_chain_problems(
        backup(one.name, datetime.fromisoformat(one.taken), one.facts.parent, *(["is bad"] if at in damaged else []))
        for at, one in enumerate(nights(number, chain))
    )
    removed = retention.removable(found, keep)
    names = [one.name for one in removed]
    stay = [one for one in found if one.name not in names]
    parents = {one.facts.parent for one in stay}
    assert not parents & set(names)
    assert all(one.whole for one in removed)
    for at, one in enumerate(removed):
        assert one.facts.parent not in names[:at]
    assert retention.removable(tuple(stay), keep) == ()


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_in_which_they_are_found_does_not_matter(order: int) -> None:
    assert gone(nights(8, 4)[::order], last=1) == ["b003", "b002", "b001", "b000"]
