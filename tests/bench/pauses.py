# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest notices of a conversion: the longest time between two records that it writes and syncs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab import Disk, Guest, Hypervisor

from bench.pair import Row, compare, run_anew

DATA_MIB = 400
DISK_MIB = 1024
SECONDS_AT_REST = 3


class WritingGuest:
    """A machine with data on a raw disk, made anew for each measurement."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self.source, self.dest = hv.images / "pause.raw", hv.images / "pause.qcow2"
        self.pristine = hv.images / "pristine.raw"
        self.guest = Guest(hv, "pause")
        self._make_disk()

    def _make_disk(self) -> None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "raw", self.source, f"{DISK_MIB}M"], check=True)
        subprocess.run(["mkfs.ext4", "-q", self.source], check=True)
        self._start()
        self.guest.must(f"pattern /data/pattern {DATA_MIB} pause; sync", timeout=180)
        self.hv.remove("pause")
        self.source.rename(self.pristine)

    def _start(self) -> None:
        self.hv.boot(self.hv.domain_xml("pause", [Disk(self.source)]))

    def start_over(self) -> None:
        self.hv.remove("pause")
        for made in (self.source, self.dest):
            made.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", self.pristine, self.source], check=True)
        os.sync()
        self._start()

    def longest_gap(self, convert: Callable[[], object]) -> float:
        """The longest time in seconds from one record to the next while CONVERT runs, and a moment before and after."""
        self.guest.must("(writer /data/records >/tmp/writer 2>&1 &); sleep 1")
        convert()
        self.guest.must("sleep 1; touch /tmp/stop; while pidof dd; do usleep 10000; done")
        return float(self.guest.must("check /data/records", timeout=60).split()[3])


@dataclass(frozen=True)
class Pause:
    """What is measured of one way to convert."""

    machine: WritingGuest
    convert: Callable[[], object]

    def seconds(self) -> float:
        self.machine.start_over()
        return self.machine.longest_gap(self.convert)


def pauses(hv: Hypervisor) -> Iterator[Row | str]:
    """The pause of a live conversion beside that of virsh blockcopy, and the downtime of the way offline."""
    machine = WritingGuest(hv)

    def ours(mode: str = "live") -> None:
        parameters = {"name": "pause", "disk": "vda", "mode": mode, "uri": hv.uri}
        done = run_anew("vm_disk_convert", parameters, timeout=600)
        if not done.get("changed") or done["disks"][0]["mode"] != mode:
            raise RuntimeError(f"not converted: {done}")

    def by_hand() -> None:
        command = ["virsh", "-c", hv.uri, "blockcopy", "pause", "vda", "--dest", str(machine.dest), "--format", "qcow2"]
        subprocess.run([*command, "--wait", "--pivot", "--transient-job"], check=True, stdout=subprocess.DEVNULL)

    what = f"live conversion, {DATA_MIB} MiB: the guest's longest pause"
    yield compare(what, Pause(machine, ours), Pause(machine, by_hand), rounds=7, goal=1.1)

    machine.start_over()
    at_rest = machine.longest_gap(lambda: time.sleep(SECONDS_AT_REST))
    machine.start_over()
    began = time.monotonic()
    ours("offline")
    machine.guest.wait_ready()
    away = time.monotonic() - began
    yield f"  beside it: {at_rest:.3f} s at rest; offline {away:.1f} s, from the stop to answering again"
    machine.hv.remove("pause")
    for path in (machine.source, machine.dest, machine.pristine):
        path.unlink(missing_ok=True)
