# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encrypted images, opened with qemu-img and qemu-io beside the modules."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from lab.module import start_module
from lab.tree import file_digest
from support.held_qemu_img import HeldQemuImg

#: New keys cost no time that a test would have to wait for; QEMU's own choice are two seconds.
QUICK = 10


def encryption(secret: str, *keys: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The parameter of that name."""
    return {"secret": secret, "keys": list(keys), "iter_time": QUICK, **more}


def opens(path: Path, secret: str, image_format: str = "qcow2") -> bool:
    """Whether SECRET is a key of the image."""
    return _run(["qemu-img", "map", "-U", "--output=json"], [(path, secret, image_format)]).returncode == 0


def content(path: Path, secret: str, image_format: str = "qcow2", length: int | None = None, **below: str) -> str:
    """A digest (lab.tree) of what a guest would read, of LENGTH bytes; BELOW: secrets of backing files, by names."""
    chain = [(path, secret, image_format), *((path.parent / name, key, "qcow2") for name, key in below.items())]
    with tempfile.TemporaryDirectory(prefix="kvmops-content-") as directory:
        plain = Path(directory) / "plain"
        done = _run(["qemu-img", "convert", "-O", "raw"], chain, str(plain))
        assert done.returncode == 0, done.stderr
        return file_digest(plain, length)


def write(path: Path, secret: str, command: str, image_format: str = "qcow2", **below: str) -> None:
    """A command of qemu-io, on the image."""
    chain = [(path, secret, image_format), *((path.parent / name, key, "qcow2") for name, key in below.items())]
    done = _run(["qemu-io", "-c", command], chain)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout, done.stdout


def is_sound(path: Path, secret: str, *, but_leaks: bool = False) -> bool:
    """Whether nothing is wrong with the tables; leaked clusters cost space, and no content."""
    return _run(["qemu-img", "check", "-q"], [(path, secret, "qcow2")]).returncode in ((0, 3) if but_leaks else (0,))


def looked_at(module: str, params: dict[str, Any]) -> tuple[dict[str, Any], set[bytes]]:
    """The result of a run, and what others can see of each qemu-img at work: its command line and its environment."""
    with tempfile.TemporaryDirectory(prefix="kvmops-seen-") as directory:
        held = HeldQemuImg(Path(directory), "*", 0)
        run = start_module(module, params, python=held.python())
        seen = {
            Path(f"/proc/{process}/{name}").read_bytes()
            for process in held.each_of(run)
            for name in ("cmdline", "environ")
        }
        return run.result(), seen


def _run(argv: list[str], chain: list[tuple[Path, str, str]], *rest: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="kvmops-secrets-") as directory:
        objects: list[str] = []
        node: dict[str, Any] | None = None
        for number, (path, secret, image_format) in reversed(list(enumerate(chain))):
            (Path(directory) / f"s{number}").write_text(secret, encoding="utf-8")
            objects += ["--object", f"secret,id=s{number},file={directory}/s{number}"]
            below, node = node, {"driver": image_format, "file": {"driver": "file", "filename": str(path)}}
            if secret:
                node["encrypt.key-secret" if image_format == "qcow2" else "key-secret"] = f"s{number}"
            node.update({"backing": below} if below else {})
        first = [argv[0], *objects] if argv[0] == "qemu-io" else [*argv[:2], *objects]
        others = argv[1:] if argv[0] == "qemu-io" else argv[2:]
        command = [*first, *others, f"json:{json.dumps(node)}", *rest]
        return subprocess.run(command, capture_output=True, text=True, check=False)
