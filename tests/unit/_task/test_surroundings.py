# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else has to do with an image: asked when it matters, once for a decision, and told in one way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
from ansible_collections.kvmops.disk.plugins.module_utils._errors import HasDependents, ImageInUse, NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage.counting import running, running_as_disk
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Unresolved, User
from unit.qcow2_header import Made
from unit.samples import NO_QEMU_IMG

GIB = 1 << 30


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "golden.qcow2"
    path.write_bytes(bytes(Made()))
    return str(path)


def surroundings(
    *users: User, search_paths: tuple[str, ...] = (), unresolved: tuple[Unresolved, ...] = ()
) -> Surroundings:
    """Those of a host without libvirt, where USERS are known all the same."""
    found = Surroundings(Libvirts, search_paths, warn=pytest.fail)
    found.users, found.unresolved = [*users], [*unresolved]
    return found


def user(path: str, *, active: bool = True, role: str = "disk") -> User:
    return User("vm", "u", active, "vda", role, path)


def test_libvirt_is_asked_when_it_matters_and_once() -> None:
    asked: list[str] = []
    warnings: list[str] = []

    def ask() -> Libvirts:
        asked.append("libvirt")
        return Libvirts(unasked=("libvirt was not asked",))

    found = Surroundings(ask, warn=warnings.append)
    assert asked == []
    assert (found.users, found.users) == ([], [])
    found.refresh_pools(["/images/web.qcow2"])
    assert asked == ["libvirt"]
    assert warnings == ["libvirt was not asked"]


def test_who_counts_as_a_user_is_up_to_the_task(base: str) -> None:
    off, on, below = user(base, active=False), user(base), user(base, role="backing file of")
    surroundings(off).require_unused(base, "write it", running)
    surroundings(off, below).require_unused(base, "read it", running_as_disk)
    for found, by in ((surroundings(on), running), (surroundings(below), running), (surroundings(on), running_as_disk)):
        with pytest.raises(ImageInUse, match=r"in use by running domain vm .*asked to write it") as caught:
            found.require_unused(base, "write it", by)
        assert caught.value.facts["in_use_by"][0]["domain"] == "vm"
    with pytest.raises(ImageInUse, match="defined domain vm"):
        surroundings(off).require_unused(base, "write it")


def test_a_claim_on_an_unknown_file_may_be_on_any_that_is_there(base: str, tmp_path: Path) -> None:
    off = Unresolved("vm", "u", False, "vda", "disk", "the volume a of the pool p cannot be found: start the pool")
    found = surroundings(unresolved=(off,))
    with pytest.raises(ImageInUse, match=r"may be in use by defined domain vm \(disk vda\).*start the pool") as caught:
        found.require_unused(base, "remove it")
    assert caught.value.facts["in_use_by"][0] == {
        "domain": "vm",
        "uuid": "u",
        "running": False,
        "target": "vda",
        "role": "disk",
        "path": None,
        "format": None,
    }
    found.require_unused(base, "change it", running)
    found.require_unused(str(tmp_path / "new"), "put a new image there")
    device = Unresolved("vm", "u", False, "vda", "disk", "not found", device=True)
    surroundings(unresolved=(device,)).require_unused(base, "remove it")


def test_overlays_are_found_in_the_directories_of_the_task_and_the_way_out_is_told(base: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "clones"
    elsewhere.mkdir()
    overlay = elsewhere / "web.qcow2"
    overlay.write_bytes(bytes(Made(backing=os.fsencode(base))))
    surroundings().require_no_dependents(base, "write it")
    found = surroundings(search_paths=(str(elsewhere),))
    assert found.readers([base]).of(base) == [str(overlay)]
    with pytest.raises(HasDependents, match="set allow_dependents=true to give them up"):
        found.require_no_dependents(base, "write it")
    with pytest.raises(HasDependents, match="or keep it"):
        found.require_no_dependents(base, "write it", "keep it")


def test_promises_are_only_counted_where_the_task_limits_them(tmp_path: Path) -> None:
    new = [NewImage(str(tmp_path / "new.qcow2"), 1 << 62)]
    never = Surroundings(lambda: pytest.fail("nobody is to be asked"), warn=pytest.fail)
    never.require_promises(new, None, NO_QEMU_IMG)
    never.require_promises([], 1.2, NO_QEMU_IMG)
    with pytest.raises(NotEnoughSpace, match=r"max_overcommit is 1\.2"):
        surroundings().require_promises(new, 1.2, NO_QEMU_IMG)
