# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the record of an operation says: every fact that a run may note, and the shape that it has."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._files.state import is_identity, is_name, is_number, parsed

Shape = t.Callable[[t.Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _maybe(shape: Shape) -> Shape:
    return lambda value: value is None or shape(value)


def _each(shape: Shape) -> Shape:
    return lambda value: isinstance(value, list) and all(map(shape, value))


def _by_name(shape: Shape) -> Shape:
    return lambda value: isinstance(value, dict) and all(is_name(name) and shape(one) for name, one in value.items())


def _is_owner(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(is_number(number) and number >= 0 for number in value)


#: The facts of a record, and what each looks like.
FACTS: t.Mapping[str, Shape] = {
    "verb": _is_text,
    "started": _is_text,
    "pid": is_number,
    "path": is_name,
    "place": is_name,
    "bases": _by_name(_each(is_name)),
    "before": lambda value: isinstance(value, dict),
    "after": lambda value: isinstance(value, dict),
    "domain": _is_text,
    "item": _is_text,
    "source": is_name,
    "dest": is_name,
    "removing": is_name,
    "new_file": is_identity,
    "runs": lambda value: isinstance(value, bool),
    "owners": _by_name(_is_owner),
    "stage": _is_text,
    "overlay": is_name,
    "base": is_name,
    "base_format": _is_text,
    "images": _each(is_name),
    "removes": _by_name(is_identity),
    "layer": _is_text,
    "snapshot": _maybe(_is_text),
    "snapshot_id": _maybe(_is_text),
}


def read_record(written: bytes, place: str) -> dict[str, t.Any]:
    """The facts of the record that stands at *place*.

    One that is cut off, has facts of other shapes, or was written for another place only says that something was in
    flight.
    """
    try:
        facts = parsed(written)
    except ValueError:
        return unknown()
    if not isinstance(facts, dict) or not all(name in FACTS and FACTS[name](value) for name, value in facts.items()):
        return unknown()
    return facts if facts.get("place", place) == place else unknown()


def unknown() -> dict[str, t.Any]:
    """The facts of a run of which nobody can tell what it did."""
    return {"verb": "unknown"}
