# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A returned key means one thing, says it in one wording, and a long block of keys stands once.

A key is known by its place: whether it comes with a failure, the key of the structure that holds it (one of them or a
list of them: ``image``, ``images``), and its own name. The first paragraph of its description is the same in all
modules; what is special in one of them stands in paragraphs of their own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from unit.documentation import MODULES, block, options

#: Keys of one structure that two modules may both describe; one that shares more refers to the other.
SHARED_KEYS = 5


@dataclass(frozen=True)
class Place:
    """Where a key stands. *structure* is empty at the top."""

    fails: bool
    structure: str
    name: str

    def __str__(self) -> str:
        return " ".join(filter(None, ("failure" if self.fails else "", self.structure, self.name)))


@dataclass(frozen=True)
class Key:
    """What one module says of a key."""

    module: str
    place: Place
    paragraphs: tuple[str, ...]
    shape: str


def keys() -> list[Key]:
    return [key for module in MODULES for key in _keys(module, block(module, "RETURN"))]


def _keys(module: str, fields: dict[str, Any], structure: str = "", fails: bool = False) -> Iterator[Key]:
    for name, field in fields.items():
        failing = fails or (not structure and field["returned"] == "failure")
        said = field["description"]
        yield Key(
            module,
            Place(failing, structure, name),
            tuple([said] if isinstance(said, str) else said),
            _shape(field),
        )
        yield from _keys(module, field.get("contains", {}), name.removesuffix("s"), failing)


def _shape(field: dict[str, Any]) -> str:
    """The type. A dictionary and a list of them hold the same keys: Ansible takes either for a diff."""
    shape = " of ".join(field[part] for part in ("type", "elements") if part in field)
    return shape.removeprefix("list of ") if shape == "list of dict" else shape


def differing(said: Callable[[Key], str]) -> dict[str, dict[str, list[str]]]:
    """The places of which not all modules say the same, with the modules by what they say."""
    found: dict[Place, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key in keys():
        found[key.place][said(key)].append(key.module)
    return {str(place): dict(modules) for place, modules in found.items() if len(modules) > 1}


def test_a_key_begins_with_the_same_words_in_all_modules() -> None:
    assert differing(lambda key: key.paragraphs[0]) == {}


def test_a_key_has_the_same_type_in_all_modules() -> None:
    assert differing(lambda key: key.shape) == {}


def test_what_a_shared_option_makes_of_a_key_is_said_in_the_same_words() -> None:
    """Of the paragraphs after the first, which are a module's own, those that speak of an option of a fragment."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in keys():
        shared = _options_of_fragments(key.module)
        for paragraph in key.paragraphs[1:]:
            for option in shared.intersection(re.findall(r"O\((\w+)", paragraph)):
                found[str(key.place), option].add(paragraph)
    assert found
    assert {place: said for place, said in found.items() if len(said) > 1} == {}


def _options_of_fragments(module: str) -> set[str]:
    return options(module) - set(block(module, "DOCUMENTATION").get("options") or ())


def test_a_long_block_of_keys_stands_in_one_module() -> None:
    described: dict[tuple[str, str], set[str]] = defaultdict(set)
    for key in keys():
        if key.place.structure:
            described[key.module, key.place.structure].add(key.place.name)
    repeated = {
        (structure, one, other): sorted(shared)
        for (one, structure), (other, same) in combinations(sorted(described), 2)
        if structure == same and len(shared := described[one, structure] & described[other, structure]) > SHARED_KEYS
    }
    assert repeated == {}, "let one of the two refer to the other, with RV()"
