# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_disk_backup_info: what stands in a directory of backups. Neither libvirt nor QEMU is asked."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._backup import digests as _digests
from ansible_collections.kvmops.disk.plugins.module_utils._backup import facts as _facts
from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    dest_dir, wanted = absolute(module.params["dest_dir"], "dest_dir"), module.params["domains"]
    read = _digests.digest_on_disk if module.params["verify"] else None
    found = [_store.backups(dest_dir, uuid, read) for uuid in _store.domains(dest_dir)]
    backups = [backup for one in found for backup in one if wanted is None or _is_of(backup, one, wanted)]
    damaged = [backup for backup in backups if not backup.whole]
    if damaged:
        module.warn(
            f"{len(damaged)} of {len(backups)} backups in {dest_dir} are not whole: "
            + "; ".join(f"{backup.path}: {backup.problems[0]}" for backup in damaged[:5])
        )
    return {"changed": False, "backups": [_facts.facts(backup) for backup in backups]}


def _is_of(backup: Backup, siblings: t.Iterable[Backup], wanted: t.Container[str]) -> bool:
    """Whether *backup*, found beside *siblings*, is of one of the domains *wanted*, each a UUID or any name that the
    domain had."""
    return backup.uuid in wanted or any(one.manifest and one.manifest.domain in wanted for one in siblings)
