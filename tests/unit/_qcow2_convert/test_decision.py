# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an image is made of another one, what of it, and why not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish, Openers
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import (
    Observed,
    facts,
    find_snapshot,
    predicted,
    recipe,
    require_convertible,
    require_decryptable,
    require_kept,
    require_replaceable,
    space,
    summary,
    visible_difference,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Secret

GIB = 1 << 30
SOURCE = Image("/images/web.qcow2", "qcow2", 10 * GIB, GIB, compat="1.1")
BASE = Image("/images/golden.qcow2", "qcow2", 8 * GIB, GIB, compat="1.1")
NIGHTLY = Snapshot("3", "nightly", "2024-01-01T00:00:00+00:00", 0, 10 * GIB)


def wish(image_format: str = "qcow2", **parts: Any) -> ImageConvertWish:
    layout = parts.pop("layout", Layout(image_format))
    return ImageConvertWish(
        **{"src": SOURCE.path, "src_format": "qcow2", "dest": "/images/new", "layout": layout, **parts}
    )


KEY = EncryptionWish(Secret(b"new"), Secret(b"new"))
OVER_BASE: dict[str, Any] = {"backing_file": BASE.path, "backing_format": "qcow2"}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (wish("raw", compress=True), "raw images cannot be compressed"),
        (wish("vmdk", compress=True), "only vmdk images of subformat streamOptimized"),
        (wish("raw", encryption=KEY), "raw images cannot be encrypted: use qcow2 or luks"),
        (wish("luks"), "a luks image is always encrypted"),
        (wish(encryption=KEY, compress=True), "QEMU cannot encrypt what it compresses"),
        (wish(layout=Layout("vhdx", subformat="thick")), "vhdx images know no thick: use dynamic or fixed"),
        (wish(dest=SOURCE.path), "dest: is the same file as src"),
        (wish(dest="/images/../images/web.qcow2"), "dest: is the same file as src"),
        (wish(src_format="raw", snapshot="x"), "raw images have no snapshots"),
        (wish(backing_file="/x"), "needs backing_format"),
        (wish(backing_format="raw"), "needs backing_format"),
        (wish("qed", **OVER_BASE), "only offered for qcow2"),
        (wish("vdi", **OVER_BASE), "vdi images have no backing file"),
        (wish(backing_file=SOURCE.path, backing_format="qcow2"), "is the same file as src"),
        (wish(backing_file="/images/new", backing_format="qcow2"), "is the same file as dest"),
        (wish("raw", keep_bitmaps=True), "only qcow2 images of compat 1.1"),
        (wish(layout=Layout("qcow2", compat="0.10"), keep_bitmaps=True), "only qcow2 images of compat 1.1"),
        (wish(snapshot="x", keep_bitmaps=True), "say nothing about its snapshot"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wish_that_no_world_could_grant_is_refused(wanted: ImageConvertWish, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        wanted.require_valid()


def test_wishes_that_go_together_are_valid() -> None:
    for wanted in (
        wish(),
        wish(compress=True, layout=Layout("qcow2", compression_type="zstd"), **OVER_BASE),
        wish(compress=True, layout=Layout("vmdk", subformat="streamOptimized")),
        wish(snapshot="nightly", verify=False, update="always"),
        wish(keep_bitmaps=True, rate=1 << 20, remove_src=True),
    ):
        wanted.require_valid()


@pytest.mark.parametrize(
    ("wanted", "found", "reason"),
    [
        (wish(), Observed((SOURCE, replace(BASE, corrupt=True))), "is marked corrupt"),
        (
            wish(remove_src=True),
            Observed((replace(SOURCE, snapshots=(NIGHTLY,)),)),
            "which the new image would not have",
        ),
        (wish(keep_bitmaps=True), Observed((replace(SOURCE, compat="0.10"),)), "has no bitmaps"),
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
        (wish(keep_bitmaps=True, **OVER_BASE), Observed((SOURCE,), (BASE,)), "keep_bitmaps: only works with"),
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
    ("dest", "reason"),
    [
        (SOURCE, None),
        (replace(SOURCE, cluster_size=512, compression_type="zstd", actual_size=5), None),
        (replace(SOURCE, virtual_size=GIB), "has 1 GiB, its source 10 GiB"),
        (replace(SOURCE, virtual_size=11 * GIB), "has 11 GiB, its source 10 GiB"),
        (replace(SOURCE, backing_file="/b"), "has the backing file /b, asked for none"),
        (replace(SOURCE, corrupt=True), "is marked corrupt"),
    ],
)
def test_a_destination_is_told_apart_before_it_is_read_where_that_can_be(dest: Image, reason: str | None) -> None:
    assert visible_difference(wish(), Observed((SOURCE,)), dest) == reason


def test_a_wanted_backing_file_is_looked_for_by_its_place() -> None:
    found = Observed((SOURCE,), (BASE,))
    assert (
        visible_difference(wish(**OVER_BASE), found, replace(SOURCE, backing_file="/images/x/../golden.qcow2")) is None
    )
    assert visible_difference(wish(**OVER_BASE), found, SOURCE) == f"has the backing file none, asked for {BASE.path}"


@pytest.mark.parametrize(
    "change", [{"snapshots": (NIGHTLY,)}, {"encrypted": True}, {"data_file": "/images/data"}], ids=str
)
def test_what_a_new_image_would_not_have_is_not_replaced(change: dict[str, Any]) -> None:
    require_replaceable(wish(), SOURCE)
    with pytest.raises(DiskError, match=re.escape(SOURCE.path)):
        require_replaceable(wish(), replace(SOURCE, **change))


def test_a_source_that_reads_the_backing_file_itself_is_known() -> None:
    direct = replace(SOURCE, backing_file="/images/./golden.qcow2", backing_format="qcow2")
    assert recipe(wish(**OVER_BASE), Observed((direct, BASE), (BASE,))).reads_base
    through = replace(SOURCE, backing_file="/images/middle", backing_format="qcow2")
    assert not recipe(wish(**OVER_BASE), Observed((through, BASE), (BASE,))).reads_base
    assert not recipe(wish(), Observed((direct, BASE))).reads_base


def test_only_what_has_a_place_anyway_or_is_compressed_is_written_out_of_order() -> None:
    found = Observed((SOURCE,))
    assert recipe(wish("raw"), found).out_of_order
    assert recipe(wish(compress=True), found).out_of_order
    assert not recipe(wish(), found).out_of_order
    stream = Layout("vmdk", subformat="streamOptimized")
    assert not recipe(wish(layout=stream, compress=True), found).out_of_order


def test_a_prediction_says_what_the_image_will_be() -> None:
    found = Observed((SOURCE,), (BASE,), replace(NIGHTLY, virtual_size=9 * GIB))
    wanted = wish(snapshot="nightly", layout=Layout("qcow2", cluster_size=4096), **OVER_BASE)
    image = predicted(wanted, found)
    assert (image.path, image.virtual_size, image.cluster_size) == ("/images/new", 9 * GIB, 4096)
    assert facts(image) == {
        "path": "/images/new",
        "state": "present",
        "format": "qcow2",
        "virtual_size": 9 * GIB,
        "backing_file": BASE.path,
        "backing_format": "qcow2",
    }
    assert summary(wanted, found, None) == (
        "convert /images/web.qcow2 (qcow2) at its snapshot nightly to /images/new (qcow2) over /images/golden.qcow2"
    )
    assert summary(wish(compress=True), Observed((SOURCE,)), "has other content").endswith(
        "to /images/new (compressed qcow2), in place of the one that has other content"
    )


LUKS = replace(SOURCE, encrypted=True, encryption=Encryption("luks"))
AES = replace(SOURCE, encrypted=True, encryption=Encryption("aes"))
OPENERS = Openers(Secret(b"top"), Secret(b"below"))


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


def test_an_image_in_the_clear_is_neither_kept_nor_taken_for_an_encrypted_one() -> None:
    found = Observed((SOURCE,))
    with pytest.raises(UnsafeImage, match="is not encrypted, asked for encryption, and for update=missing"):
        require_kept(wish(encryption=KEY), SOURCE)
    require_kept(wish(encryption=KEY), LUKS)
    require_kept(wish(), SOURCE)
    assert visible_difference(wish(encryption=KEY), found, SOURCE) == "is not encrypted"
    assert visible_difference(wish(encryption=KEY), found, LUKS) is None
    other = replace(LUKS, encryption=Encryption("luks", cipher_alg="aes-128"))
    wanted = wish(encryption=replace(KEY, cipher_alg="aes-256"))
    assert visible_difference(wanted, found, other) == "is encrypted with another cipher_alg"
    require_replaceable(wish(encryption=KEY), LUKS)


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


def test_what_is_encrypted_takes_its_header_and_its_zeros_where_nothing_tells_of_them() -> None:
    found, header = Observed((SOURCE,)), 4 << 20
    assert space(wish(), found, GIB) == GIB
    assert space(wish(encryption=KEY), found, GIB) == GIB + header
    assert space(wish("luks", encryption=KEY), found, GIB) == 10 * GIB + header
    layout = Layout("qcow2", preallocation="metadata")
    assert space(wish(layout=layout, encryption=KEY), found, GIB) == 10 * GIB + header
