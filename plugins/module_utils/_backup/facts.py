# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the backup modules return of a backup."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import Manifest


def facts(backup: Backup) -> dict[str, t.Any]:
    """A backup as a module returns it; sizes in bytes. What only backup.json says is None where that is not
    believed."""
    found = backup.manifest
    return {
        "name": backup.name,
        "path": backup.path,
        "uuid": backup.uuid,
        "whole": backup.whole,
        "problems": list(backup.problems),
        **(_said(backup.path, found) if found is not None else dict.fromkeys(_SAID)),
    }


def disk_files(backup: Backup) -> list[str]:
    """The paths of the images of a backup that is believed."""
    return [os.path.join(backup.path, disk.file) for disk in backup.facts.disks]


def _said(path: str, found: Manifest) -> dict[str, t.Any]:
    return {
        "domain": found.domain,
        "kind": found.kind,
        "parent": found.parent,
        "checkpoint": found.checkpoint,
        "taken": found.taken,
        "online": found.online,
        "quiesced": found.quiesced,
        "bytes": found.bytes,
        "disks": [
            {**asdict(disk), "path": os.path.join(path, disk.file), "bytes": found.files[disk.file].size}
            for disk in found.disks
        ],
    }


_SAID = ("domain", "kind", "parent", "checkpoint", "taken", "online", "quiesced", "bytes", "disks")
