# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Text that others wrote, made fit for a person's terminal: names, headers, metadata, what tools say."""

from __future__ import annotations

import typing as t

#: What a module returns for a person to read, at whatever depth.
_SAID = frozenset(["msg", "actions", "warnings", "problem", "problems"])


def visible(text: str) -> str:
    """*text* with an escape such as ``\\\\x1b`` or ``\\\\n`` for each character that a terminal or a log would act
    upon, or that turns the order of others around."""
    return text if text.isprintable() else "".join(one if one.isprintable() else _escaped(one) for one in text)


def visible_result(result: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What a module returns, with all that it says made visible, and its texts to compare, but for their lines; names
    as such are data and stay as they are."""
    return {key: _visible(value, key) for key, value in result.items()}


def _visible(value: t.Any, key: str) -> t.Any:
    if isinstance(value, dict):
        return {one: _visible(two, one) for one, two in value.items()}
    if isinstance(value, (list, tuple)):
        return [_visible(one, key) for one in value]
    if not isinstance(value, str):
        return value
    if key in _SAID:
        return visible(value)
    return "\n".join(map(visible, value.split("\n"))) if key in ("before", "after", "prepared") else value


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
