# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The backing chains of a host as a picture: where each image stands, and which lines join them.

Bases are on the left, what reads them is on their right, so that each column is one link further from the base.
"""

from __future__ import annotations

import typing as t
from collections import defaultdict
from dataclasses import asdict, dataclass

from ansible_collections.kvmops.disk.plugins.plugin_utils._report_host import LEVELS, Host, short_size

WIDTH, HEIGHT = 232, 46
_ACROSS, _DOWN = 288, 58
_MARGIN = 4
#: Of siblings on which nothing stands, and which are all well or all have one trouble, so many are drawn.
_MOST_SIBLINGS = 12
#: Of images that stand on nothing, so many are drawn with all that stands on them.
_MOST_ROOTS = 40
#: Characters that fit into a box, of a name and, beside two sizes, of a domain.
_LONGEST, _LONGEST_USER = 26, 12


@dataclass(frozen=True)
class Node:
    """An image in the picture, with the place of its upper left corner."""

    x: int
    y: int
    path: str
    name: str
    text: str
    level: str
    kind: str


class Picture:
    """The picture of one host's chains, as plain lists and dictionaries."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._nodes: list[Node] = []
        self._lines: list[dict[str, int]] = []
        self._rows = 0
        self._columns = 0
        self._drawn: set[str] = set()
        overlays = {path: image["dependents"] for path, image in host.images.items() if image["dependents"]}
        for image in host.images.values():
            for missing in image["missing"]:
                overlays.setdefault(missing, []).append(image["path"])
        self._overlays = overlays
        read = {overlay for found in overlays.values() for overlay in found}
        roots = sorted(set(overlays) - read)
        drawn = self._roots_drawn(roots)
        self._left_out = len(roots) - len(drawn)
        for root in roots:
            if root in drawn:
                self._draw(root, 0)
            else:
                self._drawn |= self._tree(root)
        for one in sorted(overlays):  # those of a circle have no root
            if one not in self._drawn:
                self._draw(one, 0)

    def _roots_drawn(self, roots: t.Sequence[str]) -> set[str]:
        """The roots that are drawn: of many those with the worst trouble."""
        if len(roots) <= _MOST_ROOTS:
            return set(roots)
        worst = {root: min(LEVELS.index(self._host.health(one).level) for one in self._tree(root)) for root in roots}
        return set(sorted(roots, key=worst.__getitem__)[:_MOST_ROOTS])

    def _tree(self, root: str) -> set[str]:
        """The image at *root*, and all that stands on it."""
        found, ahead = {root}, [root]
        while ahead:
            above = set(self._overlays.get(ahead.pop(), ())) - found
            found |= above
            ahead += above
        return found

    def facts(self) -> dict[str, t.Any] | None:
        """The nodes, the lines and the size; None where no image stands on another one."""
        if not self._nodes:
            return None
        return {
            "nodes": [asdict(node) for node in self._nodes],
            "lines": self._lines,
            "width": self._columns * _ACROSS - (_ACROSS - WIDTH) + 2 * _MARGIN,
            "height": self._rows * _DOWN - (_DOWN - HEIGHT) + 2 * _MARGIN,
            "left_out": self._left_out,
            "node_width": WIDTH,
            "node_height": HEIGHT,
        }

    def _draw(self, path: str, column: int) -> int:
        """Draws the image and all that stands on it; returns the row of its middle."""
        self._drawn.add(path)
        self._columns = max(self._columns, column + 1)
        below = [one for one in sorted(self._overlays.get(path, ())) if one not in self._drawn]
        shown, more = self._shown(below)
        rows = [self._draw(one, column + 1) for one in shown if one not in self._drawn]
        for (text, level), number in more.items():
            rows.append(self._place(column + 1, self._next_row(), "", f"and {number} more", text, level, "more"))
        y = (rows[0] + rows[-1]) // 2 if rows else self._next_row()
        self._lines += [
            {"x1": self._x(column) + WIDTH, "y1": y + HEIGHT // 2, "x2": self._x(column + 1), "y2": row + HEIGHT // 2}
            for row in rows
        ]
        return self._draw_node(path, column, y)

    def _shown(self, paths: t.Sequence[str]) -> tuple[list[str], dict[tuple[str, str], int]]:
        """Which of siblings are drawn, and how many are not, by how they are: in words, and how bad that is."""
        alike: dict[tuple[str, str], list[str]] = defaultdict(list)
        for one in paths:
            if one not in self._overlays:
                health = self._host.health(one)
                alike["all sound" if health.level == "good" else health.word, health.level].append(one)
        left_out = {how: found[_MOST_SIBLINGS:] for how, found in alike.items() if len(found) > _MOST_SIBLINGS + 1}
        hidden = {one for found in left_out.values() for one in found}
        self._drawn |= hidden
        return [one for one in paths if one not in hidden], {how: len(found) for how, found in left_out.items()}

    def _draw_node(self, path: str, column: int, y: int) -> int:
        name = path.rsplit("/", 1)[-1]
        image = self._host.images.get(path)
        if image is None:
            return self._place(column, y, path, name, "missing", "critical", "missing")
        health = self._host.health(path)
        sizes = short_size(image["actual_size"])
        if image["virtual_size"] is not None:
            sizes += f" of {short_size(image['virtual_size'])}"
        user = _shortened(image["domains"][0], _LONGEST_USER) if image["domains"] and not image["dependents"] else ""
        text = " · ".join(filter(None, (user, sizes if health.level == "good" else health.word)))
        kind = "base" if image["dependents"] else "top"
        return self._place(column, y, path, name, text, health.level, kind)

    def _place(self, column: int, y: int, path: str, name: str, text: str, level: str, kind: str) -> int:
        self._columns = max(self._columns, column + 1)
        self._nodes.append(Node(self._x(column), y, path, _shortened(name), text, level, kind))
        return y

    def _next_row(self) -> int:
        self._rows += 1
        return _MARGIN + (self._rows - 1) * _DOWN

    @staticmethod
    def _x(column: int) -> int:
        return _MARGIN + column * _ACROSS


def _shortened(text: str, longest: int = _LONGEST) -> str:
    """The beginning and the end of a long name, by which images are told apart."""
    if len(text) <= longest:
        return text
    end = longest // 2
    return f"{text[: longest - end - 1]}…{text[-end:]}"
