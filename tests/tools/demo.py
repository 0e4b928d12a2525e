# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the collection at work: the disk of a machine, converted by playbooks/convert_disks.yml offline and then live;
a second one, which comes, grows and goes; clones of a machine, and the report.

    python tests/tools/demo.py

Needs root, for the private hypervisor of tests/lab. Everything that is said is measured; what is not as it should be
ends the demonstration with an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_clones import Classroom
from demo_disks import SecondDisk
from demo_stage import (
    BOLD,
    PLAIN,
    NotAsClaimed,
    Playbook,
    claim,
    definition,
    difference,
    disk_of,
    mib,
    occupied,
    row,
    timed,
    title,
)
from lab import Disk, Guest, Hypervisor, build_boot_disk

DISK_MIB = 256
DATA_MIB = 100
#: What a live copy may take of the disk's speed: enough to be done soon, and little enough to be watched.
BANDWIDTH = "40M"


def main() -> None:
    began = time.monotonic()
    # Short, for the sockets in it; every user may traverse it, for QEMU's.
    with tempfile.TemporaryDirectory(prefix="kvmops-", dir="/tmp") as base:
        Path(base).chmod(0o711)
        with Hypervisor(Path(base), "demo") as hypervisor:
            Demonstration(hypervisor).run()
            SecondDisk(hypervisor).run()
            Classroom(hypervisor).run()
    claim(not Path(base).exists(), f"{base}: is still there")
    print(f"\n{BOLD}All as claimed{PLAIN}, in {time.monotonic() - began:.0f} s; the hypervisor and its files are gone.")


class Demonstration:
    """The machine `web` and what happens to it."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.uri = hypervisor.uri
        self.convert = Playbook("playbooks/convert_disks.yml", "disk_convert", hypervisor.uri)
        self.raw = hypervisor.images / "web.raw"
        self.qcow2 = hypervisor.images / "web.qcow2"
        self.fast = hypervisor.images / "fast"
        self.guest = Guest(hypervisor, "web")

    def run(self) -> None:
        self.boot_from_raw()
        self.written = self.write_in_guest()
        self.convert_off_line()
        self.convert_live()

    def boot_from_raw(self) -> None:
        title("A machine boots from a raw disk")
        with timed(f"a raw disk of {DISK_MIB} MiB, all of it allocated, with Linux and {DATA_MIB} MiB of data"):
            build_boot_disk(self.raw, DISK_MIB, DATA_MIB, seed="demo")
            with open(self.raw, "r+b") as disk:
                os.posix_fallocate(disk.fileno(), 0, DISK_MIB << 20)
        with timed("the machine boots from it"):
            self.hypervisor.boot(self.hypervisor.domain_xml("web", [Disk(self.raw)], kernel=False))

    def write_in_guest(self) -> str:
        """Has the guest write to its disk as it runs; returns the checksum of that."""
        with timed("its guest writes 8 MiB more, and syncs"):
            self.guest.must("pattern /data/written-by-guest 8 guest && sync", timeout=60)
        return self.guest.must("sha256sum /data/written-by-guest").split()[0]

    def convert_off_line(self) -> None:
        before, size_before = definition(self.uri), occupied(self.raw)
        title(f"Offline: {self.convert.path} shuts it down, and converts its disk to qcow2")
        done = self.convert.play(domains="web", mode="offline")
        claim(done.changed == 1, f"the first run changed {done.changed} things, not 1")

        title("The machine runs from its qcow2 disk")
        with timed("it boots from it"):
            self.guest.wait_ready()
        self.require_disk("qcow2", self.qcow2)
        self.check_data()
        again = self.convert.play_again(domains="web", mode="offline")
        after = definition(self.uri)
        expected = before.replace("type='raw'", "type='qcow2'").replace(str(self.raw), str(self.qcow2))
        claim(after == expected, "\n".join(difference(expected, after)))
        claim(self.raw.exists(), f"{self.raw}: is gone, though it was to be kept")

        title("What happened offline")
        row("disk, as the guest sees it", f"{DISK_MIB} MiB")
        row("space it takes", f"{mib(size_before)} as raw, {mib(occupied(self.qcow2))} as qcow2")
        row("the playbook", f"{done.seconds:.1f} s")
        row("the machine was off", f"{float(done.said(r'was off for ([0-9.]+) seconds')):.1f} s")
        row("the second run", f"changed={again.changed}")
        row("the old disk", "kept")
        print("\nThe machine's definition, before and after:\n")
        for line in difference(before, after):
            print(f"    {line}")

    def convert_live(self) -> None:
        title("The guest writes records of 4 KiB, one after the other, and syncs each of them")
        process = self.hypervisor.qemu_pid("web")
        self.guest.must("(writer /data/records >/tmp/writer 2>&1 &); while [ ! -e /tmp/acked ]; do usleep 10000; done")
        time.sleep(2)
        first, at_rest = self.records()
        row("so far", f"{first} records, the longest pause between two of them {at_rest:.2f} s")

        title(f"Live: {self.convert.path} converts its disk back to raw, at another place, meanwhile")
        self.fast.mkdir(mode=0o711)
        wish = {"domains": "web", "from": "qcow2", "format": "raw", "dest_dir": str(self.fast), "bandwidth": BANDWIDTH}
        begun = self.acknowledged()
        done = self.convert.play(**wish)
        ended = self.acknowledged()
        claim(done.changed == 1, f"the run changed {done.changed} things, not 1")
        claim("its machine ran on" in done.output, "the machine did not run on")
        lines = len(re.findall(r"^\[localhost\] web vda: copy ", done.output, re.MULTILINE))
        claim(lines >= 3, f"{lines} lines said how far it was")

        title("The machine runs from its new disk, and never stopped")
        moved = self.fast / "web.raw"
        self.require_disk("raw", moved)
        now = self.hypervisor.qemu_pid("web")
        claim(now == process, f"its QEMU is process {now}, was {process}")
        time.sleep(1)
        claim(self.acknowledged() > ended, "the guest writes no more")
        with timed("its guest ends its writing, and reads all from the disk again"):
            self.guest.must("touch /tmp/stop; while pidof dd; do usleep 10000; done; sync")
            self.guest.must("echo 3 >/proc/sys/vm/drop_caches")
        acknowledged, (found, longest) = self.acknowledged(), self.records()
        claim(found >= acknowledged, f"{found} records are there, {acknowledged} had been acknowledged")
        said = self.guest.must("cat /tmp/writer").strip()
        claim(not said, f"the guest had errors: {said}")
        self.check_data()
        again = self.convert.play_again(**wish)

        title("What happened live")
        row("the playbook", f"{done.seconds:.1f} s, the copy at most {BANDWIDTH} in a second")
        row("records written meanwhile", str(ended - begun))
        row("records lost", f"none of {found}")
        row("the longest pause of the guest", f"{longest:.2f} s ({at_rest:.2f} s at rest)")
        row("its QEMU", f"process {process}, before and after")
        row("the second run", f"changed={again.changed}")

    def check_data(self) -> None:
        with timed("its guest checks its own data"):
            said = self.guest.must("cd /data && sha256sum -c SHA256SUMS", timeout=120)
        for line in said.splitlines():
            print(f"      {line}")
        found = self.guest.must("sha256sum /data/written-by-guest", timeout=60).split()[0]
        claim(found == self.written, f"written-by-guest has the checksum {found}, had {self.written}")
        print("      written-by-guest: as it was written before any conversion")

    def acknowledged(self) -> int:
        """The number of the last record of which the guest knows that it is on its disk."""
        return int(self.guest.must("cat /tmp/acked"))

    def records(self) -> tuple[int, float]:
        """How many records there are, without a gap, and the longest time in seconds from one to the next."""
        said = self.guest.must("check /data/records", timeout=60)
        found = re.fullmatch(r"records: (\d+) longest: ([\d.]+)", said.strip())
        claim(found is not None, said)
        assert found
        return int(found[1]), float(found[2])

    def require_disk(self, image_format: str, path: Path) -> None:
        """Both the running machine and its definition have this disk, and it is what they say."""
        with contextlib.closing(self.hypervisor.connect()) as connection:
            live = disk_of(connection.lookupByName("web").XMLDesc())
        claim(live == (image_format, str(path)), f"the machine runs from {live}")
        defined = disk_of(definition(self.uri))
        claim(defined == live, f"the machine is defined with {defined}")
        info = ["qemu-img", "info", "--force-share", "--output=json", str(path)]
        image = json.loads(subprocess.run(info, check=True, stdout=subprocess.PIPE).stdout)
        claim(image["format"] == image_format, f"{path}: is {image['format']}")
        claim(image["virtual-size"] == DISK_MIB << 20, f"{path}: has {image['virtual-size']} bytes for the guest")


if __name__ == "__main__":
    try:
        main()
    except NotAsClaimed as problem:
        sys.exit(f"not as claimed: {problem}")
