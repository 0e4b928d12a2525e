# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every image module and the whole corpus: nothing foreign is opened, written or leaked, and nothing takes long."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import run_forked
from hostile import FORMATS, SECRET, Canary, Hostile, corpus, flipped, make_sound
from integration.image_tools import NOBODY, names, small_file_system
from lab.tree import tree_state

#: Far above what any of them takes, far below what one that got out of hand would.
SECONDS = 20
Module = Callable[[Hostile, Path], dict[str, Any]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Canary, list[Hostile], Path]]:
    """The canary, the corpus, and an empty directory, on a file system that what gets out of hand fills soon."""
    with small_file_system(tmp_path_factory.mktemp("hostile") / "small", "256M") as small:
        canary = Canary(small / "canary")
        (small / "corpus").mkdir()
        (small / "work").mkdir()
        make_sound(small / "sound.raw", "raw")
        yield canary, corpus(small / "corpus", canary), small / "work"
        canary.close()


def convert(image: Hostile, work: Path, **more: Any) -> dict[str, Any]:
    source = {"src": str(image.path), "src_format": image.format, "dest": str(work / "new"), "uri": NOBODY}
    return run_forked("qcow2_convert", {**source, "format": "raw", **more}, timeout=SECONDS)


def overlay_of(image: Hostile, work: Path) -> dict[str, Any]:
    source = {"src": str(work.parent / "sound.raw"), "src_format": "raw", "dest": str(work / "new"), "uri": NOBODY}
    below = {"backing_file": str(image.path), "backing_format": image.format}
    return run_forked("qcow2_convert", {**source, **below}, timeout=SECONDS)


def update(image: Hostile, work: Path) -> dict[str, Any]:
    """The image stands where another one is to be: it is looked at, and must not be replaced by what it is not."""
    source = {"src": str(work.parent / "sound.raw"), "src_format": "raw", "uri": NOBODY}
    wanted = {"dest": str(image.path), "format": image.format, "update": "changed"}
    return run_forked("qcow2_convert", {**source, **wanted}, check=True, timeout=SECONDS)


def compare(image: Hostile, work: Path) -> dict[str, Any]:
    pair = {"path": str(image.path), "format": image.format, "other": str(work.parent / "sound.raw")}
    return run_forked("qcow2_compare", {**pair, "other_format": "raw", "uri": NOBODY}, timeout=SECONDS)


def look(image: Hostile, _work: Path) -> dict[str, Any]:
    params = {"paths": [str(image.path)], "format": image.format, "uri": NOBODY}
    return run_forked("qcow2_image_info", params, timeout=SECONDS)


def manage(image: Hostile, _work: Path) -> dict[str, Any]:
    params = {"path": str(image.path), "format": image.format, "size": "4M", "uri": NOBODY}
    return run_forked("qcow2_image", params, check=True, timeout=SECONDS)


def commit(image: Hostile, _work: Path) -> dict[str, Any]:
    """Whatever backing file it names would be written to."""
    image_format = image.format if image.format == "qed" else "qcow2"
    params = {"path": str(image.path), "format": image_format, "overlay": "keep", "uri": NOBODY}
    return run_forked("qcow2_commit", params, timeout=SECONDS)


def mark(image: Hostile, _work: Path) -> dict[str, Any]:
    return run_forked(
        "qcow2_bitmap", {"path": str(image.path), "bitmap": "new", "uri": NOBODY}, check=True, timeout=SECONDS
    )


def promise(image: Hostile, work: Path) -> dict[str, Any]:
    """All files beside an image are looked at as well: where the canary is among them, the image is taken away."""
    path = image.path
    if path.with_name("sibling").exists():
        path = Path(shutil.copy(path, work / "disk"))
    try:
        return run_forked("storage_capacity_info", {"paths": [str(path)], "uri": NOBODY}, timeout=SECONDS)
    finally:
        (work / "disk").unlink(missing_ok=True)


def found(module: Module, image: Hostile, canary: Canary, work: Path) -> dict[str, Any]:
    """What MODULE makes of IMAGE, without a harm to anybody."""
    before = tree_state(image.path.parent)
    with canary.untouched():
        result = module(image, work)
    said = json.dumps(result)
    assert "Traceback" not in said, result
    assert SECRET.decode()[:20] not in said
    assert result.get("msg") if result.get("failed") else True
    made = work / "new"
    if made.exists():
        assert not result.get("failed")
        assert SECRET not in made.read_bytes()
        made.unlink()
    assert names(work) == [], "nothing is left behind"
    assert tree_state(image.path.parent) == before, "the image itself is left alone"
    return result


@pytest.mark.parametrize(
    "module",
    [convert, overlay_of, update, compare, look, manage, promise, commit, mark],
    ids=lambda module: module.__name__,
)
def test_no_hostile_image_leads_a_module_anywhere(module: Module, scene: tuple[Canary, list[Hostile], Path]) -> None:
    canary, images, work = scene
    # A plain file beside a descriptor is its own extent, to those that only look at one.
    known = {"extent_beside"} if module in (look, manage, update) else set()
    if module in (manage, update):
        known.add("snapshots_65536")  # as long as a look, which reads them as well
    complain([image for image in images if image.name not in known], module, canary, work)


def test_no_flipped_byte_leads_a_conversion_anywhere(scene: tuple[Canary, list[Hostile], Path]) -> None:
    canary, _images, work = scene
    for image_format in FORMATS:
        offsets = range(4, 112, 5) if image_format == "qcow2" else range(1, 512, 83)
        complain(flipped(work.parent / "corpus", image_format, offsets), convert, canary, work)


def test_a_trusted_image_runs_in_no_circle_either(scene: tuple[Canary, list[Hostile], Path]) -> None:
    canary, images, work = scene
    for image in images:
        if image.name.startswith(("circle", "chain")):
            result = found(lambda image, work: convert(image, work, trusted=True), image, canary, work)
            assert "the backing chain" in result["msg"]


def complain(images: Iterable[Hostile], module: Module, canary: Canary, work: Path) -> None:
    wrong = {}
    for image in images:
        try:
            found(module, image, canary, work)
        except (AssertionError, TimeoutError, ValueError) as error:
            wrong[image.name] = repr(error)[:600]
            shutil.rmtree(work)
            work.mkdir()
    assert not wrong, json.dumps(wrong, indent=1)
