# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an image lies still: nobody has it open, nobody writes it, and no run died on it."""

from __future__ import annotations

import time
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import ImageInUse, OperationInFlight, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._host.image_locks import is_locked
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import look_for
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import IN_PLACE, require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

_POLL = 0.05


def require_unlocked(path: str, to_do: str, patience: float) -> None:
    """Raises ImageInUse where somebody has the image open; mere readers may take *patience* seconds to end."""
    deadline = time.monotonic() + patience
    files = _file_set.files_meant(path)
    while any(is_locked(file) and not is_locked(file, against_readers=True) for file in files):
        if time.monotonic() >= deadline:
            break
        time.sleep(_POLL)
    for file in files:
        _unused.require_unused(file, (), to_do)


def require_unwritten(image: Image) -> None:
    """Raises ImageInUse where somebody has the image open for writing, so that what is read of it is no disk."""
    for path in image.files:
        if not is_locked(path, against_readers=True):
            continue
        raise ImageInUse(
            f"{path}: is open for writing, by a running guest or another program: what is read of it would be "
            "inconsistent: stop that first",
            path=path,
            in_use_by=[],
        )


def require_settled(qemu_img: QemuImg, path: str, image_format: str, left: dict[str, t.Any] | None) -> None:
    """Raises where *left*, the record of a run beside the image, is of one that changes it in place.

    That is: where it is at work, or died and left the image corrupt.
    """
    if left is None or left.get("verb") not in IN_PLACE:
        return
    if left.get("alive"):
        if left["verb"] == "unknown":  # it has noted nothing yet, and QEMU's locks know when it begins
            return
        raise OperationInFlight(
            f"{path}: another run works on this image ({left['verb']} since {left.get('started')}): wait for it",
            path=path,
            operation=left,
        )
    found = look_for(path, image_format, left)
    require_whole(found)
    check = qemu_img.check(path, image_format, external_data=found.external_data)
    if check.result == "corrupt" or check.check_errors:
        raise UnsafeImage(
            f"{path}: an interrupted run left {check.corruptions} corruption(s) in the metadata: repair it first "
            "(kvmops.disk.qcow2_check with repair=all)",
            path=path,
            check=dict(vars(check)),
        )
