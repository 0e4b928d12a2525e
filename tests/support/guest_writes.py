# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that writes to its disk all the while, and says what was acknowledged."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import Guest
from support.scene import qemu_img


def file_system(path: Path, mib: int = 64) -> Path:
    """A raw disk with an ext4, which the lab's guest mounts."""
    qemu_img("create", "-q", "-f", "raw", path, f"{mib}M")
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    return path


def start_writing(guest: Guest) -> None:
    guest.must("pattern /data/pattern 8 live && sync && sha256sum /data/pattern >/data/SUMS")
    guest.must("(writer /data/records >/tmp/writer 2>&1 &); while [ ! -e /tmp/acked ]; do usleep 10000; done")


def acknowledged(guest: Guest, after: int = 0) -> int:
    """The number of a record that was acknowledged, later than AFTER."""
    return number_in(guest, "/tmp/acked", after)


def number_in(guest: Guest, path: str, above: int) -> int:
    """The number in a file of the guest, as soon as it is above ABOVE."""
    look = f'n=$(cat {path}) && [ "$n" -gt {above} ]'  # it is empty while it is written anew
    return int(guest.must(f"until {{ {look}; }} 2>/dev/null; do usleep 10000; done; echo $n"))


def stop_writing(guest: Guest) -> int:
    """Asserts that all that was acknowledged is there, and returns how many records that are."""
    guest.must("touch /tmp/stop; while pidof dd; do usleep 10000; done; sync; echo 3 >/proc/sys/vm/drop_caches")
    acked = int(guest.must("cat /tmp/acked"))
    said = guest.must("check /data/records; sha256sum -c /data/SUMS")
    assert int(said.split()[1]) >= acked > 0, said
    assert guest.must("cat /tmp/writer").strip() == ""
    return acked
