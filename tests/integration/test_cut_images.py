# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that were cut short: nothing of them is lost without a word, and nothing of them is called verified."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats.reach import find_cut
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.cut_images import DISK, MIB, NAMES, Whole, qemu_img, qemu_io, whole_images
from support.image_tools import NOBODY
from support.scene import definition, is_running

SEED = 11


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    (found,) = whole_images(tmp_path_factory.mktemp("whole"), only=request.param)
    return found


def is_found_whole(path: Path, image_format: str) -> bool:
    """Whether the look before anything is read calls the image, with those below it, whole, as far as QEMU opens it."""
    door = _door.find()
    try:
        require_whole(_image.chain(door, _image.inspect(door, str(path), image_format)))
    except DiskError:
        return False
    return True


def content_as_qemu_reads_it(path: Path, image_format: str, copy: Path) -> bytes | None:
    """None where qemu-img refuses to read the image."""
    done = subprocess.run(
        ["qemu-img", "convert", "-f", image_format, "-O", "raw", path, copy], capture_output=True, check=False
    )
    return copy.read_bytes()[:DISK] if done.returncode == 0 else None


def test_an_image_in_order_is_found_whole(whole: Whole) -> None:
    top = whole.directory / whole.top
    assert is_found_whole(top, whole.format)


def test_a_cut_through_which_qemu_reads_zeros_is_found_wherever_it_is(whole: Whole, tmp_path: Path) -> None:
    lost = 0
    for file in whole.files:
        for length in whole.places(file, SEED, 12):
            with whole.cut(file, length) as top:
                seen = content_as_qemu_reads_it(top, whole.format, tmp_path / "copy")
                if seen in (None, whole.content):
                    continue
                lost += 1
                assert not is_found_whole(top, whole.format), f"{file} cut to {length} bytes: content is lost"
    refused_by_qemu = {"vhdx", "vpc", "vpc-fixed", "qed", "vmdk-stream", "cloop", "dmg"}
    assert lost or whole.name in refused_by_qemu, "this proves nothing"


@pytest.mark.parametrize("name", ["vhdx"])
def test_what_qemu_refuses_as_cut_is_found_by_ourselves_too(name: str, tmp_path: Path) -> None:
    """So that a check tells of it as of other formats."""
    (found,) = whole_images(tmp_path, only=name)
    (file,) = found.files
    lengths = found.places(file, SEED, 12)
    refused = 0
    for length in lengths:
        with found.cut(file, length) as top:
            opens = not subprocess.run(
                ["qemu-img", "info", "-f", found.format, top], capture_output=True, check=False
            ).returncode
            refused += not opens
            if length > MIB:  # before that, it is no longer an image
                assert (find_cut(str(top), found.format) is None) == opens, length
    assert refused


@pytest.mark.parametrize("options", ["", "extended_l2=on,cluster_size=64k", "cluster_size=512", "cluster_size=2M"])
def test_what_a_guest_does_to_an_image_never_makes_it_look_cut(options: str, tmp_path: Path) -> None:
    """Writes, discards, snapshots, growth and shrinking, by a generator: a healthy image is never refused."""
    chosen = random.Random(f"{options} {SEED}")
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", *(["-o", options] if options else []), path, str(8 * MIB))
    size = 8 * MIB
    for step in range(25):
        at = chosen.randrange(0, size // 512) * 512
        length = min(chosen.choice((512, 4096, 65536, 300 * 1024)), size - at)
        verb = chosen.choice(("write", "write -z", "write -z -u", "discard", "snapshot", "grow", "shrink"))
        if verb == "snapshot":
            qemu_img("snapshot", "-c", f"s{step}", path)
        elif verb in ("grow", "shrink"):
            size = max(4 * MIB, size + chosen.randrange(1, 5000) * 512 * (1 if verb == "grow" else -1))
            qemu_img("resize", "-q", "-f", "qcow2", *(["--shrink"] if verb == "shrink" else []), path, str(size))
        else:
            qemu_io(path, "qcow2", f"{verb} {at} {length}")
        assert is_found_whole(path, "qcow2"), f"after step {step}, {verb} {at} {length}"


# --- every module that reads content ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layered(hv: Hypervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """An overlay and its base, where guests may read them, beside an empty image of that size."""
    directory = Path(tempfile.mkdtemp(dir=hv.images))
    directory.chmod(0o711)
    (found,) = whole_images(directory, only="overlay-of-qcow2")
    top = found.directory / found.top
    qemu_img("create", "-f", "qcow2", found.directory / "other.qcow2", str(DISK))
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", found.directory / "base.qcow2", "-F", "qcow2", top)
    yield found
    shutil.rmtree(directory)


@contextmanager
def cut_in_the_middle(layered: Whole, file: str) -> Iterator[Path]:
    with layered.cut(file, (layered.directory / file).stat().st_size * 5 // 8) as top:
        yield top


def assert_refused(result: dict[str, Any], path: Path) -> None:
    assert result.get("failed"), result
    assert result.get("truncated"), result["msg"]
    assert (result["truncated"], result["path"], result["file"]) == (True, str(path), str(path))
    assert result["size"] == path.stat().st_size < result["offset"] + 2 * MIB
    assert f"{path}: was cut short: " in result["msg"]


#: The module and the parameters of each task on the overlay TOP; OTHER is another image.
TASKS: dict[str, Callable[[str, str, str], tuple[str, dict[str, Any]]]] = {
    "convert": lambda top, base, _: (
        "qcow2_convert",
        {"src": top, "src_format": "qcow2", "dest": f"{top}.raw", "format": "raw", "remove_src": True},
    ),
    "convert-without-a-look-at-the-result": lambda top, base, _: (
        "qcow2_convert",
        {"src": top, "src_format": "qcow2", "dest": f"{top}.raw", "format": "raw", "verify": False},
    ),
    "merge": lambda top, base, _: ("qcow2_commit", {"path": top, "overlay": "remove"}),
    "compare": lambda top, base, other: (
        "qcow2_compare",
        {"path": top, "format": "qcow2", "other": other, "other_format": "qcow2"},
    ),
    "flatten": lambda top, base, _: ("qcow2_image", {"path": top, "backing_file": ""}),
    "rebase": lambda top, base, other: (
        "qcow2_image",
        {"path": top, "backing_file": other, "backing_format": "qcow2"},
    ),
    "grow": lambda top, base, _: (
        "qcow2_image",
        {"path": top, "size": "8M", "backing_file": base, "backing_format": "qcow2"},
    ),
    "overlay": lambda top, base, _: (
        "qcow2_image",
        {"path": f"{top}.new", "backing_file": top, "backing_format": "qcow2"},
    ),
    "convert-into-an-overlay": lambda top, base, other: (
        "qcow2_convert",
        {
            "src": other,
            "src_format": "qcow2",
            "dest": f"{top}.new",
            "format": "qcow2",
            "backing_file": top,
            "backing_format": "qcow2",
        },
    ),
}


@pytest.mark.parametrize("file", ["disk.qcow2", "base.qcow2"], ids=["overlay", "base"])
@pytest.mark.parametrize("task", TASKS)
def test_no_module_reads_an_image_that_was_cut_in_any_layer(task: str, file: str, layered: Whole) -> None:
    with cut_in_the_middle(layered, file) as top:
        before = tree_state(top.parent)
        module, params = TASKS[task](str(top), str(top.with_name("base.qcow2")), str(top.with_name("other.qcow2")))
        assert_refused(run_module(module, {"trusted": True, "uri": NOBODY, **params}), top.with_name(file))
        assert tree_state(top.parent) == before


def test_no_snapshot_is_taken_in_an_image_that_was_cut(layered: Whole) -> None:
    with cut_in_the_middle(layered, "disk.qcow2") as top:
        before = tree_state(top.parent)
        result = run_module("qcow2_snapshot", {"path": str(top), "snapshot": "before", "uri": NOBODY})
        assert_refused(result, top)
        assert tree_state(top.parent) == before


@pytest.mark.parametrize("repair", ["none", "leaks", "all"])
@pytest.mark.parametrize(
    "name", ["qcow2", "vdi", "parallels", "vmdk-sparse", "vmdk-flat", "qcow", "qcow2_with_data_file"]
)
def test_a_check_finds_a_cut_that_qemu_calls_good_and_repairs_nothing(name: str, repair: str, tmp_path: Path) -> None:
    (whole,) = whole_images(tmp_path, only=name)
    with whole.cut(whole.files[-1], (whole.directory / whole.files[-1]).stat().st_size * 3 // 4) as top:
        before = tree_state(tmp_path)
        params = {"path": str(top), "format": whole.format, "repair": repair, "uri": NOBODY}
        result = run_module("qcow2_check", params)
        assert result.get("failed"), result
        assert result["truncated"] is result["check"]["truncated"] is True
        assert tree_state(tmp_path) == before
        told = run_module("qcow2_image_info", {"paths": [str(top)], "check": True, "trusted": True, "uri": NOBODY})
        assert told["images"][0]["check"]["truncated"] is True


def test_a_check_says_of_an_image_in_order_that_it_is_all_there(whole: Whole) -> None:
    told = run_module(
        "qcow2_image_info",
        {"paths": [str(whole.directory / whole.top)], "check": True, "trusted": True, "uri": NOBODY},
    )
    assert told["images"][0]["check"]["truncated"] is False


#: The same of the disk of a domain that is off.
DOMAIN_TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "convert": ("vm_disk_convert", {"format": "raw", "keep_source": False}),
    "flatten": ("vm_disk_flatten", {}),
    "grow": ("vm_disk_resize", {"size": "8M"}),
    "snapshot": ("vm_disk_snapshot", {"disk": None, "snapshot": "before"}),
}


@pytest.mark.parametrize("running", [False, True], ids=["offline", "live"])
@pytest.mark.parametrize("file", ["disk.qcow2", "base.qcow2"], ids=["overlay", "base"])
@pytest.mark.parametrize("task", DOMAIN_TASKS)
def test_no_module_touches_a_domain_whose_disk_was_cut_in_any_layer(
    task: str, file: str, running: bool, layered: Whole, hv: Hypervisor, make_domain: MakeDomain
) -> None:
    with cut_in_the_middle(layered, file) as top:
        guest = make_domain([Disk(top, "qcow2")], kernel=False)
        if running:
            hv.start(guest.name)
        defined = definition(hv, guest.name)
        before = contents(top.parent)
        module, params = DOMAIN_TASKS[task]
        wish = {"name": guest.name, "disk": "vda", "trusted": True, "uri": hv.uri, **params}
        result = run_module(module, {name: value for name, value in wish.items() if value is not None})
        assert_refused(result, top.with_name(file))
        assert contents(top.parent) == before
        assert definition(hv, guest.name) == defined
        assert is_running(hv, guest.name) == running


def cut_image(path: Path) -> Path:
    """An image without a backing file."""
    if not path.exists():
        qemu_img("create", "-f", "qcow2", path, str(DISK))
    qemu_io(path, "qcow2", "write -P 7 1M 1M")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size * 5 // 8)
    return path


def test_no_disk_of_a_single_image_that_was_cut_is_resized(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = cut_image(images / "disk.qcow2")
    guest = make_domain([Disk(disk, "qcow2")], kernel=False)
    before = contents(images)
    wish = {"name": guest.name, "disk": "vda", "size": "8M", "uri": hv.uri}
    assert_refused(run_module("vm_disk_resize", wish), disk)
    assert contents(images) == before


@pytest.mark.parametrize("running", [False, True], ids=["offline", "live"])
def test_no_overlay_that_was_cut_is_merged(
    running: bool, hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    """It would write zeros over what the image below it holds."""
    disk = images / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", disk, str(DISK))
    qemu_io(disk, "qcow2", "write -P 5 0 3M")
    guest = make_domain([Disk(disk, "qcow2")], kernel=False)
    wish = {"name": guest.name, "snapshot": "before", "uri": hv.uri}
    assert run_module("vm_disk_snapshot", wish)["changed"]
    (overlay,) = {*images.glob("*.qcow2")} - {disk}
    cut_image(overlay)
    if running:
        hv.start(guest.name)
    before = contents(images)
    assert_refused(run_module("vm_disk_snapshot", {**wish, "state": "absent"}), overlay)
    assert contents(images) == before
    assert is_running(hv, guest.name) == running


def test_no_clone_is_made_of_a_machine_whose_disk_was_cut(
    layered: Whole, hv: Hypervisor, make_domain: MakeDomain
) -> None:
    with cut_in_the_middle(layered, "base.qcow2") as top:
        guest = make_domain([Disk(top, "qcow2")], kernel=False)
        before = contents(top.parent)
        clones = [{"name": f"{guest.name}-copy"}]
        for mode in ("linked", "full"):
            wish = {"source": guest.name, "clones": clones, "mode": mode, "trusted": True, "uri": hv.uri}
            assert_refused(run_module("vm_linked_clone", wish), top.with_name("base.qcow2"))
        assert contents(top.parent) == before


def contents(directory: Path) -> dict[str, bytes]:
    """libvirt changes owners while a domain runs."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("image_format", ["vhdx", "vpc"])
def test_a_cut_for_which_qemu_refuses_an_image_is_told_of_as_such(image_format: str, tmp_path: Path) -> None:
    image = tmp_path / "disk"
    qemu_img("create", "-q", "-f", image_format, image, "40M")
    qemu_io(image, image_format, "write -P 3 0 20M")
    os.truncate(image, image.stat().st_size - 6 * MIB)
    before = tree_state(tmp_path)
    there, also = {"path": str(image), "format": image_format}, {"src": str(image), "src_format": image_format}
    for module, asked in (
        ("qcow2_image", {**there, "size": "50M"}),
        ("qcow2_check", there),
        ("qcow2_convert", {**also, "dest": str(tmp_path / "new")}),
        ("qcow2_image_info", {"paths": [str(image)]}),
    ):
        result = run_module(module, {**asked, "uri": NOBODY})
        assert f"{image}: was cut short" in result["msg"], (module, result)
        assert result["truncated"] is True
    assert tree_state(tmp_path) == before
