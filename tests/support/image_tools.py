# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images made and looked at with qemu-img and qemu-io, beside the modules, and the modules where nobody is a user."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab.module import RunningModule, run_module, start_module
from lab.tree import file_digest, tree_state

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

#: A libvirt of the process's own, whose one domain has no disk: who uses an image is then known by QEMU's locks alone.
NOBODY = "test:///default"
#: A connection at which nothing answers.
SILENT = "qemu+unix:///system?socket=/nonexistent/libvirt-sock"

Result = dict[str, Any]


def image_params(path: Path | str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"path": str(path), "uri": NOBODY, **params}


def image(
    path: Path | str, *, check: bool = False, diff: bool = False, env: Mapping[str, str] | None = None, **params: Any
) -> Result:
    """One run of qcow2_image."""
    return run_module("qcow2_image", image_params(path, params), check=check, diff=diff, env=env)


def done(path: Path | str, **params: Any) -> Result:
    """One run of qcow2_image, which must succeed."""
    result = image(path, **params)
    assert not result.get("failed"), result["msg"]
    return result


def refused(path: Path | str, **params: Any) -> Result:
    """One run of qcow2_image, which must fail in words of ours."""
    result = image(path, **params)
    assert result.get("failed"), result
    assert "Traceback" not in result["msg"] + str(result.get("exception", "")), result
    return result


def settled(path: Path, **params: Any) -> dict[str, Any]:
    """The module run for real, then again, which must change nothing at all."""
    first = done(path, **params)
    before = tree_state(path.parent)
    second = done(path, **params)
    assert (second["changed"], second["actions"]) == (False, [])
    assert tree_state(path.parent) == before
    assert second["image"] == first["image"]
    return first


def predicted(path: Path, **params: Any) -> dict[str, Any]:
    """Check mode, which must write nothing, then the run, which must do what was predicted."""
    before = tree_state(path.parent)
    prediction = done(path, check=True, diff=True, **params)
    assert tree_state(path.parent) == before
    result = settled(path, **params)
    assert (prediction["changed"], prediction["actions"]) == (result["changed"], result["actions"])
    assert prediction["diff"] == result["diff"]
    assert {*prediction} == {*result}
    assert {*prediction["image"]} == {*result["image"]}
    known = {name: value for name, value in prediction["image"].items() if value is not None and name != "actual_size"}
    assert {name: result["image"][name] for name in known} == known
    return result


def begin(path: Path | str, **params: Any) -> RunningModule:
    """qcow2_image, running."""
    return start_module("qcow2_image", image_params(path, params))


def qemu_img(*arguments: Path | str) -> str:
    done = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def create(path: Path, image_format: str = "qcow2", size: int | str = 10 * MIB, *options: str) -> Path:
    """An image made by qemu-img; OPTIONS are further arguments."""
    qemu_img("create", "-q", "-f", image_format, *options, "--", path, str(size))
    return path


def create_encrypted(path: Path, image_format: str, prefix: str, secret: Path) -> None:
    """An image of 1 MiB; PREFIX is that of the options for encryption, empty for plain LUKS.

    QEMU times its key derivation first, and gives up where the machine's clock is too coarse: try again.
    """
    options = f"{prefix}key-secret=s,{prefix}iter-time=10" + (",encrypt.format=luks" if prefix else "")
    argv = ["qemu-img", "create", "-q", "--object", f"secret,id=s,file={secret}", "-f", image_format, "-o", options]
    for _again in range(50):
        if subprocess.run([*argv, path, "1M"], capture_output=True, check=False).returncode == 0:
            return
    raise AssertionError("qemu-img makes no encrypted image")


def staged(path: Path) -> Path:
    """Where the new file for PATH is made, or was by a run that died."""
    (found,) = path.parent.glob(f".{path.name}.kvmops.d/*")
    return found / path.name


def overlay(path: Path, base: Path | str, base_format: str = "qcow2") -> Path:
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", base_format, "--", path)
    return path


def info(path: Path, image_format: str = "qcow2") -> dict[str, Any]:
    found = json.loads(qemu_img("info", "-U", "-f", image_format, "--output=json", "--", path))
    assert isinstance(found, dict)
    return found


def specific(path: Path) -> dict[str, Any]:
    """What only qcow2 has, in qemu-img's words."""
    data = info(path)["format-specific"]["data"]
    assert isinstance(data, dict)
    return data


def qemu_io(path: Path, command: str, image_format: str = "qcow2") -> None:
    done = subprocess.run(
        ["qemu-io", "-f", image_format, "-c", command, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout


def content(path: Path, image_format: str = "qcow2", length: int | None = None) -> str:
    """A digest (lab.tree) of what a guest would read, of the first LENGTH bytes."""
    with tempfile.TemporaryDirectory(prefix="kvmops-content-") as directory:
        plain = Path(directory) / "plain"
        qemu_img("convert", "-f", image_format, "-O", "raw", "--", path, plain)
        return file_digest(plain, length)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@contextmanager
def small_file_system(directory: Path, size: str) -> Iterator[Path]:
    """A file system of SIZE at DIRECTORY, as long as the block lasts."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "kvmops-test", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextmanager
def opened_by_a_process(path: Path, image_format: str = "qcow2", *, options: list[str] | None = None) -> Iterator[None]:
    """PATH, or what OPTIONS make of it, open for writing in a process that libvirt knows nothing of."""
    process = subprocess.Popen(
        ["qemu-io", *(options or ["-f", image_format]), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write("length\n")
        process.stdin.flush()
        process.stdout.readline()
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
