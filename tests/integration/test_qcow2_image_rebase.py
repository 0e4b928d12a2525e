# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image gives an image another backing file, or none, and its guest sees the same as before."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.tree import tree_state
from support.image_tools import (
    KIB,
    MIB,
    content,
    create,
    info,
    names,
    opened_by_a_process,
    overlay,
    predicted,
    qemu_img,
    qemu_io,
    refused,
    settled,
    small_file_system,
    specific,
)


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """clone reads old; new is a later old, with other data, more of it and less of it. spare is a copy of old."""
    old = create(tmp_path / "old")
    qemu_io(old, "write -P 1 0 4M")
    shutil.copyfile(old, tmp_path / "spare")
    shutil.copyfile(old, tmp_path / "new")
    for command in ("write -P 2 1M 1M", "write -P 7 8M 1M", "write -z 3M 512k"):
        qemu_io(tmp_path / "new", command)
    overlay(tmp_path / "clone", "old")
    qemu_io(tmp_path / "clone", "write -P 5 2M 64k")
    qemu_io(tmp_path / "clone", "write -z 256k 64k")
    return tmp_path


def over(base: Path, base_format: str = "qcow2", **params: Any) -> dict[str, Any]:
    return {"backing_file": str(base), "backing_format": base_format, "trusted": True, **params}


def test_a_clone_moves_to_another_base_and_its_guest_sees_the_same(disks: Path) -> None:
    clone, before, bases = disks / "clone", content(disks / "clone"), tree_state(disks)
    os.chown(clone, 1234, 4321)
    clone.chmod(0o640)
    os.setxattr(clone, "user.note", b"kept")
    result = predicted(clone, **over(disks / "new"))
    assert result["actions"] == [
        f"rebase {clone} from {disks / 'old'} (qcow2) to {disks / 'new'} (qcow2), in a new file"
    ]
    assert result["diff"] == {
        "before": {"backing_file": str(disks / "old"), "backing_format": "qcow2"},
        "after": {"backing_file": str(disks / "new"), "backing_format": "qcow2"},
    }
    (disks / "old").unlink()
    assert content(clone) == before, "nothing is read from the old one any more"
    status = clone.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 4321, 0o640)
    assert os.getxattr(clone, "user.note") == b"kept"
    assert {name: tree_state(disks)[name] for name in ("new", "spare")} == {
        name: bases[name] for name in ("new", "spare")
    }
    qemu_img("check", "-q", "-f", "qcow2", clone)


def test_only_what_differs_is_copied(disks: Path) -> None:
    before = (disks / "clone").stat().st_blocks
    settled(disks / "clone", **over(disks / "spare"))
    assert (disks / "clone").stat().st_blocks <= before + 512 * KIB // 512


def test_a_clone_is_flattened(disks: Path) -> None:
    clone, before = disks / "clone", content(disks / "clone")
    result = predicted(clone, backing_file="", trusted=True)
    assert result["actions"] == [f"flatten {clone}, which reads {disks / 'old'} (qcow2), in a new file"]
    assert result["image"]["backing_file"] is None
    (disks / "old").unlink()
    assert content(clone) == before
    settled(create(disks / "plain"), backing_file="")


@pytest.mark.parametrize(
    "options", [["-o", "compat=0.10"], ["-o", "extended_l2=on"], ["-o", "cluster_size=4k"]], ids=str
)
def test_whatever_its_layout_an_image_keeps_it_and_its_content(options: list[str], disks: Path) -> None:
    clone = disks / "other"
    qemu_img("create", "-q", "-f", "qcow2", *options, "-b", "old", "-F", "qcow2", clone)
    qemu_io(clone, "write -P 9 300k 20k")
    before, facts = content(clone), specific(clone)
    settled(clone, **over(disks / "new"))
    assert (content(clone), specific(clone)) == (before, facts)
    settled(clone, backing_file="", trusted=True)
    assert (content(clone), specific(clone)) == (before, facts)


def test_a_chain_is_shortened_and_lengthened(disks: Path) -> None:
    middle, top = overlay(disks / "middle", "old"), overlay(disks / "top", "middle")
    qemu_io(middle, "write -P 8 6M 1M")
    before = content(top)
    settled(top, **over(disks / "old"))
    assert content(top) == before
    settled(top, **over(middle))
    middle_state = tree_state(disks)["middle"]
    assert content(top) == before
    assert tree_state(disks)["middle"] == middle_state


def test_an_image_that_stands_alone_gets_a_base_and_keeps_its_content(disks: Path) -> None:
    alone = create(disks / "alone")
    qemu_io(alone, "write -P 3 5M 1M")
    before = content(alone)
    settled(alone, backing_file=str(disks / "new"), backing_format="qcow2")
    assert content(alone) == before


def test_a_larger_base_wants_a_larger_image_that_shows_nothing_of_it(disks: Path) -> None:
    larger = create(disks / "larger", size=20 * MIB)
    qemu_io(larger, "write -P 6 10M 10M")
    state = tree_state(disks)
    assert "ask for that size as well" in refused(disks / "clone", **over(larger))["msg"]
    assert tree_state(disks) == state
    before = content(disks / "clone")
    predicted(disks / "clone", **over(larger, size="20M"))
    assert content(disks / "clone", length=10 * MIB) == before
    qemu_io(disks / "clone", "read -P 0 10M 10M")


def test_dirty_bitmaps_stay(disks: Path) -> None:
    qemu_img("bitmap", "--add", "-f", "qcow2", disks / "clone", "nightly")
    before = content(disks / "clone")
    settled(disks / "clone", **over(disks / "new"))
    assert [bitmap["name"] for bitmap in specific(disks / "clone")["bitmaps"]] == ["nightly"]
    assert content(disks / "clone") == before


@pytest.mark.parametrize("kind", ["qed", "raw base"])
def test_other_formats_are_rebased_too(kind: str, disks: Path) -> None:
    base = disks / "raw, base"
    qemu_img("convert", "-f", "qcow2", "-O", "raw", disks / "new", base)
    clone, image_format = disks / "clone", "qcow2"
    if kind == "qed":
        clone, image_format = disks / "clone.qed", "qed"
        plain = create(disks / "plain", "raw")
        qemu_img("create", "-q", "-f", "qed", "-b", plain, "-F", "raw", clone)
        qemu_io(clone, "write -P 4 1M 64k", "qed")
    before = content(clone, image_format)
    settled(clone, format=image_format, **over(base, "raw"))
    assert content(clone, image_format) == before
    settled(clone, format=image_format, backing_file="", trusted=True)
    assert content(clone, image_format) == before


@pytest.mark.parametrize("name", ["with space", "with,comma", "a:b", "-dash", "json:{}"])
def test_a_name_is_just_a_name(name: str, disks: Path) -> None:
    clone, base = disks / name, disks / f"{name} base"
    (disks / "clone").rename(clone)
    shutil.copyfile(disks / "new", base)
    before = content(clone)
    settled(clone, **over(base))
    assert content(clone) == before
    assert sorted(names(disks)) == sorted(["new", "old", "spare", name, base.name])


def test_a_link_stays_and_the_file_that_it_means_is_rebased(disks: Path) -> None:
    (disks / "below").mkdir()
    link = disks / "below" / "link"
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", disks / "old", "-F", "qcow2", disks / "clone")
    link.symlink_to("../clone")
    before = content(link)
    settled(link, **over(disks / "new"))
    assert os.readlink(link) == "../clone"
    assert content(disks / "clone") == before
    assert names(disks) == ["below", "clone", "new", "old", "spare"]


# --- only the reference -----------------------------------------------------------------------------------------


def test_a_base_that_was_moved_is_named_anew(disks: Path) -> None:
    before = content(disks / "clone")
    (disks / "old").rename(disks / "moved")
    result = refused(disks / "clone", **over(disks / "moved"))
    assert "set rebase=unsafe if the new one holds the same" in result["msg"]
    inode = (disks / "clone").stat().st_ino
    named = {"backing_file": str(disks / "moved"), "backing_format": "qcow2", "rebase": "unsafe"}
    result = predicted(disks / "clone", **named)
    assert result["actions"][0].startswith(f"rewrite the backing file in {disks / 'clone'} from {disks / 'old'}")
    assert (disks / "clone").stat().st_ino == inode
    assert content(disks / "clone") == before
    predicted(disks / "clone", **named, size="20M", lazy_refcounts=True)
    assert content(disks / "clone", length=10 * MIB) == before


def test_a_format_that_is_not_recorded_is_recorded(disks: Path) -> None:
    raw = (disks / "clone").read_bytes()
    (disks / "clone").write_bytes(raw.replace(bytes.fromhex("e2792aca"), bytes.fromhex("deadbeef"), 1))
    assert "backing-filename-format" not in info(disks / "clone")
    before, inode = content(disks / "old"), (disks / "clone").stat().st_ino
    assert "found a qcow2 image" in refused(disks / "clone", **over(disks / "old", "vmdk"))["msg"]
    settled(disks / "clone", backing_file=str(disks / "old"), backing_format="qcow2")
    assert info(disks / "clone")["backing-filename-format"] == "qcow2"
    assert ((disks / "clone").stat().st_ino, content(disks / "old")) == (inode, before)


def test_a_wrong_format_is_corrected_only_by_force(disks: Path) -> None:
    plain = create(disks / "plain", "raw")
    clone = overlay(disks / "misread", str(plain), "raw")
    shutil.copyfile(disks / "old", plain)  # it was raw once
    state = tree_state(disks)
    result = refused(clone, **over(plain))
    assert "plain" in result["msg"]
    assert tree_state(disks) == state
    settled(clone, **over(plain, rebase="unsafe"))
    assert content(clone) == content(disks / "old")


# --- refusals ---------------------------------------------------------------------------------------------------


def test_what_the_image_names_is_not_copied_before_somebody_answers_for_it(disks: Path) -> None:
    victim = disks / "victim"
    victim.write_bytes(b"secret" * 4096)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", victim, "-F", "raw", disks / "clone")
    state = tree_state(disks)
    for params in ({"backing_file": ""}, {"backing_file": str(disks / "new"), "backing_format": "qcow2"}):
        result = refused(disks / "clone", **params)
        assert "set trusted=true if you know" in result["msg"]
        assert result["backing_file"] == str(victim)
    assert tree_state(disks) == state


def test_what_would_lose_something_is_refused_and_nothing_is_touched(disks: Path) -> None:
    clone = disks / "clone"
    circular = overlay(disks / "circular", "clone")
    dependent = overlay(disks / "dependent", "clone")
    state = tree_state(disks)
    assert "would run in a circle" in refused(clone, **over(circular))["msg"]
    for check in (True, False):
        result = refused(clone, check=check, **over(disks / "new"))
        assert result["dependents"] == [str(circular), str(dependent)]
    assert "no such image" in refused(clone, **over(disks / "missing"))["msg"]
    with opened_by_a_process(disks / "new"):
        assert "is open for writing" in refused(clone, **over(disks / "new"))["msg"]
    with opened_by_a_process(disks / "old"):
        assert "is open for writing" in refused(clone, **over(disks / "new"))["msg"]
    with opened_by_a_process(clone):
        assert "in use by" in refused(clone, **over(disks / "new", allow_dependents=True))["msg"]
    assert tree_state(disks) == state


def test_a_clone_with_dependents_is_rebased_when_they_are_allowed_and_they_see_the_same(disks: Path) -> None:
    dependent = overlay(disks / "dependent", "clone")
    before = content(dependent)
    settled(disks / "clone", **over(disks / "new", allow_dependents=True))
    assert content(dependent) == before


def test_internal_snapshots_forbid_a_rebase_but_not_a_new_name(disks: Path) -> None:
    qemu_img("snapshot", "-c", "monday", disks / "clone")
    state = tree_state(disks)
    result = refused(disks / "clone", backing_file="", trusted=True)
    assert "holds 1 internal snapshot(s) (monday), which read its backing files" in result["msg"]
    assert result["snapshots"] == ["monday"]
    assert tree_state(disks) == state
    settled(disks / "clone", **over(disks / "spare", rebase="unsafe"))


def test_the_space_is_measured_first(disks: Path, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "3M") as small:
        clone = overlay(small / "clone", str(disks / "old"))
        state = tree_state(small)
        for check in (True, False):
            result = refused(clone, check=check, backing_file="", trusted=True)
            assert "not enough space" in result["msg"]
            assert result["required_bytes"] > 4 * MIB > result["available_bytes"]
        assert tree_state(small) == state


def test_a_domain_that_describes_the_chain_itself_or_was_saved_is_not_left_behind(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base, other = create(images / "base"), create(images / "other")
    clone = overlay(images / "clone", str(base))
    guest = make_domain([Disk(clone, "qcow2")])
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.lookupByName(guest.name)
        plain = domain.XMLDesc(2)
        described = plain.replace(
            f"<source file='{clone}'/>",
            f"<source file='{clone}'/><backingStore type='file'><format type='qcow2'/><source file='{base}'/>"
            "<backingStore/></backingStore>",
        )
        connection.defineXML(described)
        result = refused(clone, uri=hv.uri, **over(other))
        assert f"definition of domain {guest.name} says what disk vda reads" in result["msg"]
        assert result["in_use_by"][0]["domain"] == guest.name
        domain.undefine()
        connection.defineXML(plain)
    settled(clone, uri=hv.uri, **over(other))
    hv.start(guest.name)
    result = refused(clone, uri=hv.uri, **over(base))
    assert f"running domain {guest.name}" in result["msg"]
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).managedSave(0)
    assert "has a managed-save image" in refused(clone, uri=hv.uri, **over(base))["msg"]
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).managedSaveRemove(0)
