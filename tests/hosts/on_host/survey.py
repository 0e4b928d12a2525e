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
from xml.etree import ElementTree

import libvirt

FOLDERS = ("/var/lib/libvirt/images", "/srv/vm", "/srv/dest", "/srv/golden", "/srv/backup")
REFERENCE = Path("/srv/reference")
# The machine whose disk is the base of others: a start would write what they read.
BASE = "golden"


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


def disks(domain: libvirt.virDomain) -> dict[str, tuple[str, str]]:
    """The images of the domain's next start and their formats, by target."""
    definition = ElementTree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    found = {}
    for disk in definition.iterfind("devices/disk"):
        source, target, driver = disk.find("source"), disk.find("target"), disk.find("driver")
        if source is not None and target is not None and driver is not None:
            found[target.get("dev", "")] = (source.get("file", ""), driver.get("type", ""))
    return found


def holds_its_content(machine: str, image: str, image_format: str) -> bool:
    own = REFERENCE / f"{machine}.raw"
    model = own if own.exists() else REFERENCE / f"{BASE}.raw"
    command = ["qemu-img", "compare", "-q", "-f", "raw", "-F", image_format, str(model), image]
    return subprocess.run(command, check=False).returncode == 0


def main() -> None:
    connection = libvirt.open("qemu:///system")
    domains = {domain.name(): domain for domain in connection.listAllDomains()}
    images = {name: disks(domain) for name, domain in domains.items()}
    survey: dict[str, object] = {
        "disks": {name: {target: path for target, (path, _format) in found.items()} for name, found in images.items()},
        "found": look(),
    }
    for domain in domains.values():
        if domain.isActive():
            domain.destroy()
    survey["stopped"] = look()
    survey["content"] = {name: holds_its_content(name, *found["vda"]) for name, found in images.items()}
    started = [domain for name, domain in domains.items() if name != BASE]
    for domain in started:
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    survey["started"] = look()
    for domain in started:
        domain.destroy()
    survey["rest"] = look()
    for name in sys.argv[1:]:
        domains[name].createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    json.dump(survey, sys.stdout)


main()
