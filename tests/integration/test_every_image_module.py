# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all image modules promise alike: a path is a path, a prediction comes true, a second run changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.tree import tree_state
from support.damage import leak
from support.file_systems import in_memory
from support.image_tools import MIB, NOBODY, create, names, overlay, qemu_img, qemu_io

Params = dict[str, Any]
#: What QEMU takes for an option, a protocol, a list, a pattern or JSON (HAZARDS C1, C2).
ODD = ("-f", "a b,data_file=x", "nbd:unix:x", "json:{}", "100% ü'\"\\ [a-z]*\n")


def to_make(path: Path) -> Params:
    return {"path": path, "size": "1M"}


def to_convert(path: Path) -> Params:
    create(path, "raw", MIB)
    return {"src": path, "src_format": "raw", "dest": f"{path}.new", "update": "changed"}


def to_snapshot(path: Path) -> Params:
    return {"path": create(path, size=MIB), "snapshot": "first"}


def to_check(path: Path) -> Params:
    leak(create(path, size=MIB))
    return {"path": path, "repair": "all"}


def to_commit(path: Path) -> Params:
    create(Path(f"{path}.base"), "raw", MIB)
    qemu_io(overlay(path, f"{path}.base", "raw"), "write -q -P 7 0 4k")
    return {"path": path, "overlay": "empty", "base": f"{path}.base", "base_format": "raw"}


def to_mark(path: Path) -> Params:
    return {"path": create(path, size=MIB), "bitmap": "since"}


def to_compare(path: Path) -> Params:
    qemu_img("convert", "-f", "qcow2", "-O", "raw", "--", create(path, size=MIB), f"{path}.raw")
    return {"path": path, "other": f"{path}.raw", "other_format": "raw"}


def to_describe(path: Path) -> Params:
    return {"paths": [create(path, size=MIB)], "map": True, "measure": True, "check": True, "backing_chain": True}


WISHES: dict[str, Callable[[Path], Params]] = {
    "qcow2_image": to_make,
    "qcow2_convert": to_convert,
    "qcow2_snapshot": to_snapshot,
    "qcow2_check": to_check,
    "qcow2_commit": to_commit,
    "qcow2_bitmap": to_mark,
    "qcow2_compare": to_compare,
    "qcow2_image_info": to_describe,
}
WRITERS = sorted({*WISHES} - {"qcow2_compare", "qcow2_image_info"})


def run(module: str, params: Params, *, check: bool = False) -> dict[str, Any]:
    plain = json.loads(json.dumps({"uri": NOBODY, **params}, default=str))
    return run_module(module, plain, check=check)


@pytest.mark.parametrize("module", WISHES)
def test_a_path_is_a_path_a_prediction_comes_true_and_the_second_run_changes_nothing(
    module: str, tmp_path: Path
) -> None:
    for number, name in enumerate(ODD):
        directory = tmp_path / str(number) / name
        directory.mkdir(parents=True)
        params = WISHES[module](directory / name)
        before = tree_state(directory)
        told = run(module, params, check=True)
        assert not told.get("failed"), (name, told)
        assert tree_state(directory) == before, "check mode writes nothing"
        done = run(module, params)
        assert not done.get("failed"), (name, done)
        assert done["changed"] is told["changed"] is (module in WRITERS)
        assert (done.get("actions"), done.get("diff")) == (told.get("actions"), told.get("diff")), name
        assert bool(done.get("diff")) is (module in WRITERS)
        as_done = tree_state(directory)
        again = run(module, params)
        assert (again.get("failed"), again["changed"], again.get("actions", [])) == (None, False, []), (name, again)
        assert tree_state(directory) == as_done
        assert {name for name in names(directory) if "kvmops" in name} == set()


@pytest.mark.parametrize("module", WISHES)
def test_what_is_no_image_is_an_error_in_words_and_changes_nothing(module: str, tmp_path: Path) -> None:
    params = WISHES[module](tmp_path / "disk")
    key = next(name for name in ("src", "paths", "path") if name in params)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "cut").write_bytes(b"QFI\xfb\0\0\0\3")
    before = tree_state(tmp_path)
    wrong: list[Any] = ["disk", "./disk", "", tmp_path / "disk" / "below", tmp_path / "gone" / "disk", "/dev/zero"]
    wrong += [tmp_path / name for name in ("directory", "fifo", "nowhere", "cut")]
    wrong += [] if module == "qcow2_image" else [tmp_path / "gone"]
    wrong.remove(tmp_path / "directory" if module == "qcow2_image_info" else "./disk")  # it looks into directories
    for path in wrong:
        for check in (True, False):
            result = run(module, {**params, key: [path] if key == "paths" else path}, check=check)
            assert result.get("failed"), (path, result)
            assert result["msg"], path
            assert "Traceback" not in str(result), path
            assert tree_state(tmp_path) == before, path


@pytest.mark.parametrize("module", WRITERS)
def test_a_directory_that_takes_no_record_is_an_error_and_changes_nothing(module: str, tmp_path: Path) -> None:
    """As on a file system that is read only, or a disk that is full to the last byte: there is no work without it."""
    with in_memory(tmp_path / "small", 64) as small:
        params = WISHES[module](small / "disk")
        before = tree_state(small)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        result = run(module, params)
        assert result["failed"], result
        assert re.search("cannot write the record|mounted read-only|no permission to write", result["msg"]), result
        assert tree_state(small) == before
