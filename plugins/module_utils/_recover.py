# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision what to do first where a run died on an image."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils import _staging
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._lock import Operation, look
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu_img import QemuImg

#: The verbs that change an image in place, and the one of a record that was cut off. The others make new files, of
#: which only staging directories can be left.
IN_PLACE = frozenset(["reconcile", "resize", "unknown"])


def interrupted(
    path: str, image_format: str | None, operation: Operation | None, qemu_img: QemuImg
) -> tuple[Step, ...]:
    """What is to be done first where a run died on the image; what a living one has there is its own business."""
    left = operation.left_behind(path) if operation else look(path)
    if left and left.get("alive"):
        return ()
    return settle(path, image_format, left, qemu_img)


def recorded(
    first: tuple[Step, ...], plan: Plan, path: str, operation: Operation | None, *, noted: bool = True
) -> Plan:
    """*plan* after the steps that settle what a dead run left, and with a note of what is in flight in between.

    Without *noted* there is none: for what is done or not, and has to work where there is no room for a note.
    """
    if operation is None or not (first or plan):
        return Plan(plan.before, plan.after, (*first, *plan.steps))

    def note() -> None:
        operation.settled(path)
        if noted:
            operation.note(path, before=plan.before, after=plan.after)

    return Plan(plan.before, plan.after, (*first, Step("", note), *plan.steps))


def settle(path: str, image_format: str | None, left: dict[str, t.Any] | None, qemu_img: QemuImg) -> tuple[Step, ...]:
    """The steps that bring order to what a dead run left of *path*: *left* is its record, None where there is none.

    *image_format* is None where there is no image. A format without metadata has nothing to check. Metadata that only
    leaks is repaired, since that touches reference counts alone; a corruption is an error, since its repair can lose
    data.
    """
    steps = []
    if _staging.left_over(path):
        steps.append(
            Step(f"remove the unfinished file that an interrupted run left for {path}", lambda: _staging.discard(path))
        )
    if left is None:
        return tuple(steps)
    if image_format is not None and left.get("verb") in IN_PLACE:
        steps.append(
            Step(
                f"check {path}, on which a run was interrupted at {left.get('started')}",
                lambda: check(path, image_format, qemu_img),
            )
        )
    else:
        steps.append(Step(f"forget the run that was interrupted on {path} at {left.get('started')}", lambda: None))
    return tuple(steps)


def check(path: str, image_format: str, qemu_img: QemuImg) -> None:
    """Makes sure that the metadata of an image is in order, leaks repaired. Raises UnsafeImage where it is corrupt."""
    found = qemu_img.check(path, image_format)
    if found.result == "leaks":
        found = qemu_img.check(path, image_format, repair="leaks")
    if found.result == "corrupt" or found.check_errors:
        raise UnsafeImage(
            f"{path}: an interrupted run left {found.corruptions} corruption(s) in the metadata: copy the image, "
            "then repair it with qemu-img check -r all",
            path=path,
            check=dict(vars(found)),
        )
