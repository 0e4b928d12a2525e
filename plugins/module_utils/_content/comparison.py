# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a guest sees the same in two images: by qemu-img where holes are told truly, else by reading all of it."""

from __future__ import annotations

import typing as t
from contextlib import ExitStack

from ansible_collections.kvmops.disk.plugins.module_utils._host.holes import are_told_truly
from ansible_collections.kvmops.disk.plugins.module_utils._image.links import files_read
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import length, united

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import Report
    from ansible_collections.kvmops.disk.plugins.module_utils._ranges import Ranges

#: A path and a format.
Named = tuple[str, str]

#: Formats of which all is content, so that each hole is one of the file.
_PLAIN = frozenset(("raw", "luks"))
_PIECE = 2 << 20


def same_content(
    qemu_img: QemuImg,
    one: Named,
    other: Named,
    *,
    snapshot: tuple[str, str] | None = None,
    strict: bool = False,
    report: Report | None = None,
) -> bool:
    """Whether a guest would see the same in both.

    *snapshot*: an internal one of *one*, by its ID and name, is compared. *strict*: a difference in size or allocation
    is one, too. *report* is told how much has been compared, in percent. Raises QemuImgFailed, or DiskError, where they
    could not be compared.
    """
    if strict and not qemu_img.identical(*one, *other, report=report):
        return False
    if not all(map(are_told_truly, {*files_read(*one), *files_read(*other)})):
        return _reads_same(qemu_img, one, other, snapshot, report)
    if strict:
        return True
    if snapshot is not None:
        return qemu_img.same_as_snapshot(*one, snapshot, *other, report=report)
    return qemu_img.same_content(*one, *other, report=report)


def _reads_same(
    qemu_img: QemuImg, one: Named, other: Named, snapshot: tuple[str, str] | None, report: Report | None
) -> bool:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.nbd import ServedDisk

    with ExitStack() as served:
        disks = [
            served.enter_context(ServedDisk(served.enter_context(socket)))
            for socket in (qemu_img.served(*one, snapshot), qemu_img.served(*other))
        ]
        known = snapshot is None and not {one[1], other[1]} & _PLAIN
        held = (
            united(_held(qemu_img, one) + _held(qemu_img, other)) if known else [(0, max(disk.size for disk in disks))]
        )
        done, total = 0, length(held)
        for start, end in _pieces(held):
            for disk in disks:
                disk.ask(start, end)
            first, second = (disk.answer() for disk in disks)
            if first != second:
                return False
            done += end - start
            if report is not None:
                report(100 * done / total)
    return True


def _held(qemu_img: QemuImg, image: Named) -> list[tuple[int, int]]:
    """The ranges of the disk that something of the chain has; the rest of it are zeros by the images' own tables."""
    return [(row.start, row.start + row.length) for row in qemu_img.map(*image) if row.present]


def _pieces(ranges: Ranges) -> t.Iterator[tuple[int, int]]:
    for start, end in ranges:
        for at in range(start, end, _PIECE):
            yield at, min(at + _PIECE, end)
