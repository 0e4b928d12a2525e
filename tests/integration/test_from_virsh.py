# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page from_qemu_img, of commands for a machine: each works as it is typed, and the task beside it does the same,
once."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from support.scene import definition, is_running, make_image
from support.tutorial import IMAGES, Example, examples

Module = Callable[..., dict[str, Any]]
LIVE = 0
#: What a tutorial has one type; each has to be on the page.
COMMANDS = ("attach-disk", "blkdeviotune", "change-media .*--update", "change-media .*--eject", "detach-disk")


def of_machines() -> list[Example]:
    return [one for one in examples() if "virsh " in one.command]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_tutorial_is_on_the_page(command: str) -> None:
    assert [one for one in of_machines() if re.search(f"virsh {command}", one.command)]


class Machine:
    """A machine without a guest, whose SCSI disks go at once, with a drive and a medium; in a directory of its own."""

    def __init__(self, hv: Hypervisor, directory: Path, make_domain: MakeDomain, *, running: bool) -> None:
        directory.mkdir(mode=0o711)
        self.hv, self.directory = hv, directory
        make_image(directory / "debian.iso")
        disks = [
            Disk(make_image(directory / "root.raw"), target="sda"),
            Disk(make_image(directory / "first.iso"), target="hdc", device="cdrom"),
        ]
        self.name = make_domain(disks, kernel=False).name
        if running:
            hv.start(self.name)

    def placed(self, text: str) -> str:
        """A command or a task of the page, for this machine."""
        return re.sub(r"\bweb\b", self.name, text.replace(IMAGES, str(self.directory)))

    def disks(self) -> list[list[dict[str, Any]]]:
        """Its disks in the definition and, if it runs, in the machine, without what nobody asks for."""
        flags = [(), (LIVE,)] if is_running(self.hv, self.name) else [()]
        return [self._disks(definition(self.hv, self.name, *flag)) for flag in flags]

    def _disks(self, xml: str) -> list[dict[str, Any]]:
        found = ElementTree.fromstring(xml.replace(str(self.directory), IMAGES)).findall("devices/disk")
        return [
            {
                "device": disk.get("device"),
                "source": getattr(disk.find("source"), "attrib", {}).get("file"),
                "format": disk.find("driver").get("type"),  # type: ignore[union-attr]
                "target": disk.find("target").attrib,  # type: ignore[union-attr]
                "limits": {limit.tag: limit.text for limit in disk.findall("iotune/*")},
            }
            for disk in found
        ]

    def files(self) -> dict[str, tuple[int, int]]:
        """Its files, each with its size and its owner."""
        return {path.name: (path.stat().st_size, path.stat().st_uid) for path in self.directory.iterdir()}


@pytest.mark.parametrize("running", [True, False], ids=["running", "off"])
def test_the_tasks_do_what_the_commands_do_and_do_it_once(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, module: Module, running: bool
) -> None:
    typed = Machine(hv, images / "typed", make_domain, running=running)
    played = Machine(hv, images / "played", make_domain, running=running)
    for example in of_machines():
        command = typed.placed(example.command)
        subprocess.run(
            ["sh", "-e", "-c", command if running else command.replace(" --live", "")],
            cwd=typed.directory,
            env={**os.environ, "LIBVIRT_DEFAULT_URI": hv.uri},
            check=True,
            capture_output=True,
        )
        for task in json.loads(played.placed(json.dumps(example.tasks))):
            first, again = (module("vm_disk", task["kvmops.disk.vm_disk"]) for _time in range(2))
            assert first.get("changed"), (task, first)
            assert again.get("changed") is False, (task, again)
        assert played.disks() == typed.disks(), example.command
        assert played.files() == typed.files(), example.command
