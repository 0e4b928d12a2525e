# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run that died left of an image: its record, an unfinished file, a disk between two contents."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import look, record_path
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import COMMIT, MERGING, REVERT

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation


@dataclass(frozen=True)
class Leftovers:
    """What is left of *path*, an image of *format* (None: there is none); *record* is None where no run died on it.

    *external_data*, *dirty*: as the header of a qcow2 image has them.
    *half_replaced*: it has several files, some of which have gone, or are new; the old ones are kept (file_set).
    *half_reverted* names the snapshot of a revert that stopped in the middle: the disk is neither what it was nor
    what the snapshot holds.
    *half_merged* is the path of an overlay whose merge stopped in the middle: the image is that overlay, or the base
    that has a part of its content, or one between the two.
    """

    path: str
    format: str | None
    record: dict[str, t.Any] | None = None
    unfinished_file: bool = False
    half_replaced: bool = False
    half_reverted: str | None = None
    half_merged: str | None = None
    external_data: bool = False
    dirty: bool = False

    @property
    def verb(self) -> str:
        return str((self.record or {}).get("verb"))

    @property
    def started(self) -> str:
        return str((self.record or {}).get("started"))

    @property
    def is_whole(self) -> bool:
        """Whether nothing needs the image, as it is, but itself; and its disk is one that somebody wanted."""
        return self.half_reverted is None and self.half_merged is None

    @property
    def record_path(self) -> str:
        return record_path(self.path)


def look_for(path: str, image_format: str | None, record: dict[str, t.Any] | None) -> Leftovers:
    """What is left of *path*, by the *record* of the dead run and by the files themselves; nothing is written."""
    place = os.path.realpath(path)
    left = Leftovers(
        path,
        image_format,
        record,
        unfinished_file=_beside.left_over(place),
        half_replaced=_beside.left_over(place) and _is_elsewhere(place),
        half_merged=_half_merged(record),
    )
    if record is None or image_format != "qcow2":
        return left
    with _headers.open_image(path) as stream:
        header = _qcow2.read_header(stream, path)
    left = replace(left, external_data=header.external_data, dirty=header.dirty)
    if left.verb != REVERT:
        return left
    from ansible_collections.kvmops.disk.plugins.module_utils._recovery.reverting import half_reverted

    return replace(left, half_reverted=half_reverted(path, record))


def left_on(path: str, image_format: str | None, operation: Operation | None) -> Leftovers:
    """What is left of *path* where its record says that a run died; one that lives still has its own business there."""
    record = operation.left_behind(path) if operation else look(path)
    if record and record.get("alive"):
        return Leftovers(path, image_format)
    return look_for(path, image_format, record)


def _is_elsewhere(path: str) -> bool:
    """Whether the image of *path* is where a run that died while it replaced it keeps it."""
    from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set

    return _file_set.stands_at(path) != path


def _half_merged(record: dict[str, t.Any] | None) -> str | None:
    """A merge has a record beside each image of the chain; once the base has all of the content, they say so."""
    is_half = record is not None and record.get("verb") == COMMIT and record.get("stage") == MERGING
    return str(record.get("overlay")) if record and is_half else None
