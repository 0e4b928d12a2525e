# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_commit merges an overlay into an image below it, which then is the disk that the overlay showed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from lab.tree import tree_state
from support.held_qemu_img import HeldQemuImg
from support.image_tools import (
    MIB,
    content,
    create,
    create_encrypted,
    image_params,
    info,
    names,
    opened_by_a_process,
    overlay,
    qemu_img,
    qemu_io,
    small_file_system,
)
from support.merge_chain import Chain, make_chain
from support.playground import Playground
from support.snapshot_tools import consistency, predicted, refused, succeeded

MODULE = "qcow2_commit"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return make_chain(tmp_path)


# --- what becomes of the images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("base_format", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize("end", ["keep", "empty", "remove"])
def test_the_backing_file_becomes_what_the_overlay_shows(end: str, base_format: str, tmp_path: Path) -> None:
    base = create(tmp_path / "base", base_format, 4 * MIB)
    qemu_io(base, "write -P 0x11 0 2M", base_format)
    top = overlay(tmp_path / "top", "base", base_format)
    qemu_io(top, "write -P 0x22 1M 256k")
    qemu_io(top, "write -z 64k 128k")
    base.chmod(0o640)
    os.chown(base, 1234, 2345)
    top.chmod(0o604)
    kept, shown = base.stat(), content(top)

    result = predicted(MODULE, top, overlay=end)

    told = {"keep": [], "empty": [f"empty {top}"], "remove": [f"remove {top}"]}[end]
    assert result["actions"] == [f"merge {top} into {base}", *told]
    assert result["verified"]
    assert (result["image"]["path"], result["image"]["format"]) == (str(base), base_format)
    assert result["diff"]["before"]["unmerged_bytes"] == 384 * 1024
    assert content(base, base_format) == shown
    for field in ("st_ino", "st_mode", "st_uid", "st_gid"):
        assert getattr(base.stat(), field) == getattr(kept, field)
    assert names(tmp_path) == (["base"] if end == "remove" else ["base", "top"])
    if end != "remove":
        assert content(top) == shown
        assert info(top)["backing-filename"] == "base", "as it was written"
        assert top.stat().st_mode & 0o777 == 0o604
    assert holds(top) == {"keep": [(64, 192), (1024, 1280)], "empty": [], "remove": None}[end]


def holds(path: Path) -> list[tuple[int, int]] | None:
    """The KiB that an image holds itself."""
    if not path.exists():
        return None
    rows = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", path))
    return [(row["start"] >> 10, (row["start"] + row["length"]) >> 10) for row in rows if row["depth"] == 0]


def test_an_overlay_is_emptied_unless_the_task_says_otherwise(chain: Chain) -> None:
    assert succeeded(MODULE, chain.top, remove=False)["actions"][1] == f"empty {chain.top}"
    assert holds(chain.top) == []
    assert not succeeded(MODULE, chain.top)["changed"]
    qemu_io(chain.top, "write -P 0x55 0 64k")
    shown = chain.shown
    assert succeeded(MODULE, chain.top)["changed"], "it is an overlay as before"
    assert content(chain.middle) == shown


@pytest.mark.parametrize("end", ["keep", "empty", "remove"])
def test_a_deeper_base_gets_what_lies_between_as_well(end: str, chain: Chain) -> None:
    shown = chain.shown
    result = predicted(MODULE, chain.top, base=str(chain.base), overlay=end)
    assert result["actions"][0] == f"merge {chain.top}, with {chain.middle}, into {chain.base}"
    assert (content(chain.base), consistency(chain.base)) == (shown, "good")
    if end == "remove":
        assert result["removed"] == [str(chain.top), str(chain.middle)]
        assert names(chain.base.parent) == ["base"]
        return
    assert result["invalid"] == [str(chain.middle)]
    assert "is only valid below" in str(result["warnings"])
    assert chain.shown == shown
    below = info(chain.top)["full-backing-filename"]
    assert below == str(chain.middle if end == "keep" else chain.base)


def test_a_base_in_the_middle_leaves_what_is_below_it_alone(chain: Chain) -> None:
    shown, below = chain.shown, content(chain.base)
    assert predicted(MODULE, chain.top, base=str(chain.middle), remove=True)["removed"] == [str(chain.top)]
    assert (content(chain.middle), content(chain.base)) == (shown, below)


@pytest.mark.parametrize(("base_format", "options"), [("raw", []), ("qcow2", ["-o", "compat=0.10"]), ("qed", [])])
def test_a_base_that_is_smaller_grows(base_format: str, options: list[str], tmp_path: Path) -> None:
    base = create(tmp_path / "base", base_format, 2 * MIB, *options)
    qemu_io(base, "write -P 0x11 0 2M", base_format)
    top = overlay(tmp_path / "top", "base", base_format)
    qemu_img("resize", "-q", "-f", "qcow2", top, "5M")
    qemu_io(top, "write -P 0x22 4M 64k")
    shown = content(top)
    result = predicted(MODULE, top)
    assert result["actions"][0] == f"merge {top} into {base}, which grows from 2 MiB to 5 MiB"
    assert result["image"]["virtual_size"] == info(base, base_format)["virtual-size"] == 5 * MIB
    assert content(base, base_format) == content(top) == shown


def test_a_base_grows_even_where_the_overlay_holds_nothing(chain: Chain) -> None:
    top = overlay(chain.top.parent / "empty", "base")
    qemu_img("resize", "-q", "-f", "qcow2", top, "5M")
    assert "grows" in predicted(MODULE, top, allow_dependents=True, overlay="keep")["actions"][0]
    assert info(chain.base)["virtual-size"] == 5 * MIB


@pytest.mark.parametrize(
    "options", ["compat=0.10", "cluster_size=16k,extended_l2=on", "lazy_refcounts=on,refcount_bits=64,cluster_size=4k"]
)
def test_an_emptied_overlay_keeps_its_layout(options: str, tmp_path: Path) -> None:
    base = create(tmp_path / "base", "raw", 4 * MIB)
    top = tmp_path / "top"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "-o", options, top)
    qemu_io(top, "write -P 0x22 1M 96k")
    layout, shown = info(top)["format-specific"], content(top)
    succeeded(MODULE, top)
    assert info(top)["format-specific"] == layout
    assert (holds(top), content(base, "raw"), consistency(top)) == ([], shown, "good")


def test_a_qed_overlay_is_merged_and_not_emptied(tmp_path: Path) -> None:
    base = create(tmp_path / "base", "raw", 4 * MIB)
    top = create(tmp_path / "top", "qed", 4 * MIB, "-b", str(base), "-F", "raw")
    qemu_io(top, "write -P 0x22 1M 96k", "qed")
    shown = content(top, "qed")
    assert "qed images are not emptied" in refused(MODULE, top, format="qed")["msg"]
    assert predicted(MODULE, top, format="qed", overlay="keep")["changed"]
    assert content(base, "raw") == shown
    assert predicted(MODULE, top, format="qed", remove=True)["removed"] == [str(top)]


def test_odd_paths_mean_what_they_say(tmp_path: Path) -> None:
    directory = tmp_path / "a b,c:d"
    directory.mkdir()
    made = make_chain(directory)
    base, middle, top = (
        path.rename(path.with_name(f"-{path.name},=: ü")) for path in (made.base, made.middle, made.top)
    )
    for above, below in ((middle, base), (top, middle)):
        qemu_img("rebase", "-u", "-f", "qcow2", "-b", str(below), "-F", "qcow2", "--", above)
    shown = content(top)
    assert predicted(MODULE, top, base=str(base), remove=True)["changed"]
    assert (content(base), names(directory)) == (shown, [base.name])


def test_the_bitmaps_of_a_base_note_what_is_merged(chain: Chain) -> None:
    """An incremental backup of the base has to have what came from the overlay."""
    qemu_img("bitmap", "--add", "-f", "qcow2", chain.base, "backup")
    succeeded(MODULE, chain.top, base=str(chain.base), remove=True)
    (bitmap,) = info(chain.base)["format-specific"]["data"]["bitmaps"]
    assert (bitmap["name"], bitmap["flags"]) == ("backup", ["auto"])
    assert consistency(chain.base) == "good"


# --- a second run -------------------------------------------------------------------------------------------------


def test_an_overlay_that_is_gone_counts_as_merged_where_it_was_to_go(chain: Chain) -> None:
    for params in ({}, {"overlay": "keep"}):
        assert "set remove=true" in refused(MODULE, chain.base.parent / "gone", **params)["msg"]
    gone = succeeded(MODULE, chain.base.parent / "gone", remove=True)
    assert (gone["changed"], gone["image"]) == (False, {})
    named: dict[str, Any] = {"base": str(chain.base), "base_format": "qcow2", "remove": True}
    assert succeeded(MODULE, chain.base.parent / "gone", **named)["image"]["path"] == str(chain.base)
    named["base"] = str(chain.base.parent / "gone-too")
    assert "neither it nor its base" in refused(MODULE, chain.base.parent / "gone", **named)["msg"]


def test_an_overlay_that_is_kept_is_compared_and_merged_again_only_if_it_differs(chain: Chain) -> None:
    params: dict[str, Any] = {"base": str(chain.base), "overlay": "keep"}
    assert succeeded(MODULE, chain.top, **params)["changed"]
    again = succeeded(MODULE, chain.top, **params)
    assert (again["changed"], again["verified"], again["invalid"]) == (False, True, [])
    qemu_io(chain.top, "write -P 0x66 3M 64k")
    shown = chain.shown
    assert succeeded(MODULE, chain.top, **params)["changed"]
    assert content(chain.base) == shown


# --- refused ------------------------------------------------------------------------------------------------------


def test_what_is_no_overlay_of_the_base_is_refused(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = create(tmp_path / "other" / "stranger")
    (tmp_path / "link").symlink_to(chain.top)
    wishes: list[tuple[Path, dict[str, Any], str]] = [
        (chain.base, {}, "has no backing file"),
        (chain.top, {"base": str(stranger)}, f"which reads {chain.middle}, {chain.base}"),
        (chain.top, {"base": str(chain.top)}, "cannot be merged into itself"),
        (chain.top, {"base": str(chain.base), "base_format": "raw"}, "reads it as qcow2"),
        (chain.top, {"base": "base"}, "relative"),
        (chain.top, {"format": "qed"}, "qed images are not emptied"),
        (chain.top, {"format": "qed", "overlay": "keep"}, "found a qcow2 image, asked for qed"),
        (chain.top, {"overlay": "keep", "remove": True}, "mutually exclusive"),
        (chain.top, {"rate_limit": "fast"}, "rate_limit: 'fast' is not a size"),
        (chain.top, {"search_paths": ["/nonexistent"]}, "not a directory"),
        (tmp_path / "link", {}, "is a symbolic link"),
        (tmp_path, {}, "is a directory, neither a regular file nor a block device: name the image in it"),
    ]
    before = tree_state(tmp_path)
    for path, params, reason in wishes:
        for check in (True, False):
            assert reason in run_module(MODULE, image_params(path, params), check=check)["msg"]
    assert tree_state(tmp_path) == before


def test_what_qemu_would_refuse_or_do_wrong_is_refused_with_the_reason(tmp_path: Path) -> None:
    cases: dict[str, tuple[Path, str]] = {}
    for name, base_format, reason in (
        ("parallels", "parallels", "QEMU cannot merge into a parallels image"),
        ("vdi", "vdi", "vdi images cannot be grown"),
        ("snapshots", "qcow2", "compat 0.10 with 1 snapshot(s) cannot be grown"),
    ):
        options = ["-o", "compat=0.10"] if name == "snapshots" else []
        base = create(tmp_path / f"{name}.base", base_format, 4 * MIB, *options)
        if name == "snapshots":
            qemu_img("snapshot", "-c", "one", base)
        cases[name] = (overlay(tmp_path / name, base.name, base_format), reason)
        qemu_img("resize", "-q", "-f", "qcow2", tmp_path / name, "5M")
    base = create(tmp_path / "base", "qcow2", 4 * MIB)
    small = create(tmp_path / "small", "qcow2", 2 * MIB, "-b", "base", "-F", "qcow2")
    cases["small"] = (small, "has 2 MiB, less than its backing file")
    wide = create(tmp_path / "wide", "qcow2", 4 * MIB, "-b", "small", "-F", "qcow2")
    as_raw = tmp_path / "as_raw"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "base", "-F", "raw", as_raw, "4M")
    cases["as_raw"] = (as_raw, "its content begins like qcow2")
    for path, reason in cases.values():
        if path != as_raw:
            qemu_io(path, "write -P 0x11 0 64k")
        assert reason in refused(MODULE, path)["msg"]
    assert "less than its backing file" in refused(MODULE, wide, base=str(base))["msg"]


def test_encrypted_images_and_foreign_data_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret", encoding="utf-8")
    create_encrypted(tmp_path / "luks", "qcow2", "encrypt.", tmp_path / "secret")
    create(tmp_path / "external", "qcow2", MIB, "-o", f"data_file={tmp_path}/data")
    for name, reason in (("luks", "is encrypted"), ("external", "keeps its data in another file")):
        top = tmp_path / f"{name}.top"
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", top, "1M")
        assert reason in refused(MODULE, top, overlay="keep")["msg"]


def test_an_overlay_with_more_than_its_disk_is_only_kept(chain: Chain) -> None:
    shown = chain.shown
    qemu_img("bitmap", "--add", "-f", "qcow2", chain.top, "backup")
    assert "1 dirty bitmap(s) (backup)" in refused(MODULE, chain.top)["msg"]
    qemu_img("bitmap", "--remove", "-f", "qcow2", chain.top, "backup")
    qemu_img("snapshot", "-c", "before", chain.top)
    assert "1 internal snapshot(s) (before)" in refused(MODULE, chain.top, remove=True)["msg"]
    assert succeeded(MODULE, chain.top, overlay="keep")["changed"]
    assert content(chain.middle) == shown


def test_a_foreign_backing_file_is_written_only_where_the_task_knows_of_it(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    made = make_chain(tmp_path / "foreign", "raw")
    top = overlay(tmp_path / "planted", str(made.base), "raw")
    qemu_io(top, "write -P 0x77 0 64k")
    shown, found = content(top), content(made.base, "raw")
    for params in ({}, {"overlay": "keep"}, {"remove": True}):
        result = refused(MODULE, top, allow_dependents=True, **params)
        assert "lies in another directory" in result["msg"]
        assert result["reference"] == str(made.base)
    (tmp_path / "beside").symlink_to(made.base)
    hidden = overlay(tmp_path / "hidden", "beside", "raw")
    assert "lies in another directory" in refused(MODULE, hidden, allow_dependents=True)["msg"]
    assert content(made.base, "raw") == found
    shutil.copyfile(made.base, tmp_path / "copy")
    assert succeeded(MODULE, top, allow_dependents=True, base=str(made.base), overlay="keep")["changed"]
    assert content(made.base, "raw") == shown
    shutil.copyfile(tmp_path / "copy", made.base)
    assert succeeded(MODULE, top, allow_dependents=True, trusted=True)["changed"]
    assert content(made.base, "raw") == shown


@pytest.mark.parametrize("below", ["base", "middle", "top"])
def test_no_sibling_is_destroyed_unless_it_is_given_up(below: str, chain: Chain, tmp_path: Path) -> None:
    elsewhere = tmp_path / "clones"
    elsewhere.mkdir()
    sibling = overlay(elsewhere / "clone", str(tmp_path / below))
    seen, shown = content(sibling), chain.shown
    wish: dict[str, Any] = {"base": str(chain.base), "remove": True, "search_paths": [str(elsewhere)]}
    result = refused(MODULE, chain.top, **wish)
    assert result["dependents"] == [str(sibling)]
    assert f"{tmp_path / below}: 1 image(s) read it" in result["msg"]
    if below == "top":
        stays = {"base": str(chain.base), "search_paths": wish["search_paths"]}
        assert succeeded(MODULE, chain.top, **stays)["changed"], "who reads an overlay that stays reads the same"
        assert content(sibling) == seen
        return
    assert succeeded(MODULE, chain.top, **wish, allow_dependents=True)["changed"]
    assert content(chain.base) == shown


def test_an_image_that_a_process_has_open_is_left_alone(chain: Chain) -> None:
    for path in (chain.top, chain.middle, chain.base):
        with opened_by_a_process(path):
            before = tree_state(path.parent)
            for end in ("keep", "remove"):
                result = run_module(MODULE, image_params(chain.top, {"base": str(chain.base), "overlay": end}))
                assert f"{path}: in use by a process that libvirt does not know" in result["msg"]
            assert tree_state(path.parent) == before


def test_the_space_is_measured_where_the_base_is(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "6M") as small:
        base = create(small / "base", "qcow2", 16 * MIB)
        qemu_io(base, "write -P 0x11 0 2M")
        top = overlay(tmp_path / "top", str(base))
        qemu_io(top, "write -P 0x22 1M 6M")
        result = refused(MODULE, top, base=str(base))
        top.unlink()
        assert 5 * MIB < result["required_bytes"] < 5 * MIB + 512 * 1024, "of 6 MiB, it has one already"
        assert result["available_bytes"] < 4 * MIB
        assert str(small) in result["msg"]
        qemu_img("resize", "-q", "-f", "qcow2", "--shrink", base, "8M")
        within = overlay(tmp_path / "within", str(base))
        qemu_io(within, "write -P 0x22 0 3M")
        shown = content(within)
        assert succeeded(MODULE, within, base=str(base))["changed"]
        assert content(base) == shown


# --- domains ------------------------------------------------------------------------------------------------------


@pytest.fixture
def domain_chain(images: Path) -> Chain:
    chain = make_chain(images)
    for path in (chain.base, chain.middle, chain.top):
        path.chmod(0o666)
    return chain


def test_disks_of_domains_are_left_alone_while_they_run_or_are_saved_and_never_removed(
    hv: Hypervisor, domain_chain: Chain, make_domain: MakeDomain
) -> None:
    chain, guest = domain_chain, make_domain([Disk(domain_chain.top, "qcow2")])
    wish: dict[str, Any] = {"uri": hv.uri}
    result = refused(MODULE, chain.top, remove=True, **wish)
    assert f"in use by defined domain {guest.name} (disk vda): asked to remove it" in result["msg"]
    result = refused(MODULE, chain.top, base=str(chain.base), **wish)
    assert f"defined domain {guest.name} (backing file of vda)" in result["msg"], "its definition may name it"
    hv.start(guest.name)
    for base in (chain.base, chain.middle):
        result = run_module(MODULE, {"path": str(chain.top), "base": str(base), **wish})
        assert f"running domain {guest.name}" in result["msg"]
        assert result["in_use_by"][0]["running"]
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).managedSave()
        try:
            assert f"domain {guest.name} has a managed-save image" in refused(MODULE, chain.top, **wish)["msg"]
        finally:
            connection.lookupByName(guest.name).managedSaveRemove()
    shown = chain.shown
    assert succeeded(MODULE, chain.top, **wish)["changed"], "a domain that is off is no hindrance"
    assert content(chain.middle) == chain.shown == shown


def test_a_disk_in_a_snapshot_is_left_to_whoever_removes_that(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = create(images / "disk.qcow2")
    guest = make_domain([Disk(disk, "qcow2")])
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.lookupByName(guest.name)
        taken = domain.snapshotCreateXML("<domainsnapshot><name>theirs</name></domainsnapshot>", flags)
        qemu_io(images / "disk.theirs", "write -P 0x22 0 64k")
        try:
            result = refused(MODULE, images / "disk.theirs", uri=hv.uri)
            assert f"is a disk in a snapshot of domain {guest.name}" in result["msg"]
        finally:
            taken.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    assert succeeded(MODULE, images / "disk.theirs", uri=hv.uri)["changed"]


def test_a_pool_sees_that_an_overlay_went(hv: Hypervisor, domain_chain: Chain) -> None:
    hv.pool("commit", domain_chain.base.parent)
    with contextlib.closing(hv.connect()) as connection:
        pool = connection.storagePoolLookupByName("commit")
        try:
            pool.refresh()
            assert sorted(pool.listVolumes()) == ["base", "middle", "top"]
            succeeded(MODULE, domain_chain.top, base=str(domain_chain.base), remove=True, uri=hv.uri)
            assert pool.listVolumes() == ["base"]
        finally:
            pool.destroy()
            pool.undefine()


def test_it_works_without_root(open_directory: Path) -> None:
    own = open_directory / "own"
    own.mkdir()
    made = make_chain(own)
    for path in (own, made.base, made.middle, made.top):
        os.chown(path, 65533, 65533)
    shown = made.shown
    assert run_module(MODULE, image_params(made.top, {"base": str(made.base), "remove": True}), as_user=65533)[
        "changed"
    ]
    assert (content(made.base), names(own)) == (shown, ["base"])


def test_it_says_how_far_it_is(hv: Hypervisor, base: Path, images: Path) -> None:
    held = HeldQemuImg(base, "commit", 20)
    ground = Playground(hv, base, held.prefix())
    below = create(images / "web.qcow2", "qcow2", 32 * MIB)
    top = overlay(images / "test.qcow2", "web.qcow2")
    qemu_io(top, "write -P 0x22 0 16M")
    wish = {"path": str(top), "rate_limit": "16M", "remove": True}
    run = ground.start({"kvmops.disk.qcow2_commit": wish, "register": "merged"})
    held.wait()
    run.wait_for(r"test\.qcow2: merge [1-9]\d %")
    held.let_go()
    assert run.wait().process.returncode == 0, run.output
    assert run.result("merged")["removed"] == [str(top)]
    told = re.findall(r"^\[here\] test\.qcow2: (merge|compare) +(\d+) % of (?:16|32) MiB", run.output, re.MULTILINE)
    merged = [int(percent) for verb, percent in told if verb == "merge"]
    assert merged[0] == 0, run.output
    assert merged[-1] == 100, run.output
    assert len(merged) > 2, run.output
    assert ("compare", "100") in told
    assert names(images) == [below.name]
    assert ground.left() == []
