# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that libvirt's schema allows below a <disk>, and a disk that has all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lxml import etree

#: Installed with libvirt.
SCHEMAS = Path("/usr/share/libvirt/schemas")
RNG = "{http://relaxng.org/ns/structure/1.0}"
#: Where one disk has its own image, and two below it.
PLAIN = """<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/i/top.qcow2'/>
<backingStore type='file'><format type='qcow2'/><source file='/i/mid.qcow2'/>
<backingStore type='file'><format type='raw'/><source file='/i/base.raw'/><backingStore/></backingStore></backingStore>
<target dev='vda' bus='virtio'/></disk>"""


def allowed() -> list[str]:
    """The paths of elements and attributes ("source/seclabel", "source/seclabel/@model"), of one backing file, too."""
    defines: dict[str, list[etree._Element]] = {}
    schemas = ["domain.rng"]
    for name in schemas:
        schema = etree.parse(SCHEMAS / name)
        schemas += [one for node in schema.iter(f"{RNG}include") if (one := str(node.get("href"))) not in schemas]
        for define in schema.iter(f"{RNG}define"):
            defines.setdefault(str(define.get("name")), []).append(define)
    (disk,) = (node for node in defines["disk"][0].iter(f"{RNG}element") if node.get("name") == "disk")
    return sorted(set(_below(disk, "", defines, ())))


def _below(
    node: etree._Element, path: str, defines: dict[str, list[etree._Element]], inside: tuple[str, ...]
) -> Iterator[str]:
    for child in node:
        name = str(child.get("name"))
        if child.tag == f"{RNG}attribute" and child.get("name"):
            yield f"{path}@{name}"
        elif child.tag == f"{RNG}element" and child.get("name"):
            yield f"{path}{name}"
            yield from _below(child, f"{path}{name}/", defines, inside)
        elif child.tag == f"{RNG}ref" and name not in inside:
            for define in defines[name]:
                yield from _below(define, path, defines, (*inside, name))
        elif isinstance(child.tag, str):
            yield from _below(child, path, defines, inside)


def full_disk(paths: list[str]) -> str:
    """A <disk> with each of PATHS; what PLAIN does not have, has its path as value, without backingStore."""
    disk = etree.fromstring(PLAIN)
    for path in paths:
        node = disk
        *parents, last = path.split("/")
        for name in parents:
            node = _child(node, name)
        if not last.startswith("@"):
            _child(node, last)
        elif last[1:] not in node.attrib and not _names_another_image(path, last[1:]):
            node.set(last[1:], path.replace("backingStore/", ""))
    for element in disk.iter():
        if not len(element) and not element.attrib and element.tag != "backingStore":
            element.text = "text"
    return str(etree.tostring(disk, encoding="unicode"))


def missing(xml: str, paths: list[str], disk: str) -> set[str]:
    """Those of PATHS that DISK has, and the disk of the domain XML has not, or otherwise."""
    before, after = etree.fromstring(disk), etree.fromstring(xml).find(".//devices/disk")
    assert after is not None
    return {path for path in paths if _said(before, path) not in (None, _said(after, path))}


def _said(disk: etree._Element, path: str) -> str | None:
    """The value of an attribute, or the text of an element; None where it is not there."""
    place, at, attribute = path.rpartition("@")
    if at:
        node = disk.find(place.rstrip("/")) if place else disk
        return None if node is None else node.get(attribute)
    node = disk.find(path)
    return None if node is None else (node.text or "").strip()


def _child(node: etree._Element, name: str) -> etree._Element:
    found = node.find(name)
    return etree.SubElement(node, name) if found is None else found


def _names_another_image(path: str, attribute: str) -> bool:
    """Whether the attribute would make the source another kind of source."""
    return path.rsplit("/", 2)[-2:-1] == ["source"] and attribute in ("dev", "dir", "pool", "volume", "name")
