# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of a domain's disks: the names of new images, and wishes that nothing can grant."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish


def wish(*disks: str, image_format: str = "qcow2", **fields: Any) -> ConvertWish:
    return ConvertWish(disks or ("vda",), Layout(format=image_format), **fields)


@pytest.mark.parametrize(
    ("source", "image_format", "dest"),
    [
        ("/i/vm.raw", "qcow2", "/i/vm.qcow2"),
        ("/i/vm.img", "qcow2", "/i/vm.qcow2"),
        ("/i/vm.IMG", "vmdk", "/i/vm.vmdk"),
        ("/i/vm.qcow2", "raw", "/i/vm.raw"),
        ("/i/vm.vpc", "qcow2", "/i/vm.qcow2"),
        ("/i/vm.raw", "vpc", "/i/vm.vhd"),
        ("/i/vm", "qcow2", "/i/vm.qcow2"),
        ("/i/web.example.org", "qcow2", "/i/web.example.org.qcow2"),
        ("/i/.raw", "qcow2", "/i/.raw.qcow2"),
        ("/i.raw/vm", "qcow2", "/i.raw/vm.qcow2"),
    ],
)
def test_the_new_name_is_the_old_one_with_the_suffix_of_the_format(source: str, image_format: str, dest: str) -> None:
    assert wish(image_format=image_format).destination(source) == dest


def test_dest_dir_changes_the_directory_and_dest_everything() -> None:
    assert wish(dest_dir="/fast").destination("/i/vm.raw") == "/fast/vm.qcow2"
    assert wish(dest="/fast/root").destination("/i/vm.raw") == "/fast/root"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (wish("vda", "vdb", dest="/x"), "dest: names one file"),
        (wish(shutdown_timeout=0), "shutdown_timeout: 0 s"),
        (wish(image_format="raw", compress=True), "raw images cannot be compressed"),
    ],
)
def test_a_wish_that_contradicts_itself_is_refused(wanted: ConvertWish, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        wanted.require_valid()
