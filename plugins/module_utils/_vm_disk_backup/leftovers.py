# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What runs that backed the domain up have left when they died: directories with new files, and jobs that go on."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotBelieved
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import stage as _stage
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.decision import Leftover
from ansible_collections.kvmops.disk.plugins.module_utils._xml import backups as _backups

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import Manifest

_SUFFIX = f"{_beside.SUFFIX}.d"


def staged(place: str, name: str) -> str:
    """The directory in which the backup *name* is made. Raises FileNotFoundError where none is."""
    return os.path.join(_stage.inside(os.path.join(place, name)), name)


def find(place: str, job: str | None) -> tuple[Leftover, ...]:
    """What is left below *place*; *job* is the XML of the backup that goes on."""
    try:
        names = [name for name in os.listdir(place) if name.startswith(".") and name.endswith(_SUFFIX)]
    except (FileNotFoundError, NotADirectoryError):
        return ()
    filled = {os.path.dirname(file) for file in _backups.files_of_job(job).values()} if job is not None else set()
    found = []
    for name in sorted(name[1 : -len(_SUFFIX)] for name in names):
        if _manifest.is_name(name):
            found.append(Leftover(name, _draft(place, name), staged(place, name) in filled))
    return tuple(found)


def _draft(place: str, name: str) -> Manifest | None:
    """What the backup was to become. Raises NotBelieved where somebody else may have written that."""
    if not _state.has_directory(_beside.staging_directory(os.path.join(place, name))):
        return None
    path = os.path.join(staged(place, name), _manifest.MANIFEST)
    try:
        descriptor = _state.look(path)
    except OSError:
        return None
    try:
        return _manifest.read(_state.content(descriptor, path))
    except (ValueError, NotBelieved):  # it was killed while it wrote
        return None
    finally:
        os.close(descriptor)
