# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a program with another directory as its root, in namespaces of its own."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lab.namespaces import Mount

UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
# /dev is the root's own, from debootstrap: packages change permissions there, and must not change the host's.
PSEUDO_FILE_SYSTEMS = (
    Mount(("-t", "proc", "proc"), "/proc"),
    Mount(("-t", "sysfs", "sysfs"), "/sys"),
    Mount(("-t", "tmpfs", "-o", "mode=0755", "tmpfs"), "/run"),
    Mount(("-t", "tmpfs", "-o", "mode=1777", "tmpfs"), "/tmp"),
    Mount(("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts"), "/dev/pts"),
    Mount(("-t", "tmpfs", "-o", "mode=1777", "tmpfs"), "/dev/shm"),
)


def enter_root(root: Path, argv: Sequence[str | Path], mounts: Sequence[Mount] = ()) -> list[str]:
    """The command line that runs ARGV in ROOT, after MOUNTS were made in it (their targets as seen inside).

    It has mount and process namespaces of its own: no mount and no process is left when it ends, or is killed.
    """
    lines = ["set -e", f"mount --no-mtab --bind {shlex.quote(str(root))} {shlex.quote(str(root))}"]
    for mount in (*PSEUDO_FILE_SYSTEMS, *mounts):
        target = shlex.quote(f"{root}{mount.target}")
        if mount.make_target:
            parent = shlex.quote(str(Path(f"{root}{mount.target}").parent))
            make = "mkdir -p" if Path(mount.arguments[-1]).is_dir() else "touch"
            lines.append(f"mkdir -p {parent}; {make} {target}")
        lines.append(f"mount --no-mtab {shlex.join(mount.arguments)} {target}")
    # Not chroot: a namespace made inside must have this root, too.
    lines += [f"cd {shlex.quote(str(root))}", "mkdir run/host", "pivot_root . run/host", "cd /"]
    lines += ["umount --no-mtab --lazy /run/host", "rmdir /run/host", '"$@"']
    return [*UNSHARE, "sh", "-c", "\n".join(lines), "sh", *map(str, argv)]
