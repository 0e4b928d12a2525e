# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The disks of domains as they are: the walk of vm_disk_info."""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._parallel import in_parallel
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info import survey as _survey

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info.survey import Observed


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    names = module.params["names"]
    hypervisor = Hypervisor.connect(module.params["uri"])
    qemu_img = _door.find()
    domains = _survey.domains(hypervisor, names)
    seen = [found for one in domains if (found := _survey.observe(hypervisor, one, names is not None))]
    uses = _users.domain_uses(hypervisor)
    described = {observed.state.uuid for observed in seen}
    for claim in uses.unresolved:
        if claim.uuid not in described:
            module.warn(f"{claim}: {claim.problem}: it may use any of the images")
    pairs = [(observed, disk) for observed in seen for disk in observed.state.disks]
    users = _users.ByFile(uses.users)
    disks = in_parallel(lambda pair: _described(qemu_img, *pair, users), pairs)
    for (observed, _disk), facts in zip(pairs, disks):
        warning = _result.warning(observed, facts)
        if warning is not None:
            module.warn(warning)
    return {"changed": False, "disks": disks}


def _described(qemu_img: QemuImg, observed: Observed, disk: DomainDisk, users: _users.ByFile) -> dict[str, t.Any]:
    """One disk as the module returns it: its images, who else uses them, and what reads them."""
    images = _survey.images(qemu_img, disk)
    if disk.path is None:
        return _result.facts(observed, disk, images, (), ())
    others = [user for user in users.of(disk.path) if user.uuid != observed.state.uuid]
    return _result.facts(observed, disk, images, others, _dependents.known(disk.path, users))
