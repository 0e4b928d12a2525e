# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_restore: images with the content of a backup, and nothing of a backup that is not what it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import run_module, tree_state
from support.injection import killed_at, points
from support.scene import MIB, qemu_img

MODULE = "vm_disk_restore"
UUID = "11111111-2222-3333-4444-555555555555"


def lay(store: Path, name: str, parent: str | None, pattern: int, number: int) -> None:
    """A backup NAME as vm_disk_backup makes it: the disk has PATTERN in a mebibyte of its own."""
    directory = store / UUID / name
    directory.mkdir(parents=True)
    image = directory / "vda.qcow2"
    backing = ["-b", f"../{parent}/vda.qcow2", "-F", "qcow2"] if parent else []
    qemu_img("create", "-q", "-f", "qcow2", *backing, image, "8M")
    what = f"write -P {pattern} {number}M 1M"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", what, image], check=True, capture_output=True)
    (directory / "domain.xml").write_text("<domain/>")
    files = {
        file: {
            "size": (directory / file).stat().st_size,
            "sha256": hashlib.sha256((directory / file).read_bytes()).hexdigest(),
        }
        for file in ("vda.qcow2", "domain.xml")
    }
    kind = "incremental" if parent else "full"
    disk = {"target": "vda", "kind": kind, "format": "raw", "virtual_size": 8 * MIB, "tracked": False}
    facts = {
        "version": 1,
        "backup": name,
        "domain": "web",
        "uuid": UUID,
        "taken": f"2026-01-0{number + 1}T00:00:00+00:00",
        "online": True,
        "quiesced": None,
        "parent": parent,
        "checkpoint": None,
        "disks": [disk],
        "files": files,
        "tools": {},
    }
    (directory / "backup.json").write_text(json.dumps(facts))


@pytest.fixture
def store(open_directory: Path) -> Path:
    """The backups a, b and c, each over the one before."""
    directory = open_directory / "backups"
    for number, (name, parent) in enumerate([("a", None), ("b", "a"), ("c", "b")]):
        lay(directory, name, parent, 0x11 * (number + 1), number)
    return directory


@pytest.fixture
def restore(store: Path, open_directory: Path) -> Callable[..., dict[str, Any]]:
    (open_directory / "out").mkdir()

    def run(backup: str, *, check: bool = False, **options: Any) -> dict[str, Any]:
        return run_module(MODULE, params(store, backup, **options), check=check)

    return run


def params(store: Path, backup: str, **options: Any) -> dict[str, Any]:
    dest = store.parent / "out"
    return {"src_dir": str(store), "domain": "web", "backup": backup, "dest_dir": str(dest), **options}


def content(path: Path, image_format: str) -> bytes:
    raw = path.with_name("content")
    qemu_img("convert", "-f", image_format, "-O", "raw", path, raw)
    found = raw.read_bytes()
    raw.unlink()
    return found


def expected(count: int) -> bytes:
    """What the disk had at the COUNTth backup."""
    return b"".join(bytes([0x11 * (number + 1)]) * MIB for number in range(count)).ljust(8 * MIB, b"\0")


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_each_point_of_a_chain_becomes_a_whole_image(
    restore: Callable[..., dict[str, Any]], open_directory: Path, image_format: str
) -> None:
    path = open_directory / "out" / f"vda.{image_format}"
    for count, name in enumerate("abc", 1):
        predicted = restore(name, check=True, format=image_format)
        assert not path.exists()
        result = restore(name, format=image_format)
        assert result["changed"], result
        assert (result["actions"], result["diff"]) == (predicted["actions"], predicted["diff"])
        (disk,) = result["disks"]
        assert (disk["path"], disk["format"], disk["virtual_size"]) == (str(path), image_format, 8 * MIB)
        assert "backing-filename" not in json.loads(qemu_img("info", "--output=json", "-f", image_format, path))
        assert content(path, image_format) == expected(count)
        assert path.stat().st_mode & 0o777 == 0o600
        before = tree_state(open_directory)
        again = restore(name, format=image_format)
        assert (again["changed"], again["actions"]) == (False, [])
        assert tree_state(open_directory) == before
        path.unlink()


def test_an_image_with_other_content_is_left_alone(
    restore: Callable[..., dict[str, Any]], open_directory: Path
) -> None:
    assert restore("a")["changed"]
    before = tree_state(open_directory)
    refused = restore("b")
    assert refused["failed"]
    assert "exists, and has other content than vda of the backup" in refused["msg"]
    assert tree_state(open_directory) == before


def test_a_flipped_byte_of_a_backup_below_is_refused_by_name(
    restore: Callable[..., dict[str, Any]], open_directory: Path, store: Path
) -> None:
    image = store / UUID / "a" / "vda.qcow2"
    with image.open("r+b") as stream:
        stream.seek(-4096, os.SEEK_END)
        stream.write(b"\xff")
    refused = restore("c")
    assert refused["failed"]
    assert f"{image.parent}: vda.qcow2 has other content than was backed up" in refused["msg"]
    assert list((open_directory / "out").iterdir()) == []


@pytest.mark.parametrize("backing", ["/etc/shadow", "../../../secret", "json:{}", "nbd://127.0.0.1:1"])
def test_a_planted_reference_is_not_followed(
    restore: Callable[..., dict[str, Any]], open_directory: Path, store: Path, backing: str
) -> None:
    image = store / UUID / "a" / "vda.qcow2"
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", image)
    facts = json.loads((image.parent / "backup.json").read_text())
    facts["files"]["vda.qcow2"] = {
        "size": image.stat().st_size,
        "sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
    }
    (image.parent / "backup.json").write_text(json.dumps(facts))
    for name in "ac":
        refused = restore(name)
        assert refused["failed"]
        assert f"has the backing file {backing!r}, expected None" in refused["msg"]
    assert list((open_directory / "out").iterdir()) == []


def test_what_is_not_there_is_refused_with_what_is(restore: Callable[..., dict[str, Any]], store: Path) -> None:
    assert restore("none")["backups"] == ["a", "b", "c"]
    assert "it has none" in restore("a", domain="other")["msg"]
    assert "it has vda" in restore("a", disks=["vdb"])["msg"]
    (store / UUID / "a" / "vda.qcow2").unlink()
    assert restore("c")["problems"] == ["needs the backup a, which vda.qcow2 is missing"]


def test_killed_at_any_moment_the_next_run_makes_the_image(
    restore: Callable[..., dict[str, Any]], open_directory: Path, store: Path, tmp_path: Path
) -> None:
    out = open_directory / "out"
    found = points(params(store, "b"), tmp_path / "points", module=MODULE)
    for point in found:
        (out / "vda.qcow2").unlink()
        killed_at(point, params(store, "b"), children=True, module=MODULE)
        result = restore("b")
        assert not result.get("failed"), (point, result)
        assert [path.name for path in out.iterdir()] == ["vda.qcow2"], point
        assert content(out / "vda.qcow2", "qcow2") == expected(2), point
