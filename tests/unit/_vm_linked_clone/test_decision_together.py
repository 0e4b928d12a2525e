# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the clones that are to go may go together, and in which order."""

from __future__ import annotations

import tracemalloc

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, HasDependents, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_together import Going, Together, Use


def image(name: str, *readers: str, users: tuple[User, ...] = (), locked: bool = False) -> Going:
    """A clone with one image, which the images of the clones READERS read."""
    path = f"/d/{name}"
    read_by = tuple((f"/d/{one}", f"/d/{one}") for one in readers)
    return Going(name, name.upper(), (Use(path, path, read_by, users, locked),))


def user(name: str) -> User:
    return User(name, name.upper(), False, "vda", "disk", "/d/a")


def test_clones_of_clones_go_first() -> None:
    together = Together([image("a", "b", "c"), image("b", "d"), image("c"), image("d")])
    assert together.refusals() == {}
    assert list(together.waves()) == [["c", "d"], ["b"], ["a"]]


def test_images_that_read_each_other_in_a_circle_go_at_once() -> None:
    assert list(Together([image("a", "b"), image("b", "a"), image("c")]).waves()) == [["c"], ["a", "b"]]


def test_what_a_stranger_reads_stays_and_so_does_what_that_reads() -> None:
    together = Together([image("a", "b"), image("b", "stranger"), image("c")])
    refused = together.refusals()
    assert set(refused) == {"a", "b"}
    assert isinstance(refused["b"], HasDependents)
    assert "/d/stranger" in str(refused["b"])
    assert "/d/b" in str(refused["a"]), "it would have gone with the one that stays"
    assert list(together.waves()) == [["c"]]


def test_what_another_domain_has_as_a_disk_stays_unless_that_goes_too() -> None:
    alone = Together([image("a", users=(user("a"), user("b")))])
    assert isinstance(alone.refusals()["a"], ImageInUse)
    assert Together([image("a", users=(user("a"), user("b"))), image("b")]).refusals() == {}


def test_what_somebody_has_open_stays() -> None:
    with pytest.raises(ImageInUse, match="a process that libvirt does not know"):
        Together([]).require_unshared(image("a", locked=True))


def test_a_clone_that_could_not_be_removed_keeps_what_it_reads() -> None:
    together = Together([image("a", "b"), image("b")])
    together.require_unshared(image("a", "b"))
    with pytest.raises(DiskError, match="/d/b"):
        together.without(["b"]).require_unshared(image("a", "b"))


def test_a_clone_uses_its_own_files() -> None:
    path = "/d/pc-1"
    own = Going("pc-1", "PC-1", (Use(path, path, (("/d/pc-1.s1", "/d/pc-1.s1"),)), Use("/d/pc-1.s1", "/d/pc-1.s1")))
    Together([]).require_unshared(own)


class Name(str):
    """The name of a domain that counts how often it is looked for."""

    sought = 0

    def __hash__(self) -> int:
        Name.sought += 1
        return super().__hash__()


def sought_for(number: int) -> int:
    """How often names are looked for until it is known in which order so many clones and clones of them go."""
    Name.sought = 0
    clones = [image(Name(f"{one}"), f"{one}-clone") for one in range(number)]
    together = Together([*clones, *(image(Name(f"{one}-clone")) for one in range(number))])
    assert [len(wave) for wave in together.waves()] == [number, number]
    return Name.sought


def test_twice_as_many_clones_are_put_in_order_with_twice_the_work() -> None:
    assert sought_for(200) <= 2 * sought_for(100)


def test_to_decide_on_one_clone_nobody_lists_all_of_them() -> None:
    clones = [image(f"{one}", users=(User(f"{one}", f"{one}", False, "vda", "disk", "/d"),)) for one in range(10_000)]
    together = Together(clones)
    tracemalloc.start()
    try:
        together.require_unshared(clones[0])
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000
