# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another user exchanges names or content while root works on his images: nothing but his own is reached by that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import run_module
from support.image_tools import MIB, NOBODY, create, qemu_img
from support.injection import Share, in_shares, paused_at, points
from support.other_users import MODULES, SECRET, Ground, open_place, params_of

#: What the points of a run leave out, and what follows a link unless it is told not to.
ATTRIBUTES = ("chmod 1", "chown 1", "setxattr 1")


@pytest.fixture
def ground_at() -> Iterator[Callable[[str], Ground]]:
    with open_place() as place:

        def make(name: str) -> Ground:
            (place / name).mkdir()
            return Ground.at(place / name)

        yield make


@in_shares(2)
@pytest.mark.parametrize("module", [module for module in MODULES if module != "qcow2_check"])
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
    extent = ground.directory / "evil-flat.vmdk"
    text = evil.read_bytes().replace(b"evil-flat.vmdk", os.fsencode(ground.reserved / "shadow"))
    evil.write_bytes(text)
    extent.unlink(missing_ok=True)
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


def refer_to_a_file_of_root(image: Path, victim: Path) -> None:
    """Writes a header into IMAGE by which its data are in VICTIM."""
    data = image.with_name("d" * (len(str(victim)) - len(str(image.parent)) - 1))
    evil = image.with_name("evil")
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", evil, "1M")
    written = evil.read_bytes().replace(os.fsencode(data), os.fsencode(victim))
    data.unlink()
    evil.unlink()
    image.write_bytes(written)


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
