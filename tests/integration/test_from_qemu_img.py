# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page from_qemu_img: each command works as it is typed, and the task beside it does the same, once."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Hypervisor, run_module
from support import tutorial
from support.image_tools import MIB, NOBODY, create, info, names, overlay, qemu_img, qemu_io
from support.playground import Playground
from support.snapshot_tools import consistency
from support.tutorial import IMAGES, Example

#: Milliseconds for the derivation of a key, which takes seconds where nobody asks for less.
HASTE = 10
KEYS = "/etc/keys"
#: What a tutorial has one type; each has to be on the page.
COMMANDS = [
    *(rf"create -f \w+ -o preallocation={policy} " for policy in ("off", "metadata", "falloc", "full")),
    r"create -f qcow2 \w",
    "create -f qcow2 -b .* -F qcow2",
    "create --object secret.*encrypt.format=luks",
    "convert --object secret.*encrypt.format=luks",
    "convert --object secret.*--image-opts -O raw",
    "snapshot --object secret",
    "info -U",
    "info -U --backing-chain",
    "convert -f raw -O qcow2",
    "convert -f qcow2 -O raw",
    "convert -c ",
    "convert .*-o subformat=monolithicFlat",
    r"resize -f qcow2 \S+ \+10G",
    r"resize -f qcow2 \S+ 40G",
    *(f"snapshot -{option} " for option in "clad"),
    "check --output=json",
    "check -r leaks",
    "check -r all",
    "compare ",
    "commit -f",
    "commit .*-b ",
    "map ",
    "measure ",
    "rebase -f .* -b golden",
    "rebase -u ",
    'rebase .* -b ""',
    "amend -f qcow2 -o ",
    "amend --object secret",
    *(f"bitmap .*--{action} " for action in ("add", "remove", "enable", "disable", "clear", "merge")),
]


def examples() -> list[Example]:
    """Those for images alone."""
    return [one for one in tutorial.examples() if "virsh " not in one.command]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_tutorial_is_on_the_page(command: str) -> None:
    assert [one for one in examples() if re.search(f"^qemu-img {command}", one.command)]


def prepare(directory: Path) -> Path:
    """The images that the page takes for granted."""
    directory.mkdir(mode=0o711)
    app = create(directory / "app.raw", "raw", 8 * MIB)
    qemu_io(app, "write -P 0x11 1M 2M", "raw")
    for number, name in enumerate(("golden", "golden-2", "moved", "base", "bottom", "leaky", "broken"), 0x21):
        qemu_io(create(directory / f"{name}.qcow2"), f"write -P {number:#x} 0 1M")
    create(directory / "old.qcow2", "qcow2", MIB, "-o", "compat=0.10")
    overlay(directory / "clone2.qcow2", "moved.qcow2")
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "gone.qcow2", "-F", "qcow2", directory / "clone2.qcow2")
    for name, below in (("test", "base"), ("middle", "bottom"), ("top", "middle")):
        qemu_io(overlay(directory / f"{name}.qcow2", f"{below}.qcow2"), f"write -P {len(name):#x} {len(name)}M 128k")
    count(directory / "leaky.qcow2", added=True)
    count(directory / "broken.qcow2", added=False)
    return directory


def count(path: Path, *, added: bool) -> None:
    """Has the last cluster counted though nobody uses it, or not counted though somebody does."""
    raw = bytearray(path.read_bytes())
    raw += bytes(-len(raw) % 65536 + (65536 if added else 0))
    block = int.from_bytes(raw[(table := int.from_bytes(raw[48:56], "big")) : table + 8], "big")
    last = len(raw) // 65536 - 1
    raw[block + 2 * last : block + 2 * last + 2] = (1 if added else 0).to_bytes(2, "big")
    path.write_bytes(raw)


@pytest.fixture
def keys(images: Path) -> Path:
    directory = images / "keys"
    directory.mkdir()
    for name in ("vault", "rescue"):
        (directory / name).write_text(f"secret of the {name}", encoding="utf-8")
    return directory


def placed(example: Example, directory: Path, keys: Path) -> list[dict[str, Any]]:
    """The tasks of an example, for images in DIRECTORY. New keys cost no time, as in the commands."""
    found = json.loads(json.dumps(example.tasks).replace(IMAGES, str(directory)).replace(KEYS, str(keys)))
    assert isinstance(found, list)
    for task in found:
        for module in ("kvmops.disk.qcow2_image", "kvmops.disk.qcow2_convert"):
            if "encryption" in task.get(module, {}):
                task[module]["encryption"]["iter_time"] = HASTE
    return found


def test_the_tasks_do_what_the_commands_do(hv: Hypervisor, ground: Playground, images: Path, keys: Path) -> None:
    typed, played = prepare(images / "typed"), prepare(images / "played")
    for example in examples():
        type_in(example.command.replace(KEYS, str(keys)), typed)
    defaults: dict[str, Any] = {"group/kvmops.disk.all": {"uri": hv.uri}}
    defaults |= {f"kvmops.disk.qcow2_{verb}": {"progress": False} for verb in ("convert", "commit", "compare")}
    tasks = [task for example in examples() for task in placed(example, played, keys)]
    run = ground.start(*tasks, module_defaults=defaults).wait()
    assert run.process.returncode == 0, run.output
    assert_same(typed, played)


def type_in(command: str, directory: Path) -> None:
    """Runs COMMAND in DIRECTORY; again where QEMU could not time its key derivation, which it does before it writes."""
    command = re.sub(r"encrypt\.(format=luks|new-secret=\w+)", rf"\g<0>,encrypt.iter-time={HASTE}", command)
    for _attempt in range(60):
        done = subprocess.run(["sh", "-e", "-c", command], cwd=directory, capture_output=True, text=True, check=False)
        if "accurate CPU usage" not in done.stderr:
            break
    assert done.returncode == 0, (command, done.stderr)


def test_a_task_changes_nothing_the_second_time(images: Path, keys: Path) -> None:
    played = prepare(images / "played")
    changing = set()
    for example in examples():
        for task in placed(example, played, keys):
            ((module, params),) = [(name, value) for name, value in task.items() if "." in name]
            if not module.startswith("kvmops.disk."):
                continue
            name = module.removeprefix("kvmops.disk.")
            first, again = (run_module(name, {"uri": NOBODY, **params}) for _time in range(2))
            assert not first.get("failed"), (task, first)
            assert again["changed"] is False, (task, again)
            changing |= {example.command} if first["changed"] else set()
    assert changing == {one.command for one in examples() if not re.search(LOOKS, one.command)}


#: The commands that change nothing, or nothing more here.
LOOKS = r"^qemu-img (info|map|measure|compare|snapshot -[la]|check --output|bitmap --clear)"


def snapshot_names(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["id"], one["name"]) for one in found.get("snapshots", ())]


def assert_same(typed: Path, played: Path) -> None:
    """The same images are there, with the same content, sizes, chains, snapshots and bitmaps."""
    assert names(played) == names(typed)
    for one in sorted(typed.iterdir()):
        other = played / one.name
        image_format = "raw" if one.stem.endswith("-flat") else one.suffix[1:]
        found, wanted = info(other, image_format), info(one, image_format)
        for fact in ("virtual-size", "backing-filename-format", "encrypted"):
            assert found.get(fact) == wanted.get(fact), (one.name, fact)
        assert snapshot_names(found) == snapshot_names(wanted), one.name
        assert bool(found.get("backing-filename")) == bool(wanted.get("backing-filename")), one.name
        specific = [told.get("format-specific", {}).get("data", {}) for told in (found, wanted)]
        assert specific[0].get("bitmaps") == specific[1].get("bitmaps"), one.name
        assert specific[0].get("compat") == specific[1].get("compat"), one.name
        if one.stem not in ("vault", "safe"):
            qemu_img("compare", "-f", image_format, "-F", image_format, one, other)
            assert consistency(other, image_format) in ("good", "unsupported"), one.name
    shutil.rmtree(typed)
