# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rewrite of an image would give back, at least: by its tables, or by reading what it holds (HAZARDS N2).

Its tables do not tell of clusters that hold nothing but zeros. Who has read them knows about all of it.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._image import anew as _anew
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import layout_of
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import length, united
from ansible_collections.kvmops.disk.plugins.module_utils._size import rounded_up

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg, Range
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import Report
    from ansible_collections.kvmops.disk.plugins.module_utils._ranges import Ranges

_PIECE = 2 << 20


def is_foretold(image: Image) -> bool:
    """Whether anything is known of a rewrite of *image*: of one in this format, that has its data to itself."""
    return image.format in _anew.FORMATS and image.data_file is None and not image.snapshots and not image.encrypted


def most_by_tables(image: Image, rows: t.Sequence[Range]) -> int:
    """What the image occupies at most once it is rewritten, by *rows*, those of its own map."""
    return _most(image, _spans(row for row in rows if row.data), rows)


def most_by_content(qemu_img: QemuImg, image: Image, rows: t.Sequence[Range], report: Report | None = None) -> int:
    """The same, where all that the tables call data is read. *report* is told how much has been read, in percent.

    Raises QemuImgFailed, or ImageInUse, where it cannot be read.
    """
    data = _spans(row for row in rows if row.data)
    return _most(image, _filled(qemu_img, image, data, report), rows)


def _most(image: Image, data: Ranges, rows: t.Sequence[Range]) -> int:
    return _anew.most_bytes(layout_of(image), image.virtual_size, data, _spans(row for row in rows if row.present))


def _filled(qemu_img: QemuImg, image: Image, data: Ranges, report: Report | None) -> list[tuple[int, int]]:
    """The clusters of *data* that hold something else than zeros."""
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.nbd import ServedDisk

    step = _anew.grain(layout_of(image))
    wanted = united([(start // step * step, rounded_up(end, step)) for start, end in data])
    zeros, found, done = bytes(step), [], 0
    with qemu_img.served(image.path, image.format) as socket, ServedDisk(socket) as disk:
        for start, end in _pieces(wanted, max(step, _PIECE)):
            disk.ask(start, end)
            piece = memoryview(disk.answer())
            found += [
                (start + at, start + at + step) for at in range(0, end - start, step) if piece[at : at + step] != zeros
            ]
            done += end - start
            if report is not None:
                report(100 * done / length(wanted))
    return found


def _spans(rows: t.Iterable[Range]) -> list[tuple[int, int]]:
    return [(row.start, row.start + row.length) for row in rows]


def _pieces(ranges: Ranges, step: int) -> t.Iterator[tuple[int, int]]:
    for start, end in ranges:
        for at in range(start, end, step):
            yield at, min(at + step, end)
