# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent in a guest: one that answers, and one that only says that it is there."""

from __future__ import annotations

from lab import Guest, Hypervisor
from support.scene import definition
from support.waits import wait_for

#: An agent that answers each question whether it is there, and does nothing of what it is asked for. As long as libvirt
#: is not connected, it reads the end of a file.
FEIGNING_AGENT = r"""exec 3<>/dev/virtio-ports/org.qemu.guest_agent.0
while :; do
    read -r line <&3 || { usleep 100000; continue; }
    case "$line" in *guest-sync*)
        case "$line" in *delimited*) printf '\377' >&3;; esac
        id=${line##*'"id":'}; id=${id# }; printf '{"return": %s}\n' "${id%%[!0-9]*}" >&3;;
    *) echo "$line" >>/tmp/asked;; esac
done"""


def wait_for_agent(hv: Hypervisor, name: str) -> None:
    wait_for(lambda: "state='connected'" in definition(hv, name, 0), "the agent")


def feign_an_agent(hv: Hypervisor, guest: Guest) -> None:
    """Puts FEIGNING_AGENT in the place of the guest's own."""
    wait_for_agent(hv, guest.name)
    guest.must("kill $(cat /tmp/ga.pid)")
    wait_for(lambda: "state='disconnected'" in definition(hv, guest.name, 0), "the agent is gone")
    guest.must(f"cat >/tmp/feign <<'END'\n{FEIGNING_AGENT}\nEND\nsh /tmp/feign >/dev/null 2>&1 &")
    wait_for_agent(hv, guest.name)
