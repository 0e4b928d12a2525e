# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no conversion could grant."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
from unit._qcow2_convert.images import KEY, OVER_BASE, wish


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (wish("raw", compress=True), "raw images cannot be compressed"),
        (wish("vmdk", compress=True), "only vmdk images of subformat streamOptimized"),
        (wish("raw", encryption=KEY), "raw images cannot be encrypted: use qcow2 or luks"),
        (wish("luks"), "a luks image is always encrypted"),
        (wish(encryption=KEY, compress=True), "QEMU cannot encrypt what it compresses"),
        (wish(layout=Layout("vhdx", subformat="thick")), "vhdx images know no thick: use dynamic or fixed"),
        (wish(src_format="raw", snapshot="x"), "raw images have no snapshots"),
        (wish(backing_file="/x"), "needs backing_format"),
        (wish(backing_format="raw"), "needs backing_format"),
        (wish("qed", **OVER_BASE), "only offered for qcow2"),
        (wish("vdi", **OVER_BASE), "vdi images have no backing file"),
        (wish("raw", keep_bitmaps="required"), "only qcow2 images of compat 1.1"),
        (wish(layout=Layout("qcow2", compat="0.10"), keep_bitmaps="required"), "only qcow2 images of compat 1.1"),
        (wish(snapshot="x", keep_bitmaps="required"), "say nothing about its snapshot"),
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
        wish(keep_bitmaps="required", rate=1 << 20, remove_src=True),
    ):
        wanted.require_valid()
