# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are made and attached by one task, beside the two loops that one would write."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import libvirt
from lab import Disk, Hypervisor

from bench.pair import Row, Way, compare
from bench.play import play

VENV = Path(sys.prefix)
NAME = "attached"
TARGETS = [f"vd{letter}" for letter in "bcdefghijk"]


def attached(hv: Hypervisor) -> Row:
    """Ten disks of a domain that is off."""
    directory, root = hv.images / NAME, hv.images / "attached-root.raw"
    directory.mkdir()
    directory.chmod(0o711)
    root.touch()
    os.truncate(root, 1 << 20)
    definition = hv.domain_xml(NAME, [Disk(root)], kernel=False)
    paths = {target: str(directory / f"{target}.qcow2") for target in TARGETS}

    def ours() -> None:
        disks = [{"name": NAME, "disk": target, "path": path, "size": "1G"} for target, path in paths.items()]
        play(hv.directory, VENV, [{"kvmops.disk.vm_disk": {"disks": disks, "uri": hv.uri}}])
        require_all()

    def by_hand() -> None:
        loop = [{"target": target, "path": path} for target, path in paths.items()]
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "{{ item.path }}", "1G"]
        attach = ["virsh", "-c", hv.uri, "attach-disk", NAME, "{{ item.path }}", "{{ item.target }}"]
        attach += ["--driver", "qemu", "--subdriver", "qcow2", "--config"]
        commands = [{"ansible.builtin.command": {"argv": argv}, "loop": loop} for argv in (create, attach)]
        play(hv.directory, VENV, commands)
        require_all()

    def require_all() -> None:
        connection = libvirt.open(hv.uri)
        try:
            xml = connection.lookupByName(NAME).XMLDesc()
        finally:
            connection.close()
        missing = [path for path in paths.values() if path not in xml or not os.path.exists(path)]
        if missing:
            raise RuntimeError(f"not all disks were made and attached: {missing}")

    def start_over() -> None:
        for path in paths.values():
            Path(path).unlink(missing_ok=True)
        hv.remove(NAME)
        hv.define(definition)
        os.sync()

    row = compare(
        "vm_disk, 10 disks made and attached, beside two loops",
        Way(ours, start_over),
        Way(by_hand, start_over),
        rounds=3,
        goal=0.3,
    )
    hv.remove(NAME)
    return row
