# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision to give an image another backing file, or none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import (
    Rebase,
    bytes_needed,
    facts_after,
    facts_before,
    require_possible,
    require_vouched,
    rewrites,
)
from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase_wish import RebaseWish, is_wanted
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from unit.samples import MIB, qcow2, raw, snapshot

PATH, OLD, NEW = "/images/web.qcow2", "/images/old.qcow2", "/images/new.qcow2"
KIB = 1024


def wish(backing_file: str | None = NEW, backing_format: str | None = "qcow2", **parts: Any) -> RebaseWish:
    return RebaseWish(backing_file, backing_format if backing_file else None, **parts)


def image(backing_file: str | None = OLD, backing_format: str | None = "qcow2", **facts: Any) -> Image:
    return qcow2(PATH, backing_file=backing_file, backing_format=backing_format, **facts)


def found(base: Image | None = None, *below: Image, **facts: Any) -> Rebase:
    return Rebase(image(**facts), (base,) if base else (), below or (qcow2(OLD),))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (wish("", rebase="unsafe"), "unsafe with an empty backing_file would throw away all that is read"),
        (RebaseWish(NEW), "needs backing_format beside it"),
        (RebaseWish(None, "qcow2"), "needs backing_format beside it"),
        (RebaseWish("", "qcow2"), "needs backing_format beside it"),
        (wish(PATH), "cannot be its own backing file"),
    ],
    ids=str,
)
def test_a_wish_that_no_world_could_grant_is_refused(wanted: RebaseWish, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        wanted.require_valid(PATH)


def test_a_wish_for_another_backing_file_or_for_none_or_for_any_is_valid() -> None:
    for wanted in (wish(), wish(""), wish(None), wish(rebase="unsafe"), wish(None, rebase="unsafe")):
        wanted.require_valid(PATH)


@pytest.mark.parametrize(
    ("wanted", "present", "is_so"),
    [
        (wish(None), image(), False),
        (wish(OLD), image(), False),
        (wish(), image(), True),
        (wish(), image(None, None), True),
        (wish(""), image(), True),
        (wish(""), image(None, None), False),
        (wish(OLD, "raw"), image(), True),
        (wish(OLD), image(OLD, None), True),
        (wish(OLD), qcow2(PATH, format="qed", backing_file=OLD), False),
        (wish(OLD, "raw"), qcow2(PATH, format="qed", backing_file=OLD, backing_format="raw"), False),
    ],
    ids=str,
)
def test_a_rebase_is_wanted_where_the_backing_file_or_its_recorded_format_differs(
    wanted: RebaseWish, present: Image, is_so: bool
) -> None:
    assert is_wanted(wanted, present) is is_so


def test_only_the_reference_is_written_where_that_is_asked_or_only_the_format_is_missing() -> None:
    assert not rewrites(wish(), image())
    assert rewrites(wish(rebase="unsafe"), image())
    assert rewrites(wish(OLD), image(OLD, None))
    assert not rewrites(wish(OLD, "raw"), image())


def test_content_is_copied_only_from_what_somebody_answers_for() -> None:
    with pytest.raises(UnsafeImage, match=f"reads the backing file {OLD}.*set trusted=true") as caught:
        require_vouched(wish(), image())
    assert caught.value.facts["backing_file"] == OLD
    require_vouched(wish(trusted=True), image())
    require_vouched(wish(), image(None, None))


@pytest.mark.parametrize(
    ("wanted", "present", "reason"),
    [
        (wish(), Rebase(raw(PATH, format="vmdk"), (qcow2(NEW),)), "that of a vmdk image cannot be changed"),
        (wish(), Rebase(raw(PATH, format="qed"), (qcow2(NEW),)), "a qed image cannot record"),
        (wish(), found(qcow2(PATH)), "would run in a circle"),
        (wish(), Rebase(image(), (qcow2(NEW), qcow2(PATH)), rewrites=True), "would run in a circle"),
        (wish(), found(qcow2(NEW, virtual_size=20 * MIB)), "has 10 MiB, but the new backing file"),
        (wish(size=15 * MIB), found(qcow2(NEW, virtual_size=20 * MIB)), "has 15 MiB, but the new backing file"),
        (wish(), found(qcow2(NEW), snapshots=(snapshot(),)), "holds 1 internal snapshot(s) (before)"),
        (wish(""), found(None, snapshots=(snapshot(),)), "holds 1 internal snapshot(s) (before)"),
        (wish(), found(qcow2(NEW), qcow2(OLD, corrupt=True)), f"{OLD}: is marked corrupt"),
        (wish(), found(qcow2(NEW), qcow2(OLD, data_file="/etc/shadow")), "another file, /etc/shadow"),
        (wish(), found(qcow2(NEW), qcow2(OLD, encrypted=True)), "would be stored unencrypted in /images/web.qcow2"),
        (wish(OLD, "raw"), found(raw(OLD)), f"reads {OLD} as qcow2, asked for raw"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_lose_something_is_refused(wanted: RebaseWish, present: Rebase, reason: str) -> None:
    with pytest.raises(DiskError, match=re.escape(reason)):
        require_possible(wanted, present)


@pytest.mark.parametrize(
    ("wanted", "present"),
    [
        (wish(), found(qcow2(NEW))),
        (wish(size=20 * MIB), found(qcow2(NEW, virtual_size=20 * MIB))),
        (wish(), found(qcow2(NEW), qcow2(OLD, encrypted=True), encrypted=True)),
        (wish(), Rebase(image(snapshots=(snapshot(),)), (qcow2(NEW),), rewrites=True)),
        (wish(OLD, "raw", rebase="unsafe"), Rebase(image(), (raw(OLD),), (qcow2(OLD),), rewrites=True)),
    ],
    ids=lambda value: "" if isinstance(value, RebaseWish) else str(value),
)
def test_what_keeps_the_content_or_is_asked_for_is_possible(wanted: RebaseWish, present: Rebase) -> None:
    require_possible(wanted, present)


def test_the_space_is_that_of_a_copy_and_of_what_is_no_longer_below_it() -> None:
    deep, middle = qcow2("/images/deep", actual_size=900 * KIB), qcow2(OLD, actual_size=100 * KIB)
    down = Rebase(image(actual_size=50 * KIB), (deep,), (middle, deep))
    assert down.merged == (middle,)
    assert bytes_needed(down, 10 * MIB) == 150 * KIB
    assert bytes_needed(Rebase(down.image, (), (middle, deep)), 10 * MIB) == 1050 * KIB
    assert bytes_needed(Rebase(down.image, (), (middle, deep)), 200 * KIB) == 250 * KIB


def test_an_old_image_may_get_zeros_for_all_that_the_new_backing_file_holds() -> None:
    base = qcow2(NEW, actual_size=300 * KIB)
    old = Rebase(image(compat="0.10", actual_size=50 * KIB), (base,), (qcow2(OLD, actual_size=100 * KIB),))
    assert bytes_needed(old, 10 * MIB) == 450 * KIB


def test_a_line_says_what_is_done() -> None:
    over = Rebase(image(), (qcow2(NEW),))
    assert str(over) == f"rebase {PATH} from {OLD} (qcow2) to {NEW} (qcow2), in a new file"
    assert str(found()) == f"flatten {PATH}, which reads {OLD} (qcow2), in a new file"
    rewritten = Rebase(image(OLD, None), (raw(OLD),), rewrites=True)
    assert str(rewritten) == f"rewrite the backing file in {PATH} from {OLD} (format not recorded) to {OLD} (raw)"
    assert facts_before(over) == {"backing_file": OLD, "backing_format": "qcow2"}
    assert facts_after(over) == {"backing_file": NEW, "backing_format": "qcow2"}
    assert facts_after(found()) == {"backing_file": None, "backing_format": None}
