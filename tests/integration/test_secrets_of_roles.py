# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role is given in confidence is in nothing that Ansible prints."""

from __future__ import annotations

from lab import Hypervisor
from support.playground import Playground


def test_the_secret_of_a_disk_is_not_shown(hv: Hypervisor, ground: Playground) -> None:
    disk = {"vm": "nowhere", "disk": "vdb", "size": "1M", "encryption": {"secret": "do-not-tell"}}
    task = {
        "ansible.builtin.include_role": {"name": "kvmops.disk.vm_disks"},
        "vars": {"vm_disks": [disk], "vm_disks_uri": hv.uri},
    }
    run = ground.start(task, options=["-vvv"]).wait()
    assert "nowhere" in run.output
    assert "do-not-tell" not in run.output.split("TASK [", 1)[1]
