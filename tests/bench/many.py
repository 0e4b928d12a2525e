# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hundreds of domains, thousands of images, ten thousand disks on one page: each work in three sizes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lab import Disk, Hypervisor
from unit.reported import GIB, Facts, checked, disk, image, system

from bench.growth import Curve, Size, curve
from bench.pair import run_anew

ROOT = Path(__file__).resolve().parents[2]
DISKS = (500, 2_000, 10_000)
DOMAINS = (100, 200, 400)
IMAGES = (1_000, 10_000, 100_000)
ON_ONE_BASE = 200
#: What no look at the definitions of all domains does without.
XML_OF_ALL = """
import ansible.module_utils.basic, libvirt, lxml.etree, sys
for domain in libvirt.open(sys.argv[1]).listAllDomains():
    domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
"""


def reported(number: int) -> Facts:
    """What a host reports that has NUMBER disks of domains, each of them a clone."""
    facts: dict[str, list[Facts]] = {"images": [], "disks": [], "checks": []}
    for first in range(0, number, ON_ONE_BASE):
        clones = [f"/srv/{one}.qcow2" for one in range(first, min(number, first + ON_ONE_BASE))]
        base = image(f"/srv/golden-{first}.qcow2", dependents=clones, grows=False, writable=False)
        facts["images"] += [base, *(image(path, backing_file=base["path"], promised=GIB) for path in clones)]
        facts["disks"] += [disk(f"pc-{path}", path) for path in clones]
        facts["checks"] += map(checked, clones)
    return {"filesystems": [system(*facts["images"])], "disks": facts["disks"], "checks": facts["checks"]}


def report(directory: Path) -> Curve:
    """The page of one host, beside a play that only loads what was reported of it."""
    role = "kvmops.disk.capacity_report"

    def play(number: int, *, page: bool) -> None:
        kept = directory / f"{number}.json"
        if not kept.exists():
            kept.write_text(json.dumps(reported(number)), encoding="utf-8")
        loaded = f"{{{{ lookup('ansible.builtin.file', '{kept}') | from_json }}}}"
        tasks: list[Facts] = [{"ansible.builtin.set_fact": {"capacity_report_result": loaded}}]
        if page:
            tasks.append({"ansible.builtin.include_role": {"name": role, "tasks_from": "page.yml", "public": True}})
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "capacity_report_dest": str(directory / "page.html"),
        }
        playbook = directory / "report.yml"
        whole = [{"hosts": "all", "gather_facts": False, "vars": variables, "tasks": tasks}]
        playbook.write_text(json.dumps(whole), encoding="utf-8")
        argv = ["ansible-playbook", "--inventory", "kvm1,", str(playbook)]
        subprocess.run(argv, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)

    sizes = [Size(number, partial(play, number, page=True), partial(play, number, page=False)) for number in DISKS]
    return curve("report of one host's disks, beside loading what it reports", sizes, rounds=1, goal=2)


def domains(hv: Hypervisor) -> Curve:
    """The disks of all domains, beside their definitions."""
    directory = hv.images / "machines"
    paths = _overlays(directory, DOMAINS[-1])
    made: list[str] = []

    def define(number: int) -> None:
        for path in paths[len(made) : number]:
            made.append(path.stem)
            hv.define(hv.domain_xml(path.stem, [Disk(path, "qcow2")], kernel=False))

    def ours(number: int) -> None:
        disks = run_anew("vm_disk_info", {"uri": hv.uri})["disks"]
        if sum(str(one["path"]).startswith(f"{directory}/") for one in disks) != number:
            raise RuntimeError("not all disks were found")

    def beside() -> None:
        subprocess.run([sys.executable, "-c", XML_OF_ALL, hv.uri], check=True)

    sizes = [Size(number, partial(ours, number), beside, partial(define, number)) for number in DOMAINS]
    found = curve("vm_disk_info, domains, beside the XML of all", sizes, rounds=3, goal=5)
    for name in made:
        hv.remove(name)
    shutil.rmtree(directory)
    return found


def images(directory: Path) -> Iterator[Curve]:
    """What the modules say of all images in a directory, beside a loop that reads the beginning of each."""
    places = {number: directory / f"of-{number}" for number in IMAGES}
    for number, place in places.items():
        _overlays(place, number)
    for what, module, parameters, goal in (
        ("qcow2_image_info", "qcow2_image_info", {}, 6),
        ("qcow2_image_info, dependents", "qcow2_image_info", {"dependents": True}, 8),
        ("storage_capacity_info", "storage_capacity_info", {}, 8),
    ):
        sizes = [
            Size(number, _described(module, place, parameters), partial(_beginnings, place))
            for number, place in places.items()
        ]
        yield curve(f"{what}, images, beside the first KiB of each", sizes, rounds=1, goal=goal)
    for place in places.values():
        shutil.rmtree(place)


def _described(module: str, place: Path, parameters: dict[str, Any]) -> Callable[[], None]:
    def run() -> None:
        found = run_anew(module, {"paths": [str(place)], **parameters}, timeout=600)
        if found.get("failed"):
            raise RuntimeError(found["msg"])

    return run


def _beginnings(directory: Path) -> None:
    for entry in os.scandir(directory):
        with open(entry.path, "rb") as stream:
            stream.read(1024)


def _overlays(directory: Path, number: int) -> list[Path]:
    """So many overlays of one base, which is beside their directory. They have a header, and hold nothing."""
    directory.mkdir(mode=0o711)
    base, first = directory.with_name(f"{directory.name}.base"), directory / "0.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1G"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", first], check=True)
    with first.open("rb") as stream:
        head, length = stream.read(4096), os.fstat(stream.fileno()).st_size
    paths = [directory / f"{one}.qcow2" for one in range(number)]
    for path in paths[1:]:
        with path.open("wb") as made:
            made.write(head)
            made.truncate(length)
    return paths
