# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which snapshots are taken, deleted, gone back to, and refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot, SnapshotEntry
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.decision import (
    Observed,
    bytes_needed,
    outcome,
    plan_snapshots,
    require_changeable,
    require_not_libvirts,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User
from hypothesis import given
from hypothesis import strategies as st
from unit.noting import Noting, order

PATH = "/images/web.qcow2"
IMAGE = Image(PATH, "qcow2", 10 << 20, 1 << 20, cluster_size=65536, compat="1.1", refcount_bits=16)


def entry(number: int, name: str | bytes, *, day: int | None = None, size: int = 10 << 20) -> SnapshotEntry:
    raw = name if isinstance(name, bytes) else name.encode()
    date = f"2024-01-{day or number:02}T00:00:00+00:00"
    return SnapshotEntry(Snapshot(str(number), raw.decode(errors="replace"), date, 0, size), raw, 0, 1, 0)


def observed(*entries: SnapshotEntry, **changes: Any) -> Observed:
    return Observed(replace(IMAGE, **changes), entries, 1)


def actions(wish: SnapshotWish, found: Observed) -> list[str]:
    said = plan_snapshots(wish, found, Noting).report()["actions"]
    return [re.sub(f" (of|to its snapshot) ?({PATH} ?)?", " ", action).strip() for action in said]


def test_a_new_snapshot_gets_the_next_id() -> None:
    found = observed(entry(1, "a"), entry(7, "b"))
    new = outcome(SnapshotWish(PATH, "c", "present"), found)[-1].snapshot
    assert (new.id, new.name, new.date, new.virtual_size) == ("8", "c", None, 10 << 20)


def test_age_goes_by_date_and_then_by_the_order_of_the_table() -> None:
    found = observed(
        entry(1, "n-late", day=9), entry(2, "n-same", day=5), entry(3, "n-same2", day=5), entry(4, "other")
    )
    wish = SnapshotWish(PATH, None, "present", 1, "n-")
    assert actions(wish, found) == ["delete snapshot n-same", "delete snapshot n-same2"]
    assert actions(replace(wish, keep=2), found) == ["delete snapshot n-same"]


def test_a_snapshot_that_is_deleted_by_name_is_not_counted() -> None:
    found = observed(entry(1, "n-1"), entry(2, "n-2"), entry(3, "n-3"))
    assert actions(SnapshotWish(PATH, "n-3", "absent", 2, "n-"), found) == ["delete snapshot n-3"]
    assert actions(SnapshotWish(PATH, "n-3", "absent", 1, "n-"), found) == [
        "delete snapshot n-3",
        "delete snapshot n-1",
    ]


@given(
    st.lists(st.tuples(st.sampled_from(["n-", "w-"]), st.integers(1, 28)), max_size=8),
    st.integers(0, 9),
    st.sampled_from([None, "n-new", "n-0", "w-1"]),
    st.sampled_from(["present", "absent"]),
)
def test_retention_is_idempotent_and_keeps_the_newest(
    taken: list[tuple[str, int]], keep: int, name: str | None, state: str
) -> None:
    entries = [entry(number, f"{prefix}{number}", day=day) for number, (prefix, day) in enumerate(taken)]
    wish = SnapshotWish(PATH, name, state, keep, "n-")
    found = observed(*entries)
    after = outcome(wish, found)
    kept = [one for one in after if one.name.startswith(b"n-")]
    gone = [one for one in entries if one not in after and one.snapshot.name != name]
    assert len(kept) <= max(keep, 0) + (name is not None and state == "present")
    assert all(one.name.startswith(b"n-") for one in gone)
    assert not gone or max(one.snapshot.date or "" for one in gone) <= min(
        [one.snapshot.date or "~" for one in kept if one.snapshot.name != name], default="~"
    )
    dated = [one if one.snapshot.date else replace(one, snapshot=replace(one.snapshot, date="2025")) for one in after]
    assert not plan_snapshots(wish, observed(*dated), Noting)


def test_a_snapshot_is_taken_before_others_are_deleted_and_what_is_there_is_looked_at_last() -> None:
    found, work = observed(entry(1, "n-1"), entry(2, "n-2")), Noting()
    plan = plan_snapshots(SnapshotWish(PATH, "n-3", "present", 1, "n-"), found, lambda: work)
    assert order(plan.steps, work) == ["take", "delete", "delete", "verify"]
    plan = plan_snapshots(SnapshotWish(PATH, "n-1", "reverted"), found, lambda: work)
    assert order(plan.steps, work) == ["revert", "verify"]


def test_a_snapshot_in_the_records_of_libvirt_is_not_deleted() -> None:
    recorded = {"before": User("vm", "u", False, "vda", "disk", PATH)}
    require_not_libvirts(PATH, ["other"], recorded)
    with pytest.raises(ImageInUse, match="its snapshot 'before' is one of domain vm, in libvirt's records"):
        require_not_libvirts(PATH, ["other", "before"], recorded)


def test_what_cannot_be_named_exactly_is_not_deleted() -> None:
    wish = SnapshotWish(PATH, None, "present", 0, "")
    for found, reason in (
        (observed(entry(1, b"caf\xe9"), entry(2, b"caf\xe9")), "has 2 snapshots named"),
        (observed(entry(1, "x" * 256)), "does not find a name of 256 bytes"),
        (observed(entry(1, "")), "does not find a name of 0 bytes"),
    ):
        with pytest.raises(DiskError, match=reason):
            plan_snapshots(wish, found, Noting)
    assert actions(wish, observed(entry(1, b"caf\xe9"))) == ["delete snapshot caf\ufffd"]
    assert actions(SnapshotWish(PATH, "caf\ufffd", "absent"), observed(entry(1, b"caf\xe9"))) == []


@pytest.mark.parametrize("identifiers", [("1", "1"), ("", "2"), ("-a", "2")])
def test_a_snapshot_whose_id_is_not_its_own_is_not_gone_back_to(identifiers: tuple[str, str]) -> None:
    entries = [
        replace(one, snapshot=replace(one.snapshot, id=identifier))
        for one, identifier in zip((entry(1, "one"), entry(2, "two")), identifiers)
    ]
    with pytest.raises(UnsafeImage, match="by which QEMU may not find it"):
        plan_snapshots(SnapshotWish(PATH, "one", "reverted"), observed(*entries), Noting)


@pytest.mark.parametrize(("bits", "taken"), [(1, 0), (2, 2), (4, 14)])
def test_a_snapshot_more_than_a_reference_count_can_say_is_refused(bits: int, taken: int) -> None:
    entries = [entry(number, f"s{number}") for number in range(1, taken + 1)]
    wish = SnapshotWish(PATH, "new", "present")
    with pytest.raises(DiskError, match=f"reference counts of {bits} bit"):
        plan_snapshots(wish, observed(*entries, refcount_bits=bits), Noting)
    if entries:
        assert plan_snapshots(wish, observed(*entries[1:], refcount_bits=bits), Noting)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"corrupt": True}, "is marked corrupt: check and repair"),
        ({"dirty": True}, "was not closed properly: check and repair"),
        ({"data_file": "/victim"}, "keeps its data in another file, /victim"),
    ],
    ids=str,
)
def test_an_image_that_qemu_would_not_write_is_refused(found: dict[str, Any], reason: str) -> None:
    with pytest.raises(DiskError, match=reason):
        require_changeable(replace(IMAGE, **found))


def test_a_snapshot_needs_a_copy_of_the_l1_table_and_a_new_snapshot_table() -> None:
    few = bytes_needed(observed(entry(1, "a")))
    assert few == 6 * 65536
    assert bytes_needed(replace(observed(entry(1, "a")), l1_entries=8193)) == few + 65536
