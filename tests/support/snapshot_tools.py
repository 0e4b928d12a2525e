# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_snapshot and qcow2_check, run; and what qemu-img says of snapshots and of an image's consistency."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from lab.module import run_module
from lab.tree import tree_state
from support.image_tools import Result, image_params, info, names

#: What a check tells of an image in which nothing is wrong.
GOOD = {
    "result": "good",
    "corruptions": 0,
    "leaks": 0,
    "corruptions_fixed": 0,
    "leaks_fixed": 0,
    "check_errors": 0,
    "truncated": False,
}


def run(module: str, params: dict[str, Any], *, check: bool) -> Result:
    return run_module(module, params, check=check, diff=True)


def succeeded(module: str, path: Path | str, *, check: bool = False, **params: Any) -> Result:
    """One run, which must succeed."""
    result = run(module, image_params(path, params), check=check)
    assert not result.get("failed"), result
    return result


def refused(module: str, path: Path | str, **params: Any) -> Result:
    """A run in check mode and one for real, which must both fail in words of ours and write nothing beside PATH."""
    before = _beside(Path(path))
    for check in (True, False):
        result = run(module, image_params(path, params), check=check)
        assert result.get("failed"), result
        assert "Traceback" not in result["msg"] + str(result.get("exception", "")), result
    assert _beside(Path(path)) == before
    return result


def _beside(path: Path) -> object:
    """What stands beside PATH; of the current directory, where it is relative, only the names: it is the checkout."""
    if not path.is_absolute():
        return names(Path.cwd())
    return tree_state(path.parent) if path.parent.is_dir() else None


def predicted(module: str, path: Path, **params: Any) -> Result:
    """Check mode, which must write nothing; the run, which must do what was predicted; and again, without a change."""
    before = tree_state(path.parent)
    prediction = succeeded(module, path, check=True, **params)
    assert tree_state(path.parent) == before
    result = succeeded(module, path, **params)
    for fact in ("changed", "actions", "diff", "removed"):
        assert prediction.get(fact) == result.get(fact), fact
    after = tree_state(path.parent)
    again = succeeded(module, path, **params)
    assert (again["changed"], again["actions"]) == (False, [])
    assert again["diff"]["before"] == again["diff"]["after"]
    assert tree_state(path.parent) == after
    return result


def snapshots_of(path: Path) -> list[str]:
    return [found["name"] for found in info(path).get("snapshots", [])]


def consistency(path: Path, image_format: str = "qcow2") -> str:
    """What `qemu-img check` says, in the words of the fact."""
    done = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", image_format, path], capture_output=True, check=False
    )
    assert done.returncode != 1, done.stderr
    assert done.returncode == 63 or json.loads(done.stdout)["check-errors"] == 0
    return {0: "good", 2: "corrupt", 3: "leaks", 63: "unsupported"}[done.returncode]


def marked(path: Path, bits: int) -> Path:
    """PATH with these incompatible features."""
    with path.open("r+b") as stream:
        stream.seek(79)
        stream.write(bytes([bits]))
    return path
