# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A checkout is the collection as it stands: what one types in it works, wherever it lies and without installing it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git tracks or would track, in a place with an awkward name."""
    copy = tmp_path_factory.mktemp("from a") / "fresh checkout"
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    for name in filter(None, listing.split("\0")):
        if os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def typed(checkout: Path, *argv: str) -> str:
    """The output of a command of ansible, typed in the checkout by somebody who has configured nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    environment["ANSIBLE_HOME"] = str(checkout.parent / "ansible home")
    command = [str(Path(sys.executable).with_name(argv[0])), *argv[1:]]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_module_makes_an_image_by_its_short_name(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.qcow2"
    arguments = f"path={path} size=5G preallocation=metadata"

    assert "localhost | CHANGED" in typed(checkout, "ansible", "localhost", "-m", "qcow2_image", "-a", arguments)

    info = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, stdout=subprocess.PIPE).stdout
    assert json.loads(info)["format"] == "qcow2"
    assert json.loads(info)["virtual-size"] == 5 << 30
    extents = subprocess.run(["qemu-img", "map", "--output=json", path], check=True, stdout=subprocess.PIPE).stdout
    assert all("offset" in extent for extent in json.loads(extents)), "metadata is not preallocated"
    assert "localhost | SUCCESS" in typed(checkout, "ansible", "localhost", "-m", "qcow2_image", "-a", arguments)


def test_the_documentation_of_a_module_is_shown(checkout: Path) -> None:
    page = typed(checkout, "ansible-doc", "-t", "module", "kvmops.disk.vm_disk_convert")
    assert "shutdown_timeout" in page
    assert f"({checkout}/" in page, "it is another checkout's"


def test_the_documentation_of_a_role_is_shown(checkout: Path) -> None:
    by_name = typed(checkout, "ansible-doc", "-t", "role", "kvmops.disk.disk_convert")
    by_path = typed(checkout, "ansible-doc", "-t", "role", "kvmops.disk.disk_convert", "-r", "roles")
    assert "disk_convert_shutdown_timeout" in by_name
    assert "disk_convert_shutdown_timeout" in by_path


@pytest.mark.parametrize("playbook", ["playbooks/convert_disks.yml", "kvmops.disk.convert_disks"])
def test_a_playbook_is_found_with_its_role(checkout: Path, playbook: str) -> None:
    assert "convert_disks.yml" in typed(checkout, "ansible-playbook", playbook, "--syntax-check")
    assert "kvmops.disk.disk_convert : " in typed(
        checkout, "ansible-playbook", playbook, "--list-tasks", "-e", "disk_convert_hosts=localhost"
    )
