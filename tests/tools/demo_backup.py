# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the demonstration in which a machine that writes is backed up twice, loses its disk, and gets it back."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from demo_stage import Playbook, claim, definition, disk_of, mib, occupied, row, timed, title
from lab import Guest, Hypervisor


class Backups:
    """The machine `web`, which runs, and the backups of its disk."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.convert = Playbook("playbooks/convert_disks.yml", "disk_convert", hypervisor.uri)
        self.backup = Playbook("playbooks/backup_disks.yml", "backup", hypervisor.uri)
        self.restore = Playbook("playbooks/restore_disks.yml", "backup", hypervisor.uri)
        self.directory = hypervisor.images / "backups"
        self.restored = hypervisor.images / "restored"
        self.guest = Guest(hypervisor, "web")

    def run(self) -> None:
        for directory in (self.directory, self.restored):
            directory.mkdir(mode=0o711)
        self.prepare()
        self.back_up("first", "full")
        self.write_more()
        needed = self.acknowledged()
        self.back_up("second", "incremental")
        self.lose_the_disk()
        self.bring_back()
        self.require_records(needed)

    def prepare(self) -> None:
        title("The disk of the running machine becomes qcow2, which can tell what changes")
        done = self.convert.play(domains="web", **{"from": "raw", "format": "qcow2"})
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        self.guest.must("rm -f /data/records /tmp/acked /tmp/stop && sync")
        self.guest.must("(writer /data/records >/tmp/writer 2>&1 &); while [ ! -e /tmp/acked ]; do usleep 10000; done")

    def back_up(self, name: str, kind: str) -> None:
        title(f"{self.backup.path} makes the backup {name} while the guest writes records")
        wish = {"domains": "web", "dir": str(self.directory), "name": name}
        done = self.backup.play(**wish)
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        claim(f"web: {name} was made, {kind}" in done.output, f"the backup is no {kind} one")
        self.backup.play_again(**wish)
        row(f"the backup {name}", f"{kind}, {mib(sum(map(occupied, self.files(name))))}")

    def write_more(self) -> None:
        before = self.acknowledged()
        with timed("the guest writes on"):
            self.guest.must(f"while [ $(cat /tmp/acked) -lt {before + 50} ]; do usleep 10000; done", timeout=120)

    def lose_the_disk(self) -> None:
        title("The machine is destroyed, and its disk deleted")
        self.image_format, path = disk_of(definition(self.hypervisor.uri))
        self.image = Path(path)
        with contextlib.closing(self.hypervisor.connect()) as connection:
            connection.lookupByName("web").destroy()
        self.image.unlink()
        row("gone", str(self.image))

    def bring_back(self) -> None:
        title(f"{self.restore.path} makes the disk again, as it was in the second backup")
        wish: dict[str, Any] = {
            "backup_restores": [{"domain": "web", "backup": "second", "dest_dir": str(self.restored)}]
        }
        done = self.restore.play(wish, dir=str(self.directory))
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        self.restore.play_again(wish, dir=str(self.directory))
        (made,) = self.restored.glob(f"*.{self.image_format}")
        made.rename(self.image)
        with timed("the machine boots from it"):
            self.hypervisor.start("web")
            self.guest.wait_ready()

    def require_records(self, needed: int) -> None:
        said = self.guest.must("check /data/records", timeout=60)
        found = re.match(r"records: (\d+) ", said)
        claim(found is not None, said)
        assert found
        claim(int(found[1]) >= needed, f"{found[1]} records are there, {needed} were on the disk before the backup")
        self.guest.must("cd /data && sha256sum -c SHA256SUMS", timeout=120)
        title("What happened to the records")
        row("on the disk before the backup", str(needed))
        row("in the guest now", f"{found[1]}, without a gap")
        row("its other data", "as written, by their checksums")

    def acknowledged(self) -> int:
        """The number of the last record of which the guest knows that it is on its disk."""
        return int(self.guest.must("cat /tmp/acked"))

    def files(self, name: str) -> list[Path]:
        """The images of the backup."""
        return sorted(self.directory.glob(f"*/{name}/*.qcow2"))
