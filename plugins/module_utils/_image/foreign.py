# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be true of an image in another format than raw and qcow2, which QEMU knows less of than its owner."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import unread as _unread
from ansible_collections.kvmops.disk.plugins.module_utils._formats.vmdk import is_own_extent

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed


def require_sound(
    stream: t.BinaryIO,
    image_format: str,
    path: str,
    extents: tuple[str, ...],
    knows: t.Callable[[str], bool] | None,
) -> None:
    """Raises UnsafeImage where the image open as *stream* has content that QEMU does not see, or *extents*, the files
    that hold its data, which are not its own: QEMU opens those at a mere look.

    *knows* tells of a file whether the task knows that it belongs there; without it, those are taken that bear the
    image's name.
    """
    if image_format == "vmdk":
        _require_own_extents(extents, path, knows)
    _unread.require_nothing_unread(stream, image_format, path)


def require_replayed(path: str, image_format: str, failed: QemuImgFailed) -> None:
    """Raises UnsafeImage where QEMU *failed* to open the image at *path* because it has a log to be replayed."""
    if image_format == "vhdx":
        with _headers.open_image(path) as stream:
            if _unread.names_log(stream):
                raise _unread.not_replayed(path) from failed


def require_true_size(path: str, virtual_size: int) -> None:
    """Raises UnsafeImage where the VHD at *path* is larger than the *virtual_size* that QEMU finds (HAZARDS P3)."""
    with _headers.open_image(path) as stream:
        _unread.require_true_size(stream, virtual_size, path)


def _require_own_extents(extents: tuple[str, ...], path: str, knows: t.Callable[[str], bool] | None) -> None:
    for extent in extents:
        file = _headers.resolve(extent, path)
        if file is None or not (knows(file) if knows else is_own_extent(extent, path)):
            unlike = "" if knows else "is something else than a file beside it that bears its name, and which "
            way_out = ": name it as well, or set trusted=true if you know that it belongs there" if knows else ""
            raise UnsafeImage(
                f"{path}: its descriptor keeps its data in {extent!r}, which {unlike}the task does not name: "
                f"not followed{way_out}",
                path=path,
            )
        with _headers.open_image(file) as stream:
            if _headers.recognise(stream) == "vmdk" and _headers.references(stream, "vmdk", file).data_files:
                raise UnsafeImage(f"{path}: its extent {extent!r} points to further files: not followed", path=path)
