# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what to do first where a run died on an image."""

from __future__ import annotations

import typing as t
from dataclasses import asdict

from ansible_collections.kvmops.disk.plugins.module_utils import _staging
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._leftovers import CREATE, DELETE, REVERT, Leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._repair import REPAIR, repair_counts

#: The verbs that harm nothing but reference counts when they are cut short (HAZARDS D).
_OF_SNAPSHOTS = frozenset([CREATE, DELETE, REVERT])
#: The verbs that change an image in place, and the one of a record that was cut off. The others make new files, of
#: which only staging directories can be left.
IN_PLACE = frozenset(["reconcile", REPAIR, "unknown", *_OF_SNAPSHOTS])


def settle(left: Leftovers, qemu_img: QemuImg, *, reverting: bool = False) -> tuple[Step, ...]:
    """The steps that bring order to what a dead run left of an image.

    A format without metadata has nothing to check. Metadata that only leaks is repaired, since that touches reference
    counts alone. A corruption is repaired where the dead run worked on snapshots, which corrupts those counts and
    nothing else, and where the tables prove it; otherwise it is an error, since a repair can lose data.
    Raises UnsafeImage where the dead run was reverting the disk and stopped in between, unless we are *reverting* it.
    """
    steps = []
    path = left.path
    if left.unfinished_file:
        steps.append(
            Step(f"remove the unfinished file that an interrupted run left for {path}", lambda: _staging.discard(path))
        )
    if left.record is None:
        return tuple(steps)
    if left.half_reverted is not None and not reverting:
        raise UnsafeImage(
            f"{path}: a revert to its snapshot {left.half_reverted!r} was interrupted at {left.started}, and the disk "
            "is neither what it was before nor what the snapshot holds: revert it again (kvmops.disk.qcow2_snapshot "
            "with state=reverted) to this snapshot or to another; if you know that its content is right, "
            f"remove {left.record_path}",
            path=path,
            snapshot=left.half_reverted,
        )
    if left.format is not None and left.verb in IN_PLACE:
        steps.append(Step(f"check {path}, on which a run was interrupted at {left.started}", _checker(left, qemu_img)))
    else:
        steps.append(Step(f"forget the run that was interrupted on {path} at {left.started}", lambda: None))
    return tuple(steps)


def _checker(left: Leftovers, qemu_img: QemuImg) -> t.Callable[[], None]:
    def check() -> None:
        path, image_format = left.path, str(left.format)
        found = qemu_img.check(path, image_format, external_data=left.external_data)
        if found.result == "leaks":
            found = qemu_img.check(path, image_format, repair="leaks", external_data=left.external_data)
        elif found.result == "corrupt" and left.verb in _OF_SNAPSHOTS:
            found = repair_counts(path, qemu_img)
        if found.result == "corrupt" or found.check_errors:
            raise UnsafeImage(
                f"{path}: an interrupted run left {found.corruptions} corruption(s) in the metadata: copy the image, "
                "then repair it with kvmops.disk.qcow2_check (repair=all)",
                path=path,
                check=asdict(found),
            )

    return check
