# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XML texts compared by what they say, and shown side by side to a person."""

from __future__ import annotations

import difflib
import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

_SECRET = r"""(\spasswd=)(?:'[^']*'|"[^"]*")"""


def canonical(root: t.Any) -> bytes:
    """The XML with everything that says nothing made equal: attribute order, quoting, indentation."""
    for element in root.iter():
        if len(element) and not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    return t.cast(bytes, _document.etree.tostring(root, method="c14n"))


def alike(one: t.Any, other: t.Any) -> bool:
    """Whether two elements say the same, whatever their prefixes, indentation and the order of their attributes."""
    texts = [(node.text or "").strip() for node in (one, other)]
    return bool(
        one.tag == other.tag
        and dict(one.attrib) == dict(other.attrib)
        and texts[0] == texts[1]
        and len(one) == len(other)
        and all(alike(*pair) for pair in zip(one, other))
    )


def pretty(xml: str) -> str:
    """*xml* with lxml's quoting and an indentation of its own, to be compared line by line."""
    root = _document.parse(xml)
    canonical(root)
    _document.etree.indent(root)
    return _document.text(root)


def unified_diff(before: str, after: str, before_name: str = "before", after_name: str = "after") -> str:
    """The unified diff of two XML texts, passwords hidden."""
    lines = difflib.unified_diff(
        re.sub(_SECRET, r"\1'********'", before).splitlines(),
        re.sub(_SECRET, r"\1'********'", after).splitlines(),
        before_name,
        after_name,
        lineterm="",
    )
    return "".join(line + "\n" for line in lines)
