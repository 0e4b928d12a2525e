# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another user exchanges names or content while root works on his images: nothing but his own is reached by that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import door as _door
from lab import Disk, Guest, Hypervisor, run_module
from lab.tree import tree_state
from support.image_tools import MIB, NOBODY, content, create, done, info, qemu_img, qemu_io
from support.injection import Share, in_shares, paused_at, points
from support.other_users import MODULES, SECRET, WAYS, Ground, open_place, params_of
from support.swapper import Calls, Exchanged, exchanged_around

#: Those that find something to do in what params_of() makes.
CHANGING = [module for module in MODULES if module != "qcow2_check"]


@pytest.fixture
def ground_at() -> Iterator[Callable[[str], Ground]]:
    with open_place() as place:

        def make(name: str) -> Ground:
            (place / name).mkdir()
            return Ground.at(place / name)

        yield make


@in_shares(2)
@pytest.mark.parametrize("module", CHANGING)
def test_names_that_are_exchanged_at_any_moment_lead_nowhere(
    ground_at: Callable[[str], Ground], tmp_path: Path, module: str, share: Share
) -> None:
    found = points(params_of(module, ground_at("found")), tmp_path / "log", module=module)
    for number, point in share.take([*found, "chmod 1"] if module == "qcow2_image" else found):
        ground = ground_at(str(number))
        before, params = ground.state(), params_of(module, ground)
        with paused_at(point, params, module=module) as run:
            ground.exchange_all()
        result = run.result()
        assert ground.state() == before, (point, result)
        assert "Traceback" not in str(result), (point, result)


@in_shares(2)
@pytest.mark.parametrize("way", [way for way in WAYS if way != "qcow2_check"])
def test_names_that_are_exchanged_around_any_system_call_lead_nowhere(
    ground_at: Callable[[str], Ground], way: str, share: Share
) -> None:
    def exchanged(name: str, calls: Calls | None) -> Exchanged:
        ground = ground_at(name)
        before = ground.state()
        run = exchanged_around(calls, ground, way.partition(" ")[0], params_of(way, ground))
        assert ground.state() == before, (calls, run.result)
        assert "Traceback" not in str(run.result), (calls, run.result)
        return run

    found = exchanged("found", None)
    assert found.result["changed"]
    for number, calls in share.take(found.calls(step=8)):
        exchanged(str(number), calls)


#: What modules for domains do themselves to the files of a domain that is off.
OFFLINE: dict[str, dict[str, Any]] = {
    "vm_disk_convert": {"disk": "vda", "format": "raw"},
    "vm_disk_flatten": {"disk": "vda"},
    "vm_disk_resize": {"disk": "vda", "size": "2M"},
}


@pytest.mark.parametrize("module", OFFLINE)
def test_names_that_are_exchanged_below_a_domain_lead_nowhere(
    hv: Hypervisor, images: Path, make_domain: Callable[..., Guest], module: str
) -> None:
    def exchanged(name: str, calls: Calls | None) -> Exchanged:
        (images / name).mkdir()
        ground = Ground.at(images / name)
        before = ground.state()
        guest = make_domain([Disk(ground.overlay(), "qcow2")])
        params = {"name": guest.name, "uri": hv.uri, "trusted": True, **OFFLINE[module]}
        run = exchanged_around(calls, ground, module, params)
        assert ground.state() == before, (calls, run.result)
        assert "Traceback" not in str(run.result), (calls, run.result)
        return run

    found = exchanged("found", None)
    assert found.result["changed"]
    for number, calls in enumerate(found.calls(step=32)):
        exchanged(str(number), calls)


# --- the content of a source ---------------------------------------------------------------------------------------


def another_backing_file(ground: Ground) -> Path:
    evil = ground.directory / "evil"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", ground.reserved / "shadow", evil, "1M")
    return evil


def another_data_file(ground: Ground) -> Path:
    evil = ground.directory / "evil"
    data = ground.directory / "data"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", evil, "1M")
    data.unlink()
    data.symlink_to(ground.reserved / "shadow")
    return evil


def another_extent(ground: Ground) -> Path:
    evil = ground.directory / "evil"
    create(evil, "vmdk", MIB, "-o", "subformat=monolithicFlat")
    evil.write_bytes(evil.read_bytes().replace(b"evil-flat", os.fsencode(ground.reserved / "shadow")))
    (ground.directory / "evil-flat").unlink()
    return evil


SOURCES = {
    "backing file": ("qcow2", another_backing_file),
    "data file": ("qcow2", another_data_file),
    "extent": ("vmdk", another_extent),
}


@pytest.mark.parametrize("how", ["renamed", "rewritten"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_that_is_exchanged_after_the_look_gives_nothing_of_others_away(
    ground_at: Callable[[str], Ground], kind: str, how: str
) -> None:
    image_format, make = SOURCES[kind]
    ground = ground_at("g")
    (ground.reserved / "shadow").write_bytes(SECRET * (MIB // len(SECRET) + 1))
    source = ground.image("web", image_format)
    dest = ground.directory / "out.raw"
    params = {"src": str(source), "src_format": image_format, "dest": str(dest), "format": "raw", "uri": NOBODY}
    evil = make(ground)
    size = max(evil.stat().st_size, source.stat().st_size)
    for path in (evil, source):
        os.truncate(path, size)
    subprocess.run(["touch", "-r", source, evil], check=True)
    with paused_at("qemu-img-convert 1", params, module="qcow2_convert") as run:
        if how == "renamed":
            evil.rename(source)
        else:
            status = source.stat()
            source.write_bytes(evil.read_bytes())
            os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    result = run.result()
    assert not dest.exists() or SECRET[:20] not in dest.read_bytes(), result
    assert result.get("failed") or SECRET[:20] not in dest.read_bytes()
    for path in ground.directory.rglob("*"):
        assert path.is_symlink() or not path.is_file() or SECRET[:20] not in path.read_bytes(), path


def refer_to_a_file_of_root(image: Path, victim: Path, *, raw: bool = True) -> None:
    """Writes a header into IMAGE by which its data are in VICTIM, with RAW as they stand there."""
    data = image.with_name("d" * (len(str(victim)) - len(str(image.parent)) - 1))
    evil = image.with_name("another")
    options = f"data_file={data},data_file_raw={'on' if raw else 'off'}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, evil, "1M")
    written = evil.read_bytes().replace(os.fsencode(data), os.fsencode(victim))
    data.unlink()
    evil.unlink()
    image.write_bytes(written)


def a_data_file_of_root(ground: Ground) -> Path:
    evil = create(ground.directory / "evil.qcow2", size=MIB)
    refer_to_a_file_of_root(evil, ground.reserved / "shadow", raw=False)
    return evil


@pytest.mark.parametrize("point", ["mkdir 1", "qemu-img-rebase 1", "qemu-img-compare 1"])
@pytest.mark.parametrize("make", [another_backing_file, a_data_file_of_root])
def test_an_overlay_that_is_exchanged_while_it_is_flattened_gives_nothing_of_others_away(
    ground_at: Callable[[str], Ground], make: Callable[[Ground], Path], point: str
) -> None:
    ground = ground_at("g")
    top = ground.overlay()
    qemu_io(ground.directory / "base.qcow2", "write -q -P 9 512k 64k")
    params = {"path": str(top), "backing_file": "", "trusted": True, "uri": NOBODY}
    evil, before = ground.own(make(ground)), ground.state()
    with paused_at(point, params, module="qcow2_image") as run:
        evil.rename(top)
    result = run.result()
    assert result["failed"], result
    assert ground.state() == before
    for path in ground.directory.rglob("*"):
        assert path.is_symlink() or not path.is_file() or SECRET[:20] not in path.read_bytes(), path


IN_PLACE = {
    "qcow2_image": "qemu-img-resize 1",
    "qcow2_snapshot": "qemu-img-snapshot 1",
    "qcow2_bitmap": "qemu-img-bitmap 1",
}


@pytest.mark.parametrize("module", IN_PLACE)
def test_an_image_that_comes_to_refer_to_a_file_of_root_is_changed_with_the_rights_of_its_owner(
    ground_at: Callable[[str], Ground], module: str
) -> None:
    ground = ground_at("g")
    params, before = params_of(module, ground), ground.state()
    with paused_at(IN_PLACE[module], params, module=module) as run:
        refer_to_a_file_of_root(ground.directory / "web.qcow2", ground.reserved / "shadow")
    result = run.result()
    assert ground.state() == before, result
    assert result["failed"], result
    assert "Traceback" not in str(result)


def test_a_merge_goes_into_the_base_that_was_looked_at(ground_at: Callable[[str], Ground]) -> None:
    ground = ground_at("g")
    victim = create(ground.reserved / "other.qcow2", size=MIB)
    params, before = params_of("qcow2_commit", ground), ground.state()
    with paused_at("qemu-img-commit 1", params, module="qcow2_commit") as run:
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", victim, ground.directory / "web.qcow2")
    result = run.result()
    assert ground.state() == before, result


@pytest.mark.parametrize("module", IN_PLACE)
def test_an_image_of_root_is_changed_and_not_what_takes_its_name(
    ground_at: Callable[[str], Ground], module: str
) -> None:
    ground = ground_at("g")
    params, before = params_of(module, ground), ground.state()
    image, aside = ground.directory / "web.qcow2", ground.directory / "aside.qcow2"
    os.chown(image, 0, 0)
    with paused_at(IN_PLACE[module], params, module=module) as run:
        image.rename(aside)
        create(image, size=MIB)
        refer_to_a_file_of_root(ground.own(image), ground.reserved / "shadow")
        evil = image.read_bytes()
    result = run.result()
    assert ground.state() == before, result
    assert image.read_bytes() == evil
    assert "Traceback" not in str(result)
    changed = info(aside)
    bitmaps = changed["format-specific"]["data"].get("bitmaps", [])
    assert changed["virtual-size"] == 2 * MIB or changed.get("snapshots") or bitmaps


@pytest.mark.parametrize("module", IN_PLACE)
def test_an_image_of_another_user_in_a_directory_of_root_is_changed_with_his_rights(
    ground_at: Callable[[str], Ground], module: str
) -> None:
    ground = ground_at("g")
    os.chown(ground.directory, 0, 0)
    params, before = params_of(module, ground), ground.state()
    with paused_at(IN_PLACE[module], params, module=module) as run:
        refer_to_a_file_of_root(ground.directory / "web.qcow2", ground.reserved / "shadow")
    result = run.result()
    assert ground.state() == before, result
    assert result["failed"], result
    assert run_module(module, params_of(module, ground_at("h")))["changed"]


def test_an_overlay_of_root_grows_over_what_it_reads(ground_at: Callable[[str], Ground]) -> None:
    ground = ground_at("g")
    top = ground.overlay()
    os.chown(top, 0, 0)
    qemu_io(ground.directory / "base.qcow2", "write -q -P 9 512k 512k")
    before = content(top)
    assert done(top, size="2M", trusted=True)["changed"]
    assert content(top, length=MIB) == before
    assert top.stat().st_uid == 0


def test_a_merge_of_images_of_several_users_is_refused_unless_the_directory_is_trusted(
    ground_at: Callable[[str], Ground],
) -> None:
    ground = ground_at("g")
    params = params_of("qcow2_commit", ground)
    os.chown(ground.directory / "base.qcow2", 0, 0)
    names = ("base.qcow2", "web.qcow2")
    before = [entry for name, entry in tree_state(ground.directory).items() if name in names]
    message = run_module("qcow2_commit", params)["msg"]
    assert "the images do not all belong to one other user" in message
    assert f"may exchange names ({ground.directory})" in message
    assert [entry for name, entry in tree_state(ground.directory).items() if name in names] == before
    assert run_module("qcow2_commit", {**params, "trust_directories": True})["changed"]
    assert (ground.directory / "base.qcow2").stat().st_uid == 0


def test_a_chain_that_was_looked_at_is_the_one_that_is_read(ground_at: Callable[[str], Ground]) -> None:
    ground = ground_at("g")
    top, qemu = ground.overlay(), _door.find()
    chain = Trust(True).look(qemu, str(top), "qcow2")
    secret = create(ground.reserved / "secret.qcow2", size=MIB)
    qemu_io(secret, "write -q -P 9 0 1M")
    reading, looked_at = _graph.following(qemu, chain), content(top)
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", secret, top)
    copied = ground.directory / "copy.raw"
    reading.convert(str(top), "qcow2", str(copied), "raw", {})
    assert content(copied, "raw") == looked_at


def test_a_directory_that_everybody_may_write_is_shielded_too(ground_at: Callable[[str], Ground]) -> None:
    ground = ground_at("g")
    os.chown(ground.directory, 0, 0)
    ground.directory.chmod(0o777)
    params, before = params_of("qcow2_convert", ground), ground.state()
    with paused_at("qemu-img-convert 1", params, module="qcow2_convert") as run:
        ground.exchange_all()
    assert run.result()["failed"]
    assert ground.state() == before
    ground = ground_at("h")
    assert run_module("qcow2_convert", params_of("qcow2_convert", ground))["changed"]
