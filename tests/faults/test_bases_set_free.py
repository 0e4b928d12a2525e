# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whichever module takes a protected base its last overlay sets the base free, in this run or, killed, in the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.image_tools import MIB, NOBODY, create, overlay, qemu_io
from support.injection import killed_at


class Place:
    """A base that is protected for the sake of an overlay in another directory, and of nothing else."""

    def __init__(self, hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
        self.hv, self.images, self.make_domain = hv, images, make_domain
        self.base, self.other = images / "golden.qcow2", images / "other.qcow2"
        self.directory = images / "far"
        self.directory.mkdir(mode=0o711)
        self.uri = NOBODY
        create(self.base, "qcow2", MIB).chmod(0o664)
        create(self.other, "qcow2", MIB)

    def protected(self, *names: str) -> None:
        paths = [self.directory / name for name in names]
        for path in paths:
            path.unlink(missing_ok=True)
            overlay(path, str(self.base))
            qemu_io(path, "write -P 7 0 64k")
        _base_note.protect(str(self.base), [str(path) for path in paths])
        assert self.mode() == 0o444

    def domain(self, path: Path) -> str:
        self.uri = self.hv.uri
        return self.make_domain([Disk(path, "qcow2")], kernel=False).name

    def mode(self) -> int:
        return self.base.stat().st_mode & 0o7777

    def noted(self) -> list[str]:
        note = _base_note.look(str(self.base))
        assert note is not None
        return sorted(Path(path).name for path in note.overlays)

    def is_free(self) -> bool:
        note = _base_note.look(str(self.base))
        return self.mode() == 0o664 and note is not None and note.unused_since is not None


@pytest.fixture
def place(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Place:
    return Place(hv, images, make_domain)


Asked = tuple[str, dict[str, Any]]
Way = Callable[[Place, Path], Asked]


def removed(_place: Place, path: Path) -> Asked:
    return "qcow2_image", {"path": str(path), "state": "absent"}


def made_independent(_place: Place, path: Path) -> Asked:
    return "qcow2_image", {"path": str(path), "backing_file": "", "rebase": "safe", "trusted": True}


def given_another_base(place: Place, path: Path) -> Asked:
    other = {"backing_file": str(place.other), "backing_format": "qcow2"}
    return "qcow2_image", {"path": str(path), **other, "rebase": "safe", "trusted": True}


def replaced(place: Place, path: Path) -> Asked:
    source = {"src": str(place.other), "src_format": "qcow2"}
    return "qcow2_convert", {**source, "dest": str(path), "update": "always", "format": "qcow2"}


def converted_away(_place: Place, path: Path) -> Asked:
    source = {"src": str(path), "src_format": "qcow2", "remove_src": True, "trusted": True}
    return "qcow2_convert", {**source, "dest": f"{path}.raw", "format": "raw"}


def merged(_place: Place, path: Path) -> Asked:
    return "qcow2_commit", {"path": str(path), "remove": True, "trusted": True}


def converted(place: Place, path: Path) -> Asked:
    disk = {"name": place.domain(path), "disk": "vda", "trusted": True}
    return "vm_disk_convert", {**disk, "format": "raw", "keep_source": False}


def flattened(place: Place, path: Path) -> Asked:
    return "vm_disk_flatten", {"name": place.domain(path), "disk": "vda", "trusted": True}


WAYS: list[Way] = [
    removed,
    made_independent,
    given_another_base,
    replaced,
    converted_away,
    merged,
    converted,
    flattened,
]


@pytest.mark.parametrize("way", WAYS)
def test_the_last_overlay_sets_its_base_free(place: Place, way: Way) -> None:
    place.protected("last")
    module, asked = way(place, place.directory / "last")
    params = {**asked, "uri": place.uri}
    predicted = run_module(module, params, check=True)
    assert place.mode() == 0o444
    result = run_module(module, params)
    assert result.get("changed"), result
    assert (predicted["actions"], "warnings" in result) == (result["actions"], False)
    assert place.is_free()


def test_one_that_is_not_the_last_is_forgotten(place: Place) -> None:
    place.protected("first", "last")
    module, asked = made_independent(place, place.directory / "first")
    assert run_module(module, {**asked, "uri": NOBODY})["changed"]
    assert (place.mode(), place.noted()) == (0o444, ["last"])


#: When the overlay has gone, and the base is about to be looked at.
AT_THE_END = [
    (removed, "fsync 2"),
    (merged, "fsync 8"),
    (converted, "virDomainDefineXMLFlags 2"),
    (flattened, "virDomainDefineXMLFlags 1"),
]


@pytest.mark.parametrize(("way", "point"), AT_THE_END)
def test_killed_right_before_the_next_run_does(place: Place, way: Way, point: str) -> None:
    place.protected("last")
    module, asked = way(place, place.directory / "last")
    params = {**asked, "uri": place.uri}
    killed_at(point, params, module=module)
    assert place.mode() == 0o444
    assert not _base_note.reads(str(place.directory / "last"), str(place.base)), "the work itself was done"
    again = run_module(module, params)
    assert again.get("changed"), again
    assert place.is_free()
    assert not run_module(module, params)["changed"]


def test_a_snapshot_that_is_merged_into_a_base_leaves_it_as_it_was_before_it_was_one(place: Place) -> None:
    name = place.domain(place.base)
    place.protected("clone")
    asked = {"name": name, "snapshot": "s", "uri": place.uri}
    assert run_module("vm_disk_snapshot", asked).get("changed")
    assert place.noted() == ["clone", "golden.s.qcow2"], "what comes to read a base is noted, too"
    assert run_module("qcow2_image", {"path": str(place.directory / "clone"), "state": "absent"})["changed"]
    assert (place.mode(), place.noted()) == (0o444, ["golden.s.qcow2"])
    assert run_module("vm_disk_snapshot", {**asked, "state": "absent"}).get("changed")
    assert place.is_free()


def test_an_overlay_that_nobody_noted_keeps_its_base_protected(place: Place) -> None:
    place.protected("last")
    by_hand = overlay(place.images / "by-hand", str(place.base))
    module, asked = removed(place, place.directory / "last")
    assert run_module(module, {**asked, "uri": NOBODY})["changed"]
    assert (place.mode(), place.noted()) == (0o444, [])
    by_hand.unlink()
    grown = {"path": str(place.base), "size": "2M", "uri": NOBODY}
    assert run_module("qcow2_image", grown)["changed"]
    assert place.is_free(), "whoever changes a base sees that nobody reads it any more"


def test_a_base_whose_image_is_replaced_by_its_like_stays_one(place: Place) -> None:
    place.base.unlink()
    overlay(place.base, str(place.other)).chmod(0o664)
    place.protected("last")
    inode = place.base.stat().st_ino
    flat = {"name": place.domain(place.base), "disk": "vda", "trusted": True, "uri": place.uri}
    assert run_module("vm_disk_flatten", flat).get("changed")
    assert place.base.stat().st_ino != inode
    assert (place.mode(), place.noted()) == (0o444, ["last"])
    module, asked = removed(place, place.directory / "last")
    assert run_module(module, {**asked, "uri": place.uri})["changed"]
    assert place.is_free()


def test_a_note_that_cannot_be_changed_is_warned_of_and_the_work_is_done(place: Place) -> None:
    place.protected("last")
    blocked = place.images / ".golden.qcow2.kvmops-base.new"
    blocked.mkdir()
    module, asked = removed(place, place.directory / "last")
    result = run_module(module, {**asked, "uri": NOBODY})
    assert result["changed"]
    assert "cannot note beside it" in str(result["warnings"])
    assert not (place.directory / "last").exists()
