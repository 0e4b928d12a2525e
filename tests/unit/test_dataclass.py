# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The library's data classes do what the standard library's do: each test is about both."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
import types
import typing as t

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils import _dataclass

CLASSES = '''
from __future__ import annotations
import typing as t

@dataclass(frozen=True)
class Disk:
    """A fact with all kinds of fields."""

    target: str
    size: int
    index: str | None = field(default=None, compare=False)
    chain: tuple[Disk, ...] = ()
    labels: dict[str, str] = field(default_factory=dict, compare=False)
    kinds: t.ClassVar[int] = 3

    @property
    def name(self):
        return f"/dev/{self.target}"

@dataclass(frozen=True)
class Partition(Disk):
    number: int = 1

@dataclass(frozen=True)
class Whole(Disk):
    """The same under another name."""

@dataclass
class Work:
    disk: Disk
    done: list[str] = field(default_factory=list, init=False)
    began: bool = field(default=False, init=False)

@dataclass
class Copy:
    disk: Disk
    name: str = field(init=False)

    def __post_init__(self):
        self.name = f"copy of {self.disk.target}"

@dataclass(frozen=True)
class Path:
    name: str

    def __eq__(self, other):
        return isinstance(other, Path) and self.name.lower() == other.name.lower()

    def __hash__(self):
        return hash(self.name.lower())

@dataclass(frozen=True)
class Flag:
    is_set: bool

    def __bool__(self):
        return self.is_set
'''


@pytest.fixture(params=[dataclasses, _dataclass], ids=["standard", "library"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> t.Any:
    """A module with the classes, defined by the one and by the other, beside their functions."""
    module = types.ModuleType("made")
    monkeypatch.setitem(sys.modules, "made", module)
    for name in ("asdict", "dataclass", "field", "replace"):
        setattr(module, name, getattr(request.param, name))
    exec(compile(CLASSES, "made", "exec"), vars(module))
    return module


def test_values_are_taken_in_order_and_by_name(made: t.Any) -> None:
    disk = made.Disk("vda", 10, chain=(made.Disk("vdb", 5),))
    assert (disk.target, disk.size, disk.index, disk.labels, disk.name) == ("vda", 10, None, {}, "/dev/vda")
    assert disk.chain[0].size == 5
    assert made.Disk.kinds == disk.kinds == 3


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        (("vda",), {}),
        (("vda",), {"target": "vdb"}),
        (("vda", 1), {"target": "vdb"}),
        (("vda", 1), {"unknown": 1}),
        (("vda", 1), {"kinds": 1}),
        (("vda", 1, None, (), {}, 7), {}),
    ],
)
def test_a_value_too_many_or_too_few_is_a_type_error(
    made: t.Any, values: tuple[t.Any, ...], named: dict[str, t.Any]
) -> None:
    with pytest.raises(TypeError):
        made.Disk(*values, **named)


def test_a_field_that_nobody_gives_cannot_be_given(made: t.Any) -> None:
    with pytest.raises(TypeError):
        made.Work(made.Disk("vda", 1), began=True)


def test_a_class_fills_what_it_makes_of_the_others_itself(made: t.Any) -> None:
    assert made.Copy(made.Disk("vda", 1)).name == "copy of vda"
    with pytest.raises(TypeError):
        made.Copy()
    with pytest.raises(TypeError):
        made.Copy(made.Disk("vda", 1), "copy")


def test_each_instance_has_a_default_of_its_own(made: t.Any) -> None:
    one, other = (made.Work(made.Disk("vda", 1)) for _time in range(2))
    one.done.append("copy")
    one.began = True
    assert (one.done, other.done, other.began) == (["copy"], [], False)


def test_what_is_frozen_cannot_be_changed(made: t.Any) -> None:
    disk = made.Disk("vda", 10)
    with pytest.raises(AttributeError):
        disk.size = 11
    with pytest.raises(AttributeError):
        del disk.size
    with pytest.raises(AttributeError):
        made.Partition("vda", 10).number = 2
    assert disk.size == 10


def test_facts_are_equal_by_the_fields_that_count(made: t.Any) -> None:
    disk = made.Disk("vda", 10, "3")
    assert disk == made.Disk("vda", 10, "4")
    assert hash(disk) == hash(made.Disk("vda", 10, "4"))
    assert disk != made.Disk("vda", 11, "3")
    assert disk != made.Whole("vda", 10, "3")
    assert disk != ("vda", 10, "3")


def test_what_can_change_has_no_hash(made: t.Any) -> None:
    work = made.Work(made.Disk("vda", 10))
    assert work == made.Work(made.Disk("vda", 10))
    with pytest.raises(TypeError):
        hash(work)


def test_methods_of_the_class_itself_stay(made: t.Any) -> None:
    assert made.Path("A") == made.Path("a")
    assert len({made.Path("A"), made.Path("a")}) == 1
    assert not made.Flag(False)


def test_a_class_has_the_fields_that_it_inherits_first(made: t.Any) -> None:
    assert repr(made.Partition("vda", 10, number=2)) == (
        "Partition(target='vda', size=10, index=None, chain=(), labels={}, number=2)"
    )
    assert [*made.Partition.__dataclass_fields__][-1] == "number"


def test_a_copy_with_changes_keeps_the_rest(made: t.Any) -> None:
    disk = made.Partition("vda", 10, "3", number=2)
    other = made.replace(disk, size=20)
    assert (type(other), other.size, other.index, other.number, disk.size) == (made.Partition, 20, "3", 2, 10)
    work = made.Work(disk)
    work.done.append("copy")
    assert made.replace(work, disk=other).done == []
    with pytest.raises(TypeError):
        made.replace(disk, unknown=1)


def test_facts_become_dictionaries_all_the_way_down(made: t.Any) -> None:
    disk = made.Disk("vda", 10, chain=(made.Disk("vdb", 5),), labels={"a": "b"})
    below = {"target": "vdb", "size": 5, "index": None, "chain": (), "labels": {}}
    assert made.asdict(disk) == {**below, "target": "vda", "size": 10, "chain": (below,), "labels": {"a": "b"}}


def test_facts_can_be_copied_and_sent_away(made: t.Any) -> None:
    disk = made.Disk("vda", 10, "3")
    for other in (copy.deepcopy(disk), pickle.loads(pickle.dumps(disk))):
        assert (other, other.index) == (disk, "3")
