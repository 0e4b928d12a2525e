# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A ``<disk>`` made, found, given another medium, and put into a domain's XML or taken out of it."""

from __future__ import annotations

import copy
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import tuning as _tuning
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_changes import (
    DiskChange,
    change_disk,
    find_disk,
)


@dataclass(frozen=True)
class NewDisk:
    """A disk that a domain is to get: the file at *path*, or the *volume* of a pool; none is an empty drive.

    *secret* is the UUID of libvirt's secret that opens an encrypted image.
    """

    target: str
    bus: str
    device: str
    path: str | None
    format: str
    volume: tuple[str, str] | None = None
    secret: str | None = None
    tuning: _tuning.Tuning = _tuning.Tuning()

    def xml(self) -> str:
        """Its ``<disk>``, which names the format: libvirt takes raw where that is not said (HAZARDS L4)."""
        kind = "volume" if self.volume else "file"
        disk = _document.element("disk", {"type": kind, "device": self.device})
        _document.child(disk, "driver", {"name": "qemu", "type": self.format})
        if self.path is not None:
            place = dict(zip(("pool", "volume"), self.volume)) if self.volume else {"file": self.path}
            source = _document.child(disk, "source", place)
            if self.secret is not None:
                encryption = _document.child(source, "encryption", {"format": "luks"})
                _document.child(encryption, "secret", {"type": "passphrase", "uuid": self.secret})
        _document.child(disk, "target", {"dev": self.target, "bus": self.bus})
        _tuning.tune(disk, self.tuning)
        return _document.text(disk)


def disk_xml(domain_xml: str, target: str) -> str:
    """The ``<disk>`` with that target. Raises DiskError where there is none."""
    return _text(find_disk(_document.parse(domain_xml), target))


def tuning_of(domain_xml: str, target: str) -> _tuning.Tuning:
    """How the domain uses its disk *target*. Raises DiskError where there is none."""
    return _tuning.tuning(find_disk(_document.parse(domain_xml), target))


def with_disk(domain_xml: str, disk: str) -> str:
    """The domain's XML with the ``<disk>`` *disk* after its other disks."""
    domain = _document.parse(domain_xml)
    devices, new = domain.find("./devices"), _document.parse(disk)
    others = devices.findall("disk")
    if others:
        new.tail = others[-1].tail
        others[-1].addnext(new)
    else:
        devices.append(new)
    return _document.text(domain)


def without_disk(domain_xml: str, target: str) -> str:
    """The domain's XML without its disk *target*. Raises DiskError where there is none."""
    domain = _document.parse(domain_xml)
    _document.remove(find_disk(domain, target))
    return _document.text(domain)


def tuned(disk: str, wanted: _tuning.Tuning) -> str:
    """The ``<disk>``, used as *wanted*, where that says something."""
    element = _document.parse(disk)
    _tuning.tune(element, wanted)
    return _document.text(element)


def with_tuning(domain_xml: str, target: str, wanted: _tuning.Tuning) -> str:
    """The domain's XML whose disk *target* is used as *wanted*, where that says something."""
    domain = _document.parse(domain_xml)
    _tuning.tune(find_disk(domain, target), wanted)
    return _document.text(domain)


def with_medium(domain_xml: str, target: str, path: str | None, image_format: str) -> str:
    """The domain's XML whose drive *target* has the file at *path* as its medium; none where that is None."""
    domain = _document.parse(domain_xml)
    _insert(find_disk(domain, target), target, path, image_format)
    return _document.text(domain)


def medium_xml(domain_xml: str, target: str, path: str | None, image_format: str) -> str:
    """The ``<disk>`` of the drive *target* with that medium."""
    domain = _document.parse(domain_xml)
    element = find_disk(domain, target)
    _insert(element, target, path, image_format)
    return _text(element)


def plain(disk: str) -> str:
    """The ``<disk>`` of a running machine without what only that knows: names, numbers, and what libvirt has found."""
    element = _document.parse(disk)
    for path in ("alias", "backingStore", "mirror", "privateData", "source/privateData"):
        for node in element.findall(path):
            if not str(node.get("name", "")).startswith("ua-"):
                _document.remove(node)
    for source in element.iterfind("source"):
        source.attrib.pop("index", None)
    return _document.text(element)


def at_the_address_of(disk: str, other: str) -> str:
    """*disk* with the address of the ``<disk>`` *other*: one that libvirt chooses again may be another (HAZARDS L5)."""
    new, known = _document.parse(disk), _document.parse(other).find("address")
    for old in new.findall("address"):
        _document.remove(old)
    if known is not None:
        new.append(copy.deepcopy(known))
    return _document.text(new)


def _insert(element: t.Any, target: str, path: str | None, image_format: str) -> None:
    source = element.find("source")
    for stale in [*element.findall("backingStore"), *([source] if path is None and source is not None else [])]:
        _document.remove(stale)
    if path is None:
        return
    if source is None:
        element.set("type", "file")
        element.find("target").addprevious(_document.element("source"))
    change_disk(element, DiskChange(target, path, image_format))


def _text(element: t.Any) -> str:
    element = copy.deepcopy(element)
    element.tail = None
    return _document.text(element)
