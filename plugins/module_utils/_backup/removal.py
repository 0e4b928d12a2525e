# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A backup is removed: the one that was looked at, its own files, and nothing that somebody has put beside them."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup


def remove(backup: Backup) -> None:
    """Removes a backup. It loses its name at first, in one step, so that none that is half removed is ever seen.

    Hold the record of the directory that it stands in. Raises DiskError where another one has its name by now, where
    its directory holds anything else, or where another backup stands on it: nothing is removed then.
    """
    require_removable(backup)
    _require_unneeded(backup)
    hidden = _staging.NewFile(backup.path)
    hidden.begin()
    try:
        os.rename(backup.path, hidden.name)
    except OSError as error:
        hidden.withdraw()
        raise DiskError(f"{backup.path}: cannot be removed: {error.strerror}", path=backup.path) from error
    _durable.sync(os.path.dirname(backup.path))
    hidden.commit()


def require_removable(backup: Backup) -> None:
    """Raises DiskError where what stands there is another backup than was looked at, or more than that."""
    facts, names = _store.contents(backup.path)
    if facts != backup.manifest:
        raise DiskError(f"{backup.path}: is another backup than before: it was left alone", path=backup.path)
    strange = sorted({*names} - {_manifest.MANIFEST, *backup.facts.files})
    if strange:
        raise DiskError(
            f"{backup.path}: holds {strange[0]!r}, which is no part of the backup: it was left alone: move that away",
            path=backup.path,
        )


def _require_unneeded(backup: Backup) -> None:
    """Raises DiskError where a backup beside it stands on it, such as one that could not be removed before it."""
    for name, facts in _store.manifests(os.path.dirname(backup.path)).items():
        if facts is None:
            raise DiskError(f"{backup.path}: it is unknown whether {name!r} stands on it: it was left alone")
        if facts.parent == backup.name:
            raise DiskError(f"{backup.path}: the backup {name} stands on it: it was left alone", path=backup.path)
