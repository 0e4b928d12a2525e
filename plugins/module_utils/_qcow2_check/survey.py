# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the image that is to be checked, and the check."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import unread as _unread
from ansible_collections.kvmops.disk.plugins.module_utils._image import foreign as _foreign
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult, QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import CHECKED_FORMATS, Finding, cut_of

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import Header
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_check.wish import CheckWish


def header(wish: CheckWish) -> Header | None:
    """The header of a qcow2 image, None of any other. Raises DiskError for what is not of the format."""
    _image.require_format(wish.path, wish.format)
    return _image.first_look(wish.path, wish.format)[2]


def check(qemu_img: QemuImg, wish: CheckWish, found: Header | None) -> Finding:
    """What a check finds in the image with the header *found*; nothing is repaired."""
    cut = cut_of(wish.path, wish.format)
    if cut is not None or wish.format not in CHECKED_FORMATS:  # of what was cut, QEMU would find what follows from that
        return Finding(CheckResult("unsupported"), wish.format, cut=cut)
    external_data = found is not None and found.external_data
    try:
        result = qemu_img.check(wish.path, wish.format, external_data=external_data)
    except QemuImgFailed as error:
        if wish.repair == "all" and wish.format == "vhdx" and _has(_unread.names_log, wish):
            return Finding(CheckResult("corrupt"), wish.format, pending_log=True)
        _foreign.require_replayed(wish.path, wish.format, error)
        raise
    if found is None:
        extension = wish.format == "parallels" and _has(_unread.has_extension, wish)
        return Finding(result, wish.format, cut=cut, extension=extension)
    return Finding(result, wish.format, found.corrupt, found.dirty, found.external_data, cut)


def _has(look: t.Callable[[t.BinaryIO], bool], wish: CheckWish) -> bool:
    with _headers.open_image(wish.path) as stream:
        return look(stream)
