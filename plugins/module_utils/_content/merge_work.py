# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An overlay that nobody has open is merged into what it reads."""

from __future__ import annotations

import typing as t
from contextlib import AbstractContextManager

from ansible_collections.kvmops.disk.plugins.module_utils._content import comparison as _comparison
from ansible_collections.kvmops.disk.plugins.module_utils._content.thickness import staying_thick
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def merge_offline(
    qemu_img: QemuImg,
    overlay: tuple[str, str],
    into: tuple[str, str],
    phase: t.Callable[[str], AbstractContextManager[Phase]],
    tell: t.Callable[[str], object],
) -> None:
    """Merges an overlay that nobody has open into what it reads, and believes it once both read the same.

    Both are a path and its format; *phase* begins a part of the progress, *tell* is told what a person should know.
    Raises DiskError; the disk reads the same.
    """
    _durable.sync_before_reading(overlay[0])
    with staying_thick(qemu_img, *into, tell), phase("merge") as merging:
        qemu_img.merging(Layer(*overlay), Layer(*into)).commit(*overlay, report=merging.percent)
    with phase("compare") as comparing, _durable.syncing(into[0]):
        same = _comparison.same_content(qemu_img, overlay, into, report=comparing.percent)
    if not same:
        raise DiskError(
            f"{into[0]}: has other content than {overlay[0]}, which was merged into it: the disk reads the same as "
            "before: run again",
            path=into[0],
        )
