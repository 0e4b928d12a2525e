# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a host, as root: starts and stops its machines, and prints as JSON whose their images are in each state.

    survey.py [MACHINE…]     leaves these machines running

Looks are keyed by when they were made: `found`, as the machines are; `stopped`; `started`, each from its disk; and
`rest`, stopped again. `content` says which disks hold what the machine's reference holds.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

FOLDERS = ("/var/lib/libvirt/images", "/srv/vm", "/srv/dest", "/srv/golden", "/srv/backup")
REFERENCE = Path("/srv/reference")


def virsh(*words: str) -> str:
    done = subprocess.run(
        ["virsh", "--quiet", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"virsh {' '.join(words)}: {done.stdout}")
    return done.stdout


def label(path: Path) -> str:
    try:
        return os.getxattr(path, "security.selinux").rstrip(b"\0").decode()
    except OSError:
        return ""


def account(ask: Callable[[int], tuple[object, ...]], number: int) -> str:
    """The name of a user or group, or its number."""
    try:
        return str(ask(number)[0])
    except KeyError:
        return str(number)


def state(path: Path) -> dict[str, str]:
    status = path.lstat()
    return {
        "owner": account(pwd.getpwuid, status.st_uid),
        "group": account(grp.getgrgid, status.st_gid),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "label": label(path),
    }


def look() -> dict[str, dict[str, str]]:
    files = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*")) if not path.is_dir()]
    return {str(path): state(path) for path in files}


def disks(machine: str) -> dict[str, str]:
    rows = [line.split(None, 1) for line in virsh("domblklist", machine, "--inactive").splitlines()]
    return {target: source.strip() for target, source in rows if source.strip() != "-"}


def holds_its_content(machine: str, image: str) -> bool:
    source = REFERENCE / f"{machine}.raw"
    model = source if source.exists() else REFERENCE / "golden.raw"
    described = subprocess.run(["qemu-img", "info", "--output=json", image], stdout=subprocess.PIPE, check=True)
    kind = json.loads(described.stdout)["format"]
    compared = subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", kind, str(model), image], check=False)
    return compared.returncode == 0


def main() -> None:
    machines = virsh("list", "--all", "--name").split()
    survey: dict[str, object] = {"found": look()}
    images = {machine: disks(machine) for machine in machines}
    for machine in virsh("list", "--name").split():
        virsh("destroy", machine)
    survey["stopped"] = look()
    survey["disks"] = images
    survey["content"] = {machine: holds_its_content(machine, images[machine]["vda"]) for machine in machines}
    started = [machine for machine in machines if machine != "golden"]
    for machine in started:
        virsh("start", "--paused", machine)
    survey["started"] = look()
    for machine in started:
        virsh("destroy", machine)
    survey["rest"] = look()
    for machine in sys.argv[1:]:
        virsh("start", "--paused", machine)
    json.dump(survey, sys.stdout)


main()
