# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every image module and the whole corpus: nothing foreign is opened, written or leaked, and nothing takes long."""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.module import ModuleFailed
from lab.tree import tree_state
from support.effort import run_within
from support.hostile import FORMATS, READ_ONLY, SECRET, Canary, Hostile, corpus, flipped, make_sound
from support.image_tools import NOBODY, names, small_file_system

for dear in ("libvirt", "lxml.etree"):  # loaded once, and not by each fork
    importlib.import_module(dear)

#: Of the processor: far above what any of them takes, far below what one that got out of hand would.
SECONDS = 20
#: The same where one that is in order takes several seconds.
MANY_SECONDS = 100
Module = Callable[[Hostile, Path], dict[str, Any]]
EVERYTHING = {"backing_chain": True, "map": True, "measure": True, "check": True, "dependents": True}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system that what gets out of hand fills soon, with a sound image and an empty directory."""
    with small_file_system(tmp_path_factory.mktemp("hostile") / "small", "256M") as found:
        (found / "work").mkdir()
        make_sound(found / "sound.raw", "raw")
        yield found


@pytest.fixture(scope="module")
def canary(small: Path) -> Iterator[Canary]:
    found = Canary(small / "canary")
    yield found
    found.close()


@pytest.fixture(scope="module")
def images(small: Path, canary: Canary) -> list[Hostile]:
    """The corpus, for those that change nothing in it."""
    (small / "corpus").mkdir()
    return corpus(small / "corpus", canary)


# --- one run of each module -----------------------------------------------------------------------------------


def on_path(module: str, image: Hostile, *, check: bool = False, **params: Any) -> dict[str, Any]:
    wish = {"path": str(image.path), "format": image.format, "uri": NOBODY, **params}
    wish = {name: str(value) if isinstance(value, Path) else value for name, value in wish.items()}
    return run_within(SECONDS, module, wish, check=check)


def convert(image: Hostile, work: Path, **more: Any) -> dict[str, Any]:
    source = {"src": str(image.path), "src_format": image.format, "dest": str(work / "new"), "uri": NOBODY}
    return run_within(SECONDS, "qcow2_convert", {**source, "format": "raw", **more})


def overlay_of(image: Hostile, work: Path) -> dict[str, Any]:
    source = {"src": str(work.parent / "sound.raw"), "src_format": "raw", "dest": str(work / "new"), "uri": NOBODY}
    below = {"backing_file": str(image.path), "backing_format": image.format}
    return run_within(SECONDS, "qcow2_convert", {**source, **below})


def update(image: Hostile, work: Path) -> dict[str, Any]:
    """The image stands where another one is to be: it is looked at, and must not be replaced by what it is not."""
    source = {"src": str(work.parent / "sound.raw"), "src_format": "raw", "uri": NOBODY}
    wanted = {"dest": str(image.path), "format": image.format, "update": "changed"}
    return run_within(SECONDS, "qcow2_convert", {**source, **wanted}, check=True)


def compare(image: Hostile, work: Path) -> dict[str, Any]:
    return on_path("qcow2_compare", image, other=str(work.parent / "sound.raw"), other_format="raw")


def manage(image: Hostile, _work: Path) -> dict[str, Any]:
    return on_path("qcow2_image", image, size="20M", check=True)


def check(image: Hostile, _work: Path) -> dict[str, Any]:
    return on_path("qcow2_check", image)


def commit(image: Hostile, _work: Path) -> dict[str, Any]:
    """Whatever backing file it names would be written to."""
    image_format = image.format if image.format == "qed" else "qcow2"
    params = {"path": str(image.path), "format": image_format, "overlay": "keep", "uri": NOBODY}
    return run_within(SECONDS, "qcow2_commit", params)


def promise(image: Hostile, work: Path) -> dict[str, Any]:
    """All files beside an image are looked at as well: where the canary is among them, the image is taken away."""
    path = image.path
    if path.with_name("sibling").exists():
        path = Path(shutil.copy(path, work / "disk"))
    try:
        return run_within(SECONDS, "storage_capacity_info", {"paths": [str(path)], "uri": NOBODY})
    finally:
        (work / "disk").unlink(missing_ok=True)


def repair(image: Hostile, _work: Path) -> dict[str, Any]:
    return on_path("qcow2_check", image, repair="all")


def grow(image: Hostile, _work: Path) -> dict[str, Any]:
    return on_path("qcow2_image", image, size="20M")


def snapshots(image: Hostile, _work: Path) -> dict[str, Any]:
    """One taken, returned to and deleted, as far as that goes."""
    done: dict[str, Any] = {}
    for state in ("present", "reverted", "absent"):
        params = {"path": str(image.path), "snapshot": "s", "state": state, "uri": NOBODY}
        done[state] = run_within(SECONDS, "qcow2_snapshot", params)
        if done[state].get("failed"):
            break
    return done


def mark(image: Hostile, _work: Path) -> dict[str, Any]:
    """A bitmap, added."""
    params = {"path": str(image.path), "bitmap": "new", "uri": NOBODY}
    return run_within(SECONDS, "qcow2_bitmap", params)


READERS: tuple[Module, ...] = (convert, overlay_of, update, compare, manage, check, commit, promise)
WRITERS: tuple[Module, ...] = (repair, grow, snapshots, mark)
#: What to these is, as to qemu-img, a work of many seconds; that it ends is shown below.
SLOW: dict[Module, set[str]] = {module: {"snapshots_65536"} for module in (manage, update, grow, repair, mark)}


# --- what they must not do ------------------------------------------------------------------------------------


def harmless(module: Module, image: Hostile, canary: Canary, work: Path) -> dict[str, Any]:
    """What MODULE makes of IMAGE, without a harm to anybody; a writer may write to the image, and to nothing else."""
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
    after = tree_state(image.path.parent)
    if module in WRITERS:
        own = {".", image.path.name, f".{image.path.name}.kvmops"}
        before, after = ({name: state for name, state in tree.items() if name not in own} for tree in (before, after))
    assert after == before, "the image itself, and what is beside it, is left alone"
    return result


def complain(images: Iterable[Hostile], module: Module, canary: Canary, work: Path) -> None:
    wrong = {}
    for image in images:
        if image.name in SLOW.get(module, ()):
            continue
        try:
            harmless(module, image, canary, work)
        except (AssertionError, ModuleFailed) as error:
            wrong[image.name] = repr(error)[:600]
            shutil.rmtree(work)
            work.mkdir()
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.parametrize("module", SLOW, ids=lambda module: module.__name__)
def test_as_many_snapshots_as_there_can_be_hold_nobody_up_without_end(
    module: Module, small: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", MANY_SECONDS)
    own = small / "snapshots"
    own.mkdir()
    (image,) = corpus(own, canary, only="snapshots_65536")
    harmless(module, image, canary, small / "work")
    assert image.path.stat().st_size < 16 << 20, "nor is it written to without end"
    shutil.rmtree(own)


def name_of(module: Module) -> str:
    return module.__name__


@pytest.mark.parametrize("module", READERS, ids=name_of)
def test_no_hostile_image_leads_a_reader_anywhere(
    module: Module, small: Path, canary: Canary, images: list[Hostile]
) -> None:
    complain(images, module, canary, small / "work")


@pytest.mark.parametrize("module", WRITERS, ids=name_of)
def test_no_hostile_image_leads_a_writer_anywhere(module: Module, small: Path, canary: Canary) -> None:
    own = small / module.__name__
    own.mkdir()
    complain(corpus(own, canary), module, canary, small / "work")
    shutil.rmtree(own)


@pytest.mark.parametrize("module", [*READERS, *WRITERS], ids=name_of)
def test_no_flipped_byte_leads_a_module_anywhere(module: Module, small: Path, canary: Canary) -> None:
    own = small / "flipped"
    for image_format in (*FORMATS, *(READ_ONLY if module in (convert, compare) else ())):
        own.mkdir()
        chance = random.Random(f"{module.__name__} {image_format}")
        offsets = [*chance.sample(range(4, 112), 8), *chance.sample(range(112, 512), 2)]
        if image_format != "qcow2":
            offsets = chance.sample(range(512), 1)
        complain(flipped(own, image_format, offsets, len(offsets)), module, canary, small / "work")
        shutil.rmtree(own)


# --- many in one run, each asked for everything ----------------------------------------------------------------


def ask_for_everything(paths: str, canary: Canary, work: Path, **more: Any) -> dict[str, dict[str, Any]]:
    """What is said of each of the images, by path; the run harms nobody."""
    directory = Path(paths.partition("*")[0]).parent
    before = tree_state(directory)
    with canary.untouched():
        result = run_within(120, "qcow2_image_info", {"paths": [paths], "uri": NOBODY, **EVERYTHING, **more})
    said = json.dumps(result)
    assert not result.get("failed"), result["msg"]
    assert "Traceback" not in said
    assert SECRET.decode()[:20] not in said
    assert names(work) == []
    assert tree_state(directory) == before
    return {found["path"]: found for found in (*result["images"], *result["failures"])}


def test_what_is_told_of_all_of_them_leads_nowhere(small: Path, canary: Canary, images: list[Hostile]) -> None:
    # A look for dependents reads what is in the directories of the images, and there the victim has other names.
    found = ask_for_everything(f"{small}/corpus/*/disk", canary, small / "work", dependents=False)
    files = [image for image in images if image.path.is_file()]
    assert found.keys() == {str(image.path) for image in files}, "none hides another"
    planted = (
        "backing_file",
        "backing_json",
        "backing_nbd",
        "backing_http",
        "backing_fat",
        "extent_beside",
        "qed_back",
    )
    for image in files:
        said = found[str(image.path)].get("msg", "")
        if image.name.startswith(planted):
            assert "which the task does not name" in said, image
        if image.name in ("size_60_pib_for_real", "snapshots_65536"):
            assert "are believed" in said


def test_no_circle_is_followed_though_it_be_trusted(small: Path, canary: Canary, images: list[Hostile]) -> None:
    for name, reason in (("circle_of_one", "circle"), ("circle_of_two", "circle"), ("chain_of_seventy", "deeper")):
        (image,) = [image for image in images if image.name == name]
        (found,) = ask_for_everything(f"{image.path.parent}/dis*", canary, small / "work", trusted=True).values()
        assert reason in found["msg"]
        said = harmless(lambda image, work: convert(image, work, trusted=True), image, canary, small / "work")
        assert "the backing chain" in said["msg"]
        for trusting in (
            lambda image, work: on_path("qcow2_compare", image, other=image.path, other_format="qcow2", trusted=True),
            lambda image, work: on_path("qcow2_image", image, backing_file="", trusted=True),
            lambda image, work: on_path("qcow2_commit", image, trusted=True),
        ):
            assert "the backing chain" in harmless(trusting, image, canary, small / "work")["msg"], name


@pytest.mark.parametrize("image_format", [*FORMATS, *READ_ONLY])
def test_a_flipped_byte_is_a_problem_of_that_image_alone(image_format: str, small: Path, canary: Canary) -> None:
    own = small / "flipped"
    own.mkdir()
    chance = random.Random(image_format)
    offsets = chance.sample(range(512), 6)
    if image_format == "qcow2":
        offsets = [*range(112), *chance.sample(range(112, 512), 24)]
    made = flipped(own, image_format, offsets, 1)
    found = ask_for_everything(f"{own}/*", canary, small / "work")
    assert len(found) == len(made) + 1
    assert "msg" not in found[str(own / f"sound.{image_format}")]
    shutil.rmtree(own)
