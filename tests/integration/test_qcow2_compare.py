# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_compare: whether two images are the same to a guest, and nothing is changed by the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.module import run_module
from lab.tree import tree_state
from support.image_tools import MIB, NOBODY, create, opened_by_a_process, overlay, qemu_img, qemu_io


def compare(path: Path, other: Path, **params: Any) -> dict[str, Any]:
    wish = {"path": str(path), "other": str(other), "uri": NOBODY, **params}
    before = tree_state(path.parent)
    result = run_module("qcow2_compare", wish)
    assert run_module("qcow2_compare", wish, check=True) == result or result.get("failed")
    assert tree_state(path.parent) == before
    assert "Traceback" not in json.dumps(result)
    assert not result.get("changed")
    return result


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = create(tmp_path / "disk a,b", "qcow2", 4 * MIB)
    qemu_io(path, "write -P 1 0 1M")
    return path


def test_formats_and_options_make_no_difference_and_content_does(disk: Path, tmp_path: Path) -> None:
    for name, options in (("raw", []), ("vmdk", []), ("qcow2", ["-c"])):
        other = tmp_path / name
        qemu_img("convert", *options, "-f", "qcow2", "-O", name, disk, other)
        result = compare(disk, other, other_format=name)
        assert result["equal"] is True
        assert [image["format"] for image in result["images"]] == ["qcow2", name]
        qemu_io(other, "write -P 2 3M 512", name)
        assert compare(disk, other, other_format=name)["equal"] is False


def test_a_longer_image_is_the_same_as_long_as_it_is_empty_there(disk: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    qemu_img("convert", "-f", "qcow2", "-O", "qcow2", disk, longer)
    qemu_img("resize", "-q", longer, "5M")
    assert compare(disk, longer)["equal"] is True
    assert compare(disk, longer, strict=True)["equal"] is False
    qemu_io(longer, "write -P 1 4M 512")
    assert compare(disk, longer)["equal"] is False


def test_what_could_not_be_compared_is_a_failure(disk: Path, tmp_path: Path) -> None:
    raw = create(tmp_path / "raw", "raw", 4 * MIB)
    clone = overlay(tmp_path / "clone", disk.name)
    assert "which the task does not name" in compare(clone, disk)["msg"]
    assert compare(clone, disk, trusted=True)["equal"] is True
    assert "found a raw image, asked for qcow2" in compare(disk, raw)["msg"]
    assert "its content begins like qcow2" in compare(raw, disk, format="raw")["msg"]
    assert "no such image" in compare(disk, tmp_path / "missing")["msg"]
    assert "is relative" in compare(disk, Path("other"))["msg"]
    with opened_by_a_process(raw, "raw"):
        assert "is open for writing" in compare(disk, raw, other_format="raw")["msg"]


def test_images_of_a_running_guest_are_neither_compared_nor_converted(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base = create(images / "base.qcow2")
    overlay(images / "disk.qcow2", "base.qcow2")
    shared = create(images / "shared.raw", "raw")
    idle = create(images / "idle.qcow2")
    guest = make_domain([Disk(images / "disk.qcow2", "qcow2"), Disk(shared, "raw", "vdb", shareable=True)], start=False)
    hv.start(guest.name)
    before = tree_state(images)
    for path, image_format in ((images / "disk.qcow2", "qcow2"), (shared, "raw")):
        for uri in (hv.uri, NOBODY):
            pair = {"path": str(path), "format": image_format, "other": str(idle), "other_format": "qcow2"}
            refused = run_module("qcow2_compare", {**pair, "uri": uri, "trusted": True})
            assert "is open for writing" in refused["msg"] or f"running domain {guest.name}" in refused["msg"]
            source = {"src": str(path), "src_format": image_format, "dest": str(images / "new"), "uri": uri}
            refused = run_module("qcow2_convert", {**source, "trusted": True})
            assert "is open for writing" in refused["msg"] or f"running domain {guest.name}" in refused["msg"]
            onto = {"src": str(idle), "src_format": "qcow2", "dest": str(path), "format": image_format}
            refused = run_module("qcow2_convert", {**onto, "uri": uri, "update": "always"})
            assert "in use by" in refused["msg"]
    for uri in (hv.uri, NOBODY):
        onto = {"src": str(idle), "src_format": "qcow2", "dest": str(base), "update": "always", "uri": uri}
        assert run_module("qcow2_convert", onto)["failed"], "the base of a running guest"
    assert tree_state(images) == before
    pair = {"path": str(base), "other": str(idle), "uri": hv.uri}
    assert run_module("qcow2_compare", pair)["equal"], "a base is only read by its guest, and may be read"
    source = {"src": str(base), "src_format": "qcow2", "dest": str(images / "new"), "uri": hv.uri}
    assert run_module("qcow2_convert", source)["changed"]


def test_the_disk_of_a_saved_domain_is_not_replaced_under_it(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    """It would resume on a disk that it does not know (HAZARDS A9)."""
    disk, source = create(images / "disk.qcow2"), create(images / "source.qcow2")
    qemu_io(source, "write -P 1 0 1M")
    guest = make_domain([Disk(disk, "qcow2")])
    onto = {"src": str(source), "src_format": "qcow2", "dest": str(disk), "update": "changed", "uri": hv.uri}
    hv.start(guest.name)
    connection = hv.connect()
    connection.lookupByName(guest.name).managedSave(0)
    assert f"the domain {guest.name} has a managed-save image" in run_module("qcow2_convert", onto)["msg"]
    connection.lookupByName(guest.name).managedSaveRemove(0)
    connection.close()
    assert run_module("qcow2_convert", onto)["changed"], "the disk of a domain that is off may be made anew"
    assert not run_module("qcow2_convert", onto)["changed"]
