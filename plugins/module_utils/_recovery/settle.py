# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision what to do first where a run died on an image."""

from __future__ import annotations

import os
import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import Leftovers, left_on
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import (
    BITMAP,
    COMMIT,
    CONVERT,
    CREATE,
    DELETE,
    DISK_SNAPSHOT,
    REPAIR,
    REVERT,
)

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult, QemuImg

#: The verbs that harm nothing but reference counts when they are cut short (HAZARDS D).
_OF_SNAPSHOTS = frozenset([CREATE, DELETE, REVERT])
#: The verbs that change an image in place, and the one of a record that was cut off. The others make new files, of
#: which only staging directories can be left.
IN_PLACE = frozenset(["reconcile", "resize", REPAIR, COMMIT, BITMAP, DISK_SNAPSHOT, "unknown", *_OF_SNAPSHOTS])


def interrupted(
    path: str, image_format: str | None, operation: Operation | None, qemu_img: QemuImg, *, finishing: str | None = None
) -> tuple[Step, ...]:
    """What is to be done first where a run died on the image; what a living one has there is its own business."""
    return settle(left_on(path, image_format, operation), qemu_img, finishing=finishing)


def settle(left: Leftovers, qemu_img: QemuImg, *, finishing: str | None = None) -> tuple[Step, ...]:
    """The steps that bring order to what a dead run left of an image.

    A format without metadata has nothing to check. Metadata that only leaks is repaired, since that touches reference
    counts alone. A corruption is repaired where the dead run worked on snapshots, which corrupts those counts and
    nothing else, and where the tables prove it; otherwise it is an error, since a repair can lose data.
    Raises UnsafeImage where the dead run left a disk that nobody wanted, in the middle of the verb that we are not
    *finishing*.
    """
    steps = []
    path = left.path
    if left.half_replaced and finishing != CONVERT:
        raise UnsafeImage(
            f"{path}: a run was interrupted while it replaced the files of this image: run the same conversion again "
            "(kvmops.disk.qcow2_convert), which puts the old ones back first",
            path=path,
        )
    if left.unfinished_file:
        what = (
            f"put back the files of {path} that an interrupted run was replacing"
            if left.half_replaced
            else f"remove the unfinished file that an interrupted run left for {path}"
        )
        steps.append(Step(what, partial(_settle_files, os.path.realpath(path))))
    if left.record is None:
        return tuple(steps)
    if left.verb != finishing:
        require_whole(left)
    if left.format is not None and left.verb in IN_PLACE:
        steps.append(Step(f"check {path}, on which a run was interrupted at {left.started}", _checker(left, qemu_img)))
    else:
        steps.append(Step(f"forget the run that was interrupted on {path} at {left.started}", lambda: None))
    return tuple(steps)


def require_checkable(domain: str, state: str, path: str, left: t.Mapping[str, t.Any] | None) -> None:
    """Raises DiskError where a dead run *left* an image that has to be checked, which the guest of a running *domain*
    forbids."""
    if left and not left.get("alive") and left.get("verb") in IN_PLACE:
        raise DiskError(
            f"{path}: a run ({left.get('verb')}) was interrupted on it, and it cannot be checked while {domain} is "
            f"{state}: shut the domain down, then run again",
            operation=left,
        )


def require_whole(left: Leftovers) -> None:
    """Raises UnsafeImage where a dead run was reverting the disk, or merging an overlay, and stopped in between."""
    if left.half_merged is not None:
        base = (left.record or {}).get("base")
        raise UnsafeImage(
            f"{left.path}: the merge of {left.half_merged} into {base} was interrupted at {left.started}: the base is "
            "neither what it was before nor what the overlay shows, and only the overlay, left as it is, is right: "
            "merge it again (kvmops.disk.qcow2_commit with the same path and base); if you know that the base is "
            f"right, remove {left.record_path}",
            path=left.path,
            overlay=left.half_merged,
            base=base,
        )
    if left.half_reverted is not None:
        raise UnsafeImage(
            f"{left.path}: a revert to its snapshot {left.half_reverted!r} was interrupted at {left.started}, and the "
            "disk is neither what it was before nor what the snapshot holds: revert it again "
            "(kvmops.disk.qcow2_snapshot with state=reverted) to this snapshot or to another; if you know that its "
            f"content is right, remove {left.record_path}",
            path=left.path,
            snapshot=left.half_reverted,
        )


def check(path: str, image_format: str, qemu_img: QemuImg) -> None:
    """Makes sure that the metadata of an image is in order, leaks repaired. Raises UnsafeImage where it is corrupt."""
    _checker(Leftovers(path, image_format), qemu_img)()


def _settle_files(path: str) -> None:
    from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set

    _file_set.settle(path)


def _checker(left: Leftovers, qemu_img: QemuImg) -> t.Callable[[], None]:
    def check_it() -> None:
        found = _checked(left, qemu_img)
        if found.result == "corrupt" or found.check_errors:
            raise UnsafeImage(
                f"{left.path}: an interrupted run left {found.corruptions} corruption(s) in the metadata: copy the "
                "image, then repair it with kvmops.disk.qcow2_check (repair=all)",
                path=left.path,
                check=asdict(found),
            )

    return check_it


def _checked(left: Leftovers, qemu_img: QemuImg) -> CheckResult:
    """What a check finds, after the repair of what cannot cost any content."""
    path, image_format, external = left.path, str(left.format), left.external_data
    found = qemu_img.check(path, image_format, external_data=external)
    if found.result == "leaks" or (found.result == "good" and left.dirty):
        return qemu_img.check(path, image_format, repair="leaks", external_data=external)
    if found.result == "corrupt" and left.verb in _OF_SNAPSHOTS:
        from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import (
            repair_counts,  # loaded where there is damage
        )

        return repair_counts(path, qemu_img)
    return found
