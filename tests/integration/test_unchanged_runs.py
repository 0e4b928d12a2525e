# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run loads that finds everything as wanted: Ansible compiles each file of the library anew for every task.

The lists say file by file what such a run cannot do without. A file that comes to one of them costs every task of every
user its compilation: import it where it is used instead, unless each run uses it. `make bench` measures such runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain

LIBRARY = "ansible_collections.kvmops.disk.plugins.module_utils."
#: Imported by Python itself at its start.
TELLS_WHAT_IS_LOADED = """
import atexit, os, sys

def tell():
    files = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
    with open(os.environ["LOADED"], "w") as stream:
        stream.write(" ".join(files))

atexit.register(tell)
"""
EVERY_RUN = {"_errors", "_signals", "_task.run", "_task.specs", "_text"}
IMAGES = {"_dataclass", "_formats.headers", "_formats.qcow2", "_image.choices", "_image.image", "_qemu.door", "_size"}
CHANGES = {
    *("_files.beside", "_files.record", "_files.state", "_image.layout", "_plan"),
    *("_host.strangers", "_task.places"),
    *("_task.arguments", "_task.carry_out", "_task.task"),
}
DOMAINS = {
    *("_domain.domain", "_libvirt.binding", "_libvirt.connection", "_libvirt.domain", "_libvirt.line"),
    *("_usage.sources", "_xml.disks", "_xml.document", "_xml.records"),
}
LOADED = {
    "qcow2_image": {
        *("_content.rebase_wish", "_host.image_locks", "_recovery.noting"),
        *("_task.attributes", "_task.image_task", "_task.specs_encryption"),
        *("_provision.wish", "_provision.change", "_provision.present", "_provision.survey"),
        *("_qcow2_image.task", "_qcow2_image.task_present"),
    },
    "vm_disk": {
        *("_content.rebase_wish", "_domain.ready", "_formats.references", "_host.image_locks", "_image.links"),
        *("_provision.change", "_provision.present", "_provision.survey", "_provision.wish", "_recovery.noting"),
        *("_task.attributes", "_task.image_task", "_task.items", "_task.specs_encryption", "_usage.users"),
        *("_vm_disk.decision", "_vm_disk.decision_obstacles", "_vm_disk.decision_present", "_vm_disk.result"),
        *("_vm_disk.survey", "_vm_disk.survey_users", "_vm_disk.task", "_vm_disk.task_disk", "_vm_disk.task_image"),
        *("_vm_disk.task_present", "_vm_disk.wish"),
        *("_xml.comparison", "_xml.disk_changes", "_xml.disk_definition", "_xml.image_properties"),
        *("_xml.machine", "_xml.tuning"),
    },
    "vm_disk_convert": {
        *("_progress", "_recovery.traces", "_recovery.verbs", "_task.domain_task"),
        *("_vm_disk_convert.wish", "_vm_disk_convert.decision", "_vm_disk_convert.result", "_vm_disk_convert.task"),
    },
    "vm_disk_info": {
        *(
            "_files.beside",
            "_files.record",
            "_files.state",
            "_formats.references",
            "_image.links",
            "_parallel",
            "_usage.dependents",
            "_usage.users",
        ),
        *("_vm_disk_info.survey", "_vm_disk_info.result", "_vm_disk_info.task"),
    },
}


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    """What a module that runs anew, as for a user, has loaded of the library by its end."""
    (tmp_path / "sitecustomize.py").write_text(TELLS_WHAT_IS_LOADED, encoding="utf-8")
    told = tmp_path / "loaded"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(name: str, parameters: Mapping[str, Any]) -> set[str]:
        environment = {"PYTHONPATH": path, "LOADED": str(told)}
        result = run_module(name, parameters, python=sys.executable, env=environment)
        assert result.get("changed") is False, result
        files = told.read_text(encoding="utf-8").split()
        return {name.removeprefix(LIBRARY) for name in files if name.startswith(LIBRARY)}

    return run


@pytest.fixture
def image(images: Path) -> Path:
    path = images / "unchanged.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    return path


def test_an_image_that_is_as_wanted_needs_no_libvirt_and_no_qemu_img(loaded: Any, image: Path) -> None:
    wanted = EVERY_RUN | IMAGES | CHANGES | LOADED["qcow2_image"]
    assert loaded("qcow2_image", {"path": str(image), "size": "1G"}) == wanted


def test_a_disk_that_is_as_wanted_needs_no_survey_and_no_work(
    loaded: Any, image: Path, hv: Hypervisor, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(image, "qcow2")]).name
    wanted = EVERY_RUN | IMAGES | CHANGES | DOMAINS | LOADED["vm_disk_convert"]
    assert loaded("vm_disk_convert", {"name": name, "disk": "vda", "uri": hv.uri}) == wanted


def test_a_look_at_disks_needs_nothing_that_changes_them(
    loaded: Any, image: Path, hv: Hypervisor, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(image, "qcow2")]).name
    wanted = EVERY_RUN | IMAGES | DOMAINS | LOADED["vm_disk_info"]
    assert loaded("vm_disk_info", {"names": [name], "uri": hv.uri}) == wanted


def test_a_disk_that_is_there_as_wanted_needs_no_plan_and_no_work(
    loaded: Any, image: Path, hv: Hypervisor, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(image, "qcow2")]).name
    wanted = EVERY_RUN | IMAGES | CHANGES | DOMAINS | LOADED["vm_disk"]
    asked = {"name": name, "disk": "vda", "path": str(image), "size": "1G", "uri": hv.uri}
    assert loaded("vm_disk", asked) == wanted
