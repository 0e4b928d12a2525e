# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a host, as root, and prints as JSON whose the images of its machines are, and which these are.

    survey.py made [MACHINE…]          as they were made
    survey.py restarted [MACHINE…]     with all machines stopped, started from their disks, and at rest, stopped again;
                                       `content` says which disks hold what the machine's reference holds

The machines that are named run afterwards.
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


def restarted(domains: dict[str, libvirt.virDomain]) -> dict[str, object]:
    for domain in domains.values():
        if domain.isActive():
            domain.destroy()
    stopped = look()
    content = {name: holds_its_content(name, *disks(domain)["vda"]) for name, domain in domains.items()}
    to_start = [domain for name, domain in domains.items() if name != BASE]
    for domain in to_start:
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    started = look()
    for domain in to_start:
        domain.destroy()
    return {"stopped": stopped, "content": content, "started": started, "rest": look()}


def main() -> None:
    what, *running = sys.argv[1:]
    domains = {domain.name(): domain for domain in libvirt.open("qemu:///system").listAllDomains()}
    survey = {"files": look()} if what == "made" else restarted(domains)
    images = {
        name: {target: path for target, (path, _format) in disks(domain).items()} for name, domain in domains.items()
    }
    for name in running:
        domains[name].createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    json.dump({**survey, "disks": images}, sys.stdout)


main()
