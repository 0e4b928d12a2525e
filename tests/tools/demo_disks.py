# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the demonstration in which a running machine gets a second disk, which grows, and goes."""

from __future__ import annotations

from typing import Any

from demo_stage import Playbook, claim, definition, row, title
from lab import Guest, Hypervisor


class SecondDisk:
    """The machine `web`, which runs, and a disk for its data."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.provide = Playbook("playbooks/provide_disks.yml", "vm_disks", hypervisor.uri)
        self.directory = hypervisor.images / "data"
        self.image = self.directory / "web-vdb.qcow2"
        self.guest = Guest(hypervisor, "web")

    def run(self) -> None:
        self.directory.mkdir(mode=0o711)
        process = self.hypervisor.qemu_pid("web")
        self.attach()
        self.grow()
        self.detach()
        now = self.hypervisor.qemu_pid("web")
        claim(now == process, f"its QEMU is process {now}, was {process}")

    def attach(self) -> None:
        title(f"{self.provide.path} gives the running machine a second disk")
        disk = {"size": "32M", "throttle": {"total_iops": 2000}}
        done = self.provide.play(self.wish(**disk), dir=str(self.directory))
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        self.await_size(32)
        self.guest.must("pattern /dev/vdb 4 second && sync", timeout=60)
        claim(str(self.image) in definition(self.provide.uri), "the definition does not have the disk")
        self.provide.play_again(self.wish(**disk), dir=str(self.directory))

    def grow(self) -> None:
        title("It grows while the guest uses it")
        done = self.provide.play(self.wish(size="64M"), dir=str(self.directory))
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        self.await_size(64)
        self.guest.must(
            "pattern /tmp/second 4 second && dd if=/dev/vdb bs=1M count=4 2>/tmp/dd | cmp - /tmp/second", timeout=60
        )
        row("the disk in the guest", "64 MiB, with what the guest wrote before")

    def detach(self) -> None:
        title("It goes, and its image with it")
        done = self.provide.play(self.wish(state="absent", remove_image=True), dir=str(self.directory))
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        claim(self.guest.run("test -e /dev/vdb")[0] != 0, "the guest has the disk still")
        left = [path.name for path in self.directory.iterdir()]
        claim(not left, f"{', '.join(left)} is left")
        row("the machine", "ran on all the while")

    def await_size(self, size: int) -> None:
        """Waits until the guest has seen the disk with SIZE MiB."""
        self.guest.must(
            f'while [ "$(cat /sys/block/vdb/size 2>/tmp/none)" != {size * 2048} ]; do usleep 10000; done', timeout=60
        )

    @staticmethod
    def wish(**disk: Any) -> dict[str, Any]:
        return {"vm_disks": [{"vm": "web", "disk": "vdb", **disk}]}
