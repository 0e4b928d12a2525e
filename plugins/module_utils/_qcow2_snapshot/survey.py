# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at the snapshots inside of an image, and at what libvirt knows of them."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.decision import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import reverting as _reverting
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import SnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User


def observe(qemu_img: QemuImg, wish: SnapshotWish) -> Observed:
    """The image and its snapshots. Raises DiskError where it cannot be read."""
    image = _image.inspect(qemu_img, wish.path, "qcow2")
    with _headers.open_image(wish.path) as stream:
        header = _qcow2.read_header(stream, wish.path)
        entries = _snapshots.read_snapshot_table(stream, header, wish.path)
        name = str(wish.name).encode() if wish.state == "reverted" else None
        wished = [entry for entry in entries if entry.name == name]
        at_snapshot = bool(wished) and _snapshots.is_at_snapshot(stream, header, wished[0], wish.path)
    return Observed(image, entries, max([header.l1_entries, *(entry.l1_entries for entry in wished)]), at_snapshot)


def recorded_by_libvirt(path: str, surroundings: Surroundings) -> dict[str, User]:
    """The snapshots inside of the image that libvirt has records of, by their names, each with the domain that has."""
    found: dict[str, User] = {}
    asked = set()
    for user, domain in surroundings.domains_with(path):
        if user.uuid not in asked:
            asked.add(user.uuid)
            names = map(_disks.internal_snapshot, domain.snapshot_definitions())
            found = {**{name: user for name in names if name is not None}, **found}
    return found


def facts_of_revert(wish: SnapshotWish, observed: Observed) -> dict[str, t.Any]:
    """By these the next run knows whether the disk is what it was, what it is to be, or neither."""
    found = [entry.snapshot for entry in observed.entries if entry.name == str(wish.name).encode()]
    return {
        "layer": _reverting.active_layer(wish.path),
        "snapshot": wish.name,
        "snapshot_id": found[0].id if found else None,
    }
