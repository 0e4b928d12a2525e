# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a run came that died while it reverted an image to one of its internal snapshots."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import snapshots as _snapshots


def active_layer(path: str) -> str:
    """A digest by which the content of the active layer of the qcow2 image at *path* is known again (HAZARDS E5)."""
    import hashlib  # it loads OpenSSL, for what few runs need

    with _headers.open_image(path) as stream:
        header = _qcow2.read_header(stream, path)
        table = _snapshots.read_l1(stream, header.l1_offset, header.l1_entries, path)
    return hashlib.sha256(str(header.virtual_size).encode() + b":" + table).hexdigest()


def half_reverted(path: str, record: dict[str, t.Any]) -> str | None:
    """The name of the snapshot whose content the disk has only in part, by the *record* of the run; None for all or
    nothing.

    QEMU cuts the disk to its new size, then writes the L1 table; in between it is neither the one nor the other.
    """
    if active_layer(path) == record.get("layer"):
        return None
    with _headers.open_image(path) as stream:
        header = _qcow2.read_header(stream, path)
        for entry in _snapshots.read_snapshot_table(stream, header, path):
            if entry.snapshot.id == record.get("snapshot_id"):
                return None if _snapshots.is_at_snapshot(stream, header, entry, path) else entry.snapshot.name
    return str(record.get("snapshot"))
