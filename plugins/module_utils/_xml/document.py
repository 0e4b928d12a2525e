# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only door to lxml: XML read, made, written and compared as text. What it says of domains is told by others."""

from __future__ import annotations

import re
import traceback
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, MissingLibrary

#: lxml's etree; loaded with the first XML, since most runs of an image module need none.
etree: t.Any = None

_SECRET = r"""(\spasswd=)(?:'[^']*'|"[^"]*")"""


def parse(xml: str) -> t.Any:
    """The root element of *xml*. Nothing outside of it is read: no entities, no network."""
    require_lxml()
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    return etree.fromstring(xml.encode(), parser)


def element(tag: str, attributes: t.Mapping[str, str] | None = None) -> t.Any:
    """A new element with *attributes*."""
    require_lxml()
    return etree.Element(tag, dict(attributes or {}))


def child(parent: t.Any, tag: str, attributes: t.Mapping[str, str] | None = None) -> t.Any:
    """A new element at the end of *parent*."""
    return etree.SubElement(parent, tag, dict(attributes or {}))


def text(root: t.Any) -> str:
    """*root* as it is written."""
    return t.cast(str, etree.tostring(root, encoding="unicode"))


def fragment(xml: str, what: str) -> list[t.Any]:
    """The elements that *xml*, a text without a root of its own, holds. Raises InvalidRequest where it is no XML, or
    an element has no namespace, which libvirt asks for in a domain's metadata; *what* names the parameter."""
    require_lxml()
    try:
        found = list(parse(f"<metadata>{xml}</metadata>"))
    except (etree.XMLSyntaxError, ValueError) as error:
        raise InvalidRequest(f"{what}: is not XML: {error}") from error
    elements = [node for node in found if isinstance(node.tag, str)]
    for node in elements:
        if namespace(node) is None:
            raise InvalidRequest(
                f"{what}: the element {node.tag} has no namespace, without which libvirt does not keep it: give it one "
                f'(<x:{node.tag} xmlns:x="https://example.org/x">)'
            )
    if not elements:
        raise InvalidRequest(f"{what}: holds no element: {xml!r}")
    return elements


def namespace(node: t.Any) -> str | None:
    """The namespace of an element; None where it has none, or is no element but a comment."""
    return t.cast("str | None", etree.QName(node).namespace) if isinstance(node.tag, str) else None


def local_name(name: str) -> str:
    """A tag or an attribute without its namespace."""
    return name.rsplit("}", 1)[-1]


def remove(node: t.Any) -> None:
    """Takes *node* out, with the white space that leads to it rather than what follows it."""
    before = node.getprevious()
    if before is not None:
        before.tail = node.tail
    node.getparent().remove(node)


def canonical(root: t.Any) -> bytes:
    """The XML with everything that says nothing made equal: attribute order, quoting, indentation."""
    for element in root.iter():
        if len(element) and not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    return t.cast(bytes, etree.tostring(root, method="c14n"))


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
    root = parse(xml)
    canonical(root)
    etree.indent(root)
    return text(root)


def unified_diff(before: str, after: str, before_name: str = "before", after_name: str = "after") -> str:
    """The unified diff of two XML texts, passwords hidden."""
    import difflib  # loaded where there is a difference

    lines = difflib.unified_diff(
        re.sub(_SECRET, r"\1'********'", before).splitlines(),
        re.sub(_SECRET, r"\1'********'", after).splitlines(),
        before_name,
        after_name,
        lineterm="",
    )
    return "".join(line + "\n" for line in lines)


def require_expressible(text: str, what: str) -> None:
    """Raises InvalidRequest where XML 1.0 has no way to say *text*: control characters, undecodable bytes."""
    require_lxml()
    try:
        etree.Element("x").set("x", text)
    except ValueError as error:
        raise InvalidRequest(f"{what}: {text!r} cannot stand in a domain's XML: {error}") from error
    if re.search(r"[\t\n\r]", text):
        raise InvalidRequest(f"{what}: {text!r} has a line break or a tab: libvirt does not keep those in a path")


def require_lxml() -> None:
    """Imports lxml, once. Raises MissingLibrary where it is not installed."""
    global etree  # pylint: disable=global-statement
    if etree is not None:
        return
    try:
        from lxml import etree as library
    except ImportError as error:
        raise MissingLibrary("lxml", "to read and edit the XML of a domain", traceback.format_exc()) from error
    etree = library
