# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes to the disks in a domain's XML, and what tells them from others."""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._xml import comparison as _comparison
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import image_properties as _image_properties
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, disks, source_file


@dataclass(frozen=True)
class DiskChange:
    """What a disk's definition is to become: the file, or the *block* device, at *path*, read as *format*.

    *keeps_chain*: the new one has the backing files of the one before it.
    """

    target: str
    path: str
    format: str
    keeps_chain: bool = False
    block: bool = False


def with_changes(xml: str, changes: t.Iterable[DiskChange]) -> str:
    """The domain's XML with other sources and driver types for some disks, and nothing else changed.

    A ``<backingStore>`` goes with the source that it described, unless the new one has the same. Raises DiskError
    where a disk is not in the XML.
    """
    domain = _document.parse(xml)
    for change in changes:
        change_disk(find_disk(domain, change.target), change)
    return _document.text(domain)


def change_disk(element: t.Any, change: DiskChange) -> None:
    """Gives a ``<disk>`` another source and driver type, in place. Raises DiskError where it has no source."""
    driver = element.find("driver")
    if driver is None:
        driver = _document.child(element, "driver", {"name": "qemu"})
        element.insert(0, driver)
    driver.set("type", change.format)
    _image_properties.drop_unfit(driver)
    source = element.find("source")
    if source is None:
        raise DiskError(f"{change.target}: the disk has no source in the domain's XML")
    _point_to(element, source, change)
    for stale in element.findall("backingStore") if not change.keeps_chain else ():
        _document.remove(stale)


def with_shorter_chain(xml: str, target: str, base: str | None) -> str:
    """The domain's XML whose disk *target* names *base*, and what is below it, as the backing files of its image; none
    where *base* is None.

    The same text where it says nothing of backing files, which libvirt then reads in the image. Raises DiskError where
    the disk, or *base*, is not in the XML.
    """
    domain = _document.parse(xml)
    top = find_disk(domain, target).find("backingStore")
    if top is None or (base is None and not top.get("type")):
        return xml
    kept = top
    while base is not None and source_file(kept.find("source")) != base:
        kept = kept.find("backingStore")
        if kept is None:
            raise DiskError(f"{target}: the domain's XML does not name the backing file {base}")
    if kept is top and base is not None:
        return xml
    kept = kept if base is not None else _document.element("backingStore")
    kept.tail = top.tail
    top.getparent().replace(top, kept)
    return _document.text(domain)


def with_chain(xml: str, target: str, links: t.Sequence[ChainLink]) -> str:
    """The domain's XML whose disk *target* names *links* as the backing files of its image, the upper ones first.

    The same text where it says nothing of backing files. Raises DiskError where the disk is not in the XML.
    """
    domain = _document.parse(xml)
    disk = find_disk(domain, target)
    old = disk.find("backingStore")
    if old is None:
        return xml
    chain = chain_element(links, _image_properties.known_links(disk))
    chain.tail = old.tail
    old.getparent().replace(old, chain)
    return _document.text(domain)


def with_image(xml: str, target: str, image: ChainLink, chain: t.Sequence[ChainLink] | None) -> str:
    """The domain's XML whose disk *target* has *image*, and names *chain* as the backing files of it, the upper ones
    first; where that is None it says nothing of them. The same text where it said so. Raises DiskError where the disk
    is not in the XML."""
    before = next((disk for disk in disks(xml) if disk.target == target), None)
    wanted = None if chain is None else tuple(chain)
    if before is not None and (before.source, before.format, before.chain) == (image.path, image.format, wanted):
        return xml
    domain = _document.parse(xml)
    element = find_disk(domain, target)
    known = _image_properties.known_links(element)
    change_disk(element, DiskChange(target, image.path or "", image.format or "raw"))
    if image.path in known:  # it was one of the backing files, of which the XML may have said something
        _image_properties.put_back(element, known[image.path])
    if wanted is not None:
        source = element.find("source")
        store = chain_element(wanted, known)
        store.tail = source.tail
        source.addnext(store)
    return _document.text(domain)


def without_link(xml: str, target: str, path: str) -> str:
    """The domain's XML whose disk *target* does not name *path* among its backing files, but what is below that one;
    the same text where it does not anyway. Raises DiskError where the disk is not in the XML."""
    domain = _document.parse(xml)
    link = find_disk(domain, target).find("backingStore")
    while link is not None and source_file(link.find("source")) != path:
        link = link.find("backingStore")
    if link is None:
        return xml
    below = link.find("backingStore")
    if below is None:  # what is further down is left to the image
        _document.remove(link)
    else:
        below.tail = link.tail
        link.getparent().replace(link, below)
    return _document.text(domain)


def chain_element(links: t.Sequence[ChainLink], known: t.Mapping[str, t.Any] | None = None) -> t.Any:
    """The ``<backingStore>`` that names *links*, the upper ones first; an empty one says that there are none.

    *known*: by path, what the XML said before of images that stay (image_properties.known_links).
    """
    chain = _document.element("backingStore")
    for link in reversed(links):
        said = (known or {}).get(link.path or "")
        below, chain = chain, _link_element(link) if said is None else copy.deepcopy(said)
        chain.find("format").set("type", link.format or "raw")
        chain.append(below)
    return chain


def _link_element(link: ChainLink) -> t.Any:
    kind, attribute = _kind(block=link.block)
    element = _document.element("backingStore", {"type": kind})
    _document.child(element, "format")
    _document.child(element, "source", {attribute: link.path or ""})
    return element


def copy_destination(path: str, image_format: str, *, block: bool = False) -> str:
    """The ``<disk>`` that a block copy is given: the file, or the block device, at *path*."""
    kind, attribute = _kind(block=block)
    element = _document.element("disk", {"type": kind, "device": "disk"})
    _document.child(element, "driver", {"name": "qemu", "type": image_format})
    _document.child(element, "source", {attribute: path})
    return _document.text(element)


def without_empty_metadata(xml: str) -> str:
    """The domain's XML without a ``<metadata>`` that holds nothing; the same text where there is none."""
    domain = _document.parse(xml)
    metadata = domain.find("./metadata")
    if metadata is None or len(metadata) or (metadata.text or "").strip():
        return xml
    _document.remove(metadata)
    return _document.text(domain)


def unexpected_difference(wanted: str, found: str) -> str | None:
    """The unified diff from *wanted* to *found* where they say different things; None where they say the same.

    Quoting, attribute order and white space between elements say nothing; nor does the order of the controllers,
    which libvirt sorts anew (HAZARDS G1).
    """
    one, other = (_comparison.canonical(_with_sorted_controllers(xml)) for xml in (wanted, found))
    if one == other:
        return None
    return _comparison.unified_diff(_comparison.pretty(wanted), _comparison.pretty(found), "wanted", "found")


def definition_diff(before: str, after: str) -> str:
    """The unified diff of two domain definitions, alike in quoting and indentation, passwords hidden."""
    return _comparison.unified_diff(_comparison.pretty(before), _comparison.pretty(after))


def find_disk(domain: t.Any, target: str) -> t.Any:
    """The ``<disk>`` with that target. Raises DiskError where there is none."""
    for element in domain.iterfind("./devices/disk"):
        dev = element.find("target")
        if dev is not None and dev.get("dev") == target:
            return element
    raise DiskError(f"{target}: the domain has no such disk")


def _kind(*, block: bool) -> tuple[str, str]:
    """The type of a source that is a file, or a block device, and the attribute with its path."""
    return ("block", "dev") if block else ("file", "file")


def _point_to(element: t.Any, source: t.Any, change: DiskChange) -> None:
    """Changes what names the source, in place, so that its children (seclabel, slices, ...) stay."""
    kind, attribute = _kind(block=change.block)
    if element.get("type") != kind:
        element.set("type", kind)
        for name in _image_properties.PLACE:
            source.attrib.pop(name, None)
    source.attrib.pop("fdgroup", None)
    source.set(attribute, change.path)


def _with_sorted_controllers(xml: str) -> t.Any:
    root = _document.parse(xml)
    controllers = root.findall("./devices/controller")
    if controllers:
        devices = root.find("./devices")
        place = devices.index(controllers[0])
        for controller in controllers:
            devices.remove(controller)
        devices[place:place] = sorted(controllers, key=lambda one: (one.get("type", ""), int(one.get("index", 0))))
    return root
