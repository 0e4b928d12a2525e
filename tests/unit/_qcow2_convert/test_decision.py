# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is done for the destination and the source of a conversion."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import (
    Course,
    Source,
    course,
    course_beside_right,
    facts,
    plan_nothing,
    require_apart,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
from unit._qcow2_convert.images import BASE, KEY, LUKS, OVER_BASE, SOURCE, wish


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (wish(dest=SOURCE.path), "dest: is the same file as src"),
        (wish(dest="/images/../images/web.qcow2"), "dest: is the same file as src"),
        (wish(backing_file=SOURCE.path, backing_format="qcow2"), "is the same file as src"),
        (wish(backing_file="/images/new", backing_format="qcow2"), "is the same file as dest"),
        (
            wish("vmdk", layout=Layout("vmdk", subformat="twoGbMaxExtentSparse"), dest="/images/a:b"),
            "cannot be the name",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_have_to_be_several_are_not_one(wanted: ImageConvertWish, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        require_apart(wanted, Names())


def test_a_name_that_leads_to_the_source_is_no_destination() -> None:
    require_apart(wish(dest="/link", **OVER_BASE), Names())
    with pytest.raises(InvalidRequest, match="dest: is the same file as src, /link"):
        require_apart(wish(dest="/link"), Names({"/link": SOURCE.path}))


@pytest.mark.parametrize(
    ("wanted", "dest", "source", "taken"),
    [
        (wish(), None, Source.WHOLE, Course.MAKE),
        (wish(remove_src=True), None, Source.GOING, Course.MAKE),
        (wish(), SOURCE, Source.WHOLE, Course.KEEP),
        (wish(), SOURCE, Source.GONE, Course.KEEP),
        (wish(update="changed"), SOURCE, Source.WHOLE, Course.COMPARE),
        (wish(update="always"), SOURCE, Source.GONE, Course.COMPARE),
        (wish(remove_src=True), SOURCE, Source.WHOLE, Course.REMOVE_IF_SAME),
        (wish(remove_src=True, update="changed"), SOURCE, Source.WHOLE, Course.COMPARE),
        (wish(remove_src=True, update="always"), SOURCE, Source.GOING, Course.REMOVE_REST),
        (wish(remove_src=True, update="always"), SOURCE, Source.GONE, Course.KEEP),
    ],
    ids=str,
)
def test_the_course_follows_from_what_is_there_and_what_may_go(
    wanted: ImageConvertWish, dest: Image | None, source: Source, taken: Course
) -> None:
    assert course(wanted, dest, source) is taken


def test_beside_an_image_that_is_right_only_a_source_that_is_not_wanted_goes() -> None:
    assert course_beside_right(wish(update="changed"), SOURCE, Source.WHOLE) is Course.KEEP
    assert course_beside_right(wish(update="changed", remove_src=True), SOURCE, Source.WHOLE) is Course.REMOVE_IF_SAME


def test_an_image_in_the_clear_is_not_kept_where_an_encrypted_one_is_wanted() -> None:
    with pytest.raises(UnsafeImage, match="is not encrypted, asked for encryption, and for update=missing"):
        course(wish(encryption=KEY), SOURCE, Source.WHOLE)
    assert course(wish(encryption=KEY), LUKS, Source.WHOLE) is Course.KEEP
    assert course(wish(), LUKS, Source.WHOLE) is Course.KEEP


def test_nothing_is_planned_where_the_image_is_kept() -> None:
    plan = plan_nothing(replace(SOURCE, backing_file=BASE.path, backing_format="qcow2"))
    assert not plan
    assert plan.before == plan.after
    assert plan.after["backing_file"] == BASE.path
    assert facts(LUKS)["encrypted"]
