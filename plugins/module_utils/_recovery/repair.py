# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a check finds in an image, and the repair, which is compared with what was there before."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import mapping as _mapping
from ansible_collections.kvmops.disk.plugins.module_utils._formats import reach as _reach

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._formats.pieces import Cut
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult, QemuImg

#: The formats that qemu-img checks; the others have no metadata that could be wrong, or none that it knows.
CHECKED_FORMATS = ("qcow2", "qed", "vmdk", "vdi", "vhdx", "parallels")


@dataclass(frozen=True)
class Finding:
    """What a check found, and what the image says itself: *corrupt* forbids writing, *dirty* wants a repair.

    *cut* is what its files lack. *pending_log*: a VHDX was not closed, and nothing can be read of it before its log is
    replayed. *extension*: a Parallels image has one, which a repair by QEMU would cut off.
    """

    check: CheckResult
    format: str = "qcow2"
    corrupt: bool = False
    dirty: bool = False
    external_data: bool = False
    cut: Cut | None = None
    pending_log: bool = False
    extension: bool = False

    @property
    def is_corrupt(self) -> bool:
        return self.corrupt or self.pending_log or self.cut is not None or self.check.result == "corrupt"

    def facts(self) -> dict[str, t.Any]:
        result = "corrupt" if self.is_corrupt else self.check.result
        return {**asdict(self.check), "result": result, "truncated": self.cut is not None}


def cut_of(path: str, image_format: str) -> Cut | None:
    """What the image at *path* lacks; None, too, where its tables cannot be read, of which QEMU's check tells more."""
    try:
        return _reach.find_cut(path, image_format)
    except UnsafeImage:
        return None


def repair_and_compare(
    path: str, image_format: str, repair: str, qemu_img: QemuImg, *, external_data: bool = False
) -> tuple[CheckResult, bool | None]:
    """Repairs (leaks, all) the image at *path*.

    Also says whether the tables prove that its content, all snapshots included, is what it was; None where the format
    has no such tables.
    """
    before = _mapping_of(path, image_format)
    found = qemu_img.check(path, image_format, repair=repair, external_data=external_data)
    if image_format != "qcow2":
        return found, None
    return found, before is not None and before.separate and before == _mapping_of(path, image_format)


def repair_counts(path: str, qemu_img: QemuImg) -> CheckResult:
    """Repairs what an interrupted work on snapshots left of the qcow2 image at *path*: reference counts, and flags.

    Raises UnsafeImage where the tables do not prove that content and metadata are apart, so that more than counts may
    be wrong; nothing is written then. Or where the content did not stay what it was, which no repair of counts does.
    """
    before = _mapping_of(path, "qcow2")
    if before is None or not before.separate:
        found = qemu_img.check(path, "qcow2")
        raise UnsafeImage(
            f"{path}: an operation on its snapshots was interrupted, and more is wrong with its metadata than that "
            "explains: copy the image, then repair it with kvmops.disk.qcow2_check (repair=all)",
            path=path,
            check=asdict(found),
        )
    found, unchanged = repair_and_compare(path, "qcow2", "all", qemu_img)
    if not unchanged:
        raise UnsafeImage(
            f"{path}: the repair after an interrupted operation on its snapshots changed where its content is: "
            "compare it with a backup before it is used",
            path=path,
            check=asdict(found),
        )
    return found


def _mapping_of(path: str, image_format: str) -> _mapping.Mapping | None:
    """Where the content of a qcow2 image is; None for other formats, and where its tables cannot be read."""
    if image_format != "qcow2":
        return None
    try:
        with _headers.open_image(path) as stream:
            return _mapping.read_mapping(stream, stream.seek(0, os.SEEK_END), path)
    except UnsafeImage:
        return None
