# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a ``<disk>`` says that libvirt keeps with its image, such as labels, and so drops when it gives it another one.

libvirt has it in the source of the storage (virStorageSource), and makes a new one for a snapshot, a copy, and a merge.
"""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: Attributes of a ``<source>`` that name the image (descriptors passed for it: *fdgroup*).
PLACE = ("file", "dev", "dir", "pool", "volume", "mode", "index", "fdgroup")
#: Children of a ``<source>`` that are true of one image only.
_OF_ONE_IMAGE = ("slices", "encryption", "privateData")
#: What a ``<driver>`` says of an image, and libvirt takes for qcow2 only.
_ONLY_QCOW2 = ("metadata_cache", "discard_no_unref")


def with_dropped(xml: str, known: str | None, targets: t.Iterable[str]) -> str:
    """The domain's XML in which the disks *targets* say again what they say in *known*, the XML of the domain as it
    was, and libvirt has dropped; the same text where that is nothing. What they say otherwise stays."""
    if known is None:
        return xml
    domain, before = _document.parse(xml), _document.parse(known)
    pairs = [(_disk(domain, target), _disk(before, target)) for target in targets]
    changed = [put_back(new, old) for new, old in pairs if new is not None and old is not None]
    return _document.text(domain) if any(changed) else xml


def put_back(element: t.Any, known: t.Any) -> bool:
    """Gives a ``<disk>`` what *known*, a ``<disk>`` or a ``<backingStore>``, says and it does not. False: nothing."""
    source, driver = element.find("source"), element.find("driver")
    before, format_before = known.find("source"), _format_of(known)
    changed = False
    if source is not None and before is not None:
        if known.tag == element.tag:
            changed |= _add_attributes(source, before, [name for name in before.attrib if name not in PLACE])
        changed |= _add_children(source, before, [one for one in before if one.tag not in _OF_ONE_IMAGE])
    if driver is not None and format_before is not None and driver.get("type") == "qcow2":
        changed |= _add_attributes(driver, format_before, _ONLY_QCOW2)
        changed |= _add_children(driver, format_before, [one for one in format_before if one.tag in _ONLY_QCOW2])
    return changed


def with_volumes(xml: str, known: str | None, targets: t.Iterable[str]) -> str:
    """The domain's XML in which the disks *targets* name the volume of a pool again that they name in *known*, and not
    its path; the same text where that names none."""
    if known is None:
        return xml
    domain, before = _document.parse(xml), _document.parse(known)
    changed = False
    for target in targets:
        element, old = _disk(domain, target), _disk(before, target)
        if element is not None and old is not None and old.get("type") == "volume" != element.get("type"):
            element.set("type", "volume")
            _name_volume(element.find("source"), old.find("source"))
            changed = True
    return _document.text(domain) if changed else xml


def drop_unfit(driver: t.Any) -> None:
    """Takes out of a ``<driver>`` what libvirt does not take for its format."""
    if driver.get("type") == "qcow2":
        return
    for name in _ONLY_QCOW2:
        driver.attrib.pop(name, None)
        for child in driver.findall(name):
            _document.remove(child)
    if not len(driver):
        driver.text = None  # the white space before a child is none of an empty element


def known_links(element: t.Any) -> dict[str, t.Any]:
    """The images of a ``<disk>``, by path, each as the ``<backingStore>`` that says of it what the disk does."""
    found: dict[str, t.Any] = {}
    source, driver = element.find("source"), element.find("driver")
    if source is not None and _path(source):
        found[_path(source)] = _as_link(element, source, driver)
    store = element.find("backingStore")
    while store is not None:
        below = store.find("backingStore")
        if store.find("source") is not None and _path(store.find("source")):
            link = copy.deepcopy(store)
            for nested in link.findall("backingStore"):
                _document.remove(nested)
            found[_path(store.find("source"))] = link
        store = below
    return found


def _name_volume(source: t.Any, volume: t.Any) -> None:
    for name in PLACE:
        source.attrib.pop(name, None)
    source.attrib.update({name: volume.get(name) for name in PLACE if name in volume.attrib})


def _as_link(element: t.Any, source: t.Any, driver: t.Any) -> t.Any:
    """The image of a ``<disk>`` as the ``<backingStore>`` that it is below another image."""
    link = _document.element("backingStore", {"type": element.get("type", "file")})
    image_format = _document.child(
        link, "format", {"type": (driver.get("type") if driver is not None else "") or "raw"}
    )
    cache = driver.find("metadata_cache") if driver is not None else None
    if cache is not None:
        image_format.append(copy.deepcopy(cache))
    below = _document.child(link, "source", {name: source.get(name) for name in PLACE if source.get(name)})
    below.extend(copy.deepcopy(child) for child in source)
    return link


def _add_attributes(element: t.Any, known: t.Any, names: t.Iterable[str]) -> bool:
    missing = {name: known.get(name) for name in names if name in known.attrib and name not in element.attrib}
    element.attrib.update(missing)
    return bool(missing)


def _add_children(element: t.Any, known: t.Any, children: t.Iterable[t.Any]) -> bool:
    """Adds copies of those *children* of *known* of which the element has none alike, where they stood."""
    present = {_kind(child) for child in element}
    missing = [child for child in children if _kind(child) not in present]
    for child in missing:
        added = copy.deepcopy(child)
        added.tail = None
        element.insert(min(known.index(child), len(element)), added)
    return bool(missing)


def _kind(child: t.Any) -> tuple[t.Any, str | None]:
    """What there is one of: an element may have a label of each security model."""
    return child.tag, child.get("model") if isinstance(child.tag, str) else None


def _format_of(element: t.Any) -> t.Any:
    """Where a ``<disk>``, or a ``<backingStore>``, says in which format its image is read."""
    driver = element.find("driver")
    return driver if driver is not None else element.find("format")


def _path(source: t.Any) -> str:
    return t.cast(str, source.get("file") or source.get("dev") or "")


def _disk(domain: t.Any, target: str) -> t.Any:
    """The ``<disk>`` with that target; None where there is none."""
    disks = domain.iterfind("./devices/disk")
    return next((one for one in disks if (dev := one.find("target")) is not None and dev.get("dev") == target), None)
