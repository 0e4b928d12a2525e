# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a conversion would lose, or could not be."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import facts
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_image import (
    Observed,
    predicted,
    recipe,
    summary,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_obstacles import (
    find_snapshot,
    require_convertible,
    require_decryptable,
    require_replaceable,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
from unit._qcow2_convert.images import AES, BASE, GIB, KEY, LUKS, NIGHTLY, OPENERS, OVER_BASE, SOURCE, wish


@pytest.mark.parametrize(
    ("wanted", "found", "reason"),
    [
        (wish(), Observed((SOURCE, replace(BASE, corrupt=True))), "is marked corrupt"),
        (
            wish(remove_src=True),
            Observed((replace(SOURCE, snapshots=(NIGHTLY,)),)),
            "which the new image would not have",
        ),
        (wish(keep_bitmaps="required"), Observed((replace(SOURCE, compat="0.10"),)), "has no bitmaps"),
        (wish("vpc"), Observed((replace(SOURCE, virtual_size=3 << 40),)), "more than a vpc image can hold"),
        (wish(**OVER_BASE), Observed((SOURCE,), (replace(BASE, encrypted=True),)), "is encrypted"),
        (wish(**OVER_BASE), Observed((SOURCE,), (replace(BASE, virtual_size=20 * GIB),)), "cuts off the end"),
        (
            wish(**OVER_BASE),
            Observed((replace(SOURCE, backing_file=BASE.path, backing_format="raw"),), (BASE,)),
            "records format raw",
        ),
        (wish(dest="/b", **OVER_BASE), Observed((SOURCE,), (BASE, replace(BASE, path="/b"))), "below the backing file"),
        (
            wish(remove_src=True, **OVER_BASE),
            Observed((SOURCE,), (BASE, SOURCE)),
            "is below the backing file",
        ),
        (wish(rate=1, **OVER_BASE), Observed((SOURCE,), (BASE,)), "rate_limit: only works with"),
        (wish(keep_bitmaps="required", **OVER_BASE), Observed((SOURCE,), (BASE,)), "keep_bitmaps: only works with"),
        (wish(), Observed((SOURCE,), (), replace(NIGHTLY, virtual_size=11 * GIB)), "its end would be lost"),
        (wish("vmdk"), Observed((SOURCE,), (), replace(NIGHTLY, virtual_size=GIB)), "cannot be shrunk"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_conversion_that_would_lose_or_mix_something_is_refused(
    wanted: ImageConvertWish, found: Observed, reason: str
) -> None:
    with pytest.raises(DiskError, match=reason):
        require_convertible(wanted, found)


def test_a_snapshot_is_found_by_its_whole_name_and_never_by_its_id() -> None:
    image = replace(SOURCE, snapshots=(NIGHTLY, replace(NIGHTLY, id="4", name="3")))
    assert find_snapshot(image, "3").id == "4"
    assert find_snapshot(image, "nightly") is NIGHTLY
    with pytest.raises(DiskError, match="has no snapshot '4': it has nightly, 3"):
        find_snapshot(image, "4")
    with pytest.raises(DiskError, match="has 2 snapshots named 'nightly'"):
        find_snapshot(replace(SOURCE, snapshots=(NIGHTLY, NIGHTLY)), "nightly")


@pytest.mark.parametrize(
    "change", [{"snapshots": (NIGHTLY,)}, {"encrypted": True}, {"data_file": "/images/data"}], ids=str
)
def test_what_a_new_image_would_not_have_is_not_replaced(change: dict[str, Any]) -> None:
    require_replaceable(wish(), SOURCE)
    with pytest.raises(DiskError, match=re.escape(SOURCE.path)):
        require_replaceable(wish(), replace(SOURCE, **change))
    require_replaceable(wish(encryption=KEY), LUKS)


@pytest.mark.parametrize(
    ("wanted", "images", "reason"),
    [
        (wish(), (LUKS,), "set src_encryption with its secret and decrypt=true if that is meant"),
        (wish(openers=OPENERS), (LUKS,), "would hold its content unencrypted: set decrypt=true"),
        (wish(decrypt=True), (SOURCE, LUKS), "set src_encryption with its secret if"),
        (
            wish(openers=OPENERS, decrypt=True),
            (AES,),
            "encrypted with aes, where a wrong secret silently gives garbage",
        ),
        (wish("qcow2"), (replace(SOURCE, format="qcow", encrypted=True),), "encrypted with aes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_encrypted_is_stored_in_the_clear_only_when_asked(
    wanted: ImageConvertWish, images: tuple[Image, ...], reason: str
) -> None:
    with pytest.raises(UnsafeImage, match=reason):
        require_decryptable(wanted, images)
    require_decryptable(replace(wanted, decrypt=False, openers=None), (SOURCE, BASE))


def test_an_encrypted_source_is_decrypted_when_asked_and_the_plan_says_so() -> None:
    wanted = wish("raw", openers=OPENERS, decrypt=True)
    require_decryptable(wanted, (LUKS, replace(BASE, encrypted=True, encryption=Encryption("luks"))))
    assert (
        summary(wanted, Observed((LUKS,)), None) == "convert /images/web.qcow2 (encrypted qcow2) to /images/new (raw)"
    )
    assert not predicted(wanted, Observed((LUKS,))).encrypted


def test_an_encrypted_source_stays_encrypted_without_being_allowed_to_be_in_the_clear() -> None:
    wanted = wish(openers=OPENERS, encryption=KEY)
    require_decryptable(wanted, (LUKS,))
    with pytest.raises(UnsafeImage, match=r"is encrypted: set src_encryption with its secret$"):
        require_decryptable(wish(encryption=KEY), (LUKS,))
    assert summary(wanted, Observed((LUKS,)), None) == (
        "convert /images/web.qcow2 (encrypted qcow2) to /images/new (encrypted qcow2)"
    )
    image = predicted(wanted, Observed((LUKS,)))
    assert (image.encrypted, facts(image)["encrypted"]) == (True, True)


def test_an_encrypted_backing_file_is_read_by_an_encrypted_image_alone_and_as_one_that_the_source_does_not_read() -> (
    None
):
    direct = replace(SOURCE, backing_file=BASE.path, backing_format="qcow2")
    base = replace(BASE, encrypted=True, encryption=Encryption("luks"))
    found = Observed((direct, base), (base,))
    assert not recipe(wish(**OVER_BASE, encryption=KEY), found).reads_base
    require_convertible(wish(**OVER_BASE, encryption=KEY), found)
    with pytest.raises(UnsafeImage, match="would hold its changes unencrypted"):
        require_convertible(wish(**OVER_BASE), found)
    with pytest.raises(InvalidRequest, match="rate_limit: only works with an unencrypted backing_file"):
        require_convertible(wish(**OVER_BASE, encryption=KEY, rate=1), found)
