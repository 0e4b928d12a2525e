# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs playbooks on a machine, by an inventory, over ssh and with become, as users do."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Where there is no libvirt, there is no lab, and the rest of this file works.
    from hosts.machine import Machine

_CHECKOUT = Path(__file__).resolve().parents[2]
_RECAP = re.compile(r"^(\S+)\s+:\s+ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Played:
    """What the recap says of one host; `seconds` is how long it took."""

    ok: int
    changed: int
    failed: int
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether something ran, and all of it went well."""
        return bool(self.ok) and not self.failed


def recap(output: str, host: str) -> Played:
    """What the last recap of ansible-playbook's OUTPUT says of HOST; nothing ran where it says nothing."""
    found = Played(0, 0, 0)
    for name, ok, changed, unreachable, failed in _RECAP.findall(output):
        if name == host:
            found = Played(int(ok), int(changed), int(unreachable) + int(failed))
    return found


def inventory(host: str, ssh_config: Path, output: Path) -> str:
    """An inventory with one host, in the group that the playbooks name."""
    variables = {
        "ansible_ssh_common_args": f"'-F {ssh_config}'",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_pipelining": "true",
        "output": output,
    }
    return f"[kvm_hosts]\n{host} {' '.join(f'{name}={value}' for name, value in variables.items())}\n"


def play(
    machine: Machine, playbook: Path, log: Path, meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None
) -> Played:
    """Runs the playbook; LOG gets what it says. MEANWHILE is called with its process, as soon as that has begun."""
    hosts = log.with_suffix(".inventory")
    hosts.write_text(inventory(machine.name, machine.ssh_config, log.parent), encoding="utf-8")
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(_CHECKOUT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_TIMEOUT": "60",
    }
    began = time.monotonic()
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            ["ansible-playbook", "-v", "--inventory", hosts, playbook],
            cwd=_CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        if meanwhile:
            meanwhile(process)
        process.wait()
    said = recap(log.read_text(encoding="utf-8", errors="replace"), machine.name)
    return Played(said.ok, said.changed, said.failed, time.monotonic() - began)
