# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the image that is to be checked, and the check."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Header
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.wish import CheckWish
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import Finding


def header(wish: CheckWish) -> Header | None:
    """The header of a qcow2 image, None of any other. Raises DiskError for what is not of the format."""
    _image.require_format(wish.path, wish.format)
    return _image.first_look(wish.path, wish.format)[2]


def check(qemu_img: QemuImg, wish: CheckWish, found: Header | None) -> Finding:
    """What a check finds in the image with the header *found*; nothing is repaired."""
    external_data = found is not None and found.external_data
    result = qemu_img.check(wish.path, wish.format, external_data=external_data)
    if found is None:
        return Finding(result, wish.format)
    return Finding(result, wish.format, found.corrupt, found.dirty, found.external_data)
