# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a domain's definition names that has to be there when the domain starts, apart from its disks."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: Where the XML names files of the host: the element, the attribute that has the path (None: its text), what it is.
_FILES = (
    ("./os/loader", None, "the firmware"),
    ("./os/kernel", None, "the kernel"),
    ("./os/initrd", None, "the initial RAM disk"),
    ("./os/dtb", None, "the device tree"),
    ("./os/acpi/table", None, "the ACPI table"),
    ("./devices/emulator", None, "the emulator"),
    ("./devices/filesystem/source", "dir", "the shared directory"),
    ("./devices/filesystem/source", "file", "the image of the file system"),
    ("./devices/filesystem/source", "dev", "the device of the file system"),
    ("./devices/filesystem/source", "socket", "the socket of the file system"),
    ("./devices/rng/backend[@model='random']", None, "the source of random numbers"),
    ("./devices/tpm/backend/device", "path", "the TPM"),
    ("./devices/memory/source/path", None, "the file of the memory device"),
    ("./devices/input/source", "evdev", "the input device"),
    ("./devices/input/source", "dev", "the input device"),
    ("./devices/interface/source[@mode='client']", "path", "the socket of the network interface"),
    ("./devices/interface[@type='vdpa']/source", "dev", "the device of the network interface"),
    ("./devices/interface/script", "path", "the script of the network interface"),
    ("./devices/hostdev/source/block", None, "the device of the host"),
    ("./devices/hostdev/source/char", None, "the device of the host"),
    *(
        (f"./devices/{tag}[@type='dev']/source", "path", "the device of the host")
        for tag in ("serial", "parallel", "channel")
    ),
    *(
        (f"./devices/{tag}[@type='unix']/source[@mode='connect']", "path", "the socket")
        for tag in ("serial", "parallel", "channel", "redirdev", "smartcard")
    ),
    ("./devices/disk[@type='vhostuser']/source", "path", "the socket of the disk"),
)

#: Where it names files of a domain that may be images, or lie where images do; disks apart.
_IMAGES = (
    ("./os/loader", None, "loader"),
    ("./os/nvram", None, "nvram"),
    ("./os/nvram", "template", "nvram"),
    ("./os/nvram/source", "file", "nvram"),
    ("./os/varstore", "path", "varstore"),
    ("./os/kernel", None, "kernel"),
    ("./os/initrd", None, "initrd"),
    ("./os/dtb", None, "dtb"),
    ("./os/acpi/table", None, "acpi"),
    ("./devices/filesystem/source", "file", "filesystem"),
    ("./devices/memory/source/path", None, "memory"),
    *(
        (f"./devices/{tag}{where}", attribute, tag)
        for tag in ("serial", "parallel", "console", "channel")
        for where, attribute in (("[@type='file']/source", "path"), ("/log", "file"))
    ),
)
_ARGUMENT = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline/{http://libvirt.org/schemas/domain/qemu/1.0}arg"
#: A path in an argument for QEMU, where it begins, or after the name of an option, in JSON, too.
_PATH_IN_ARGUMENT = r'(?:^|[=":])(/[^,"]+)'

#: Where the XML names things of libvirt: the element, the attribute with the name, the kind of the thing.
_OFFERED = (
    ("./devices/interface[@type='network']/source", "network", "network"),
    ("./devices/interface[@type='bridge']/source", "bridge", "interface"),
    ("./devices/interface[@type='direct']/source", "dev", "interface"),
    ("./devices/interface/filterref", "filter", "network filter"),
    ("./devices/disk/source[@pool]", "pool", "storage pool"),
    ("./devices/disk//secret[@uuid]", "uuid", "secret"),
)

#: Devices of the host that have an address in the XML: where that stands.
_PCI = (
    "./devices/hostdev[@type='pci']/source/address",
    "./devices/interface[@type='hostdev']/source/address[@type='pci']",
    "./devices/disk[@type='nvme']/source/address",
)
_MEDIATED = "./devices/hostdev[@type='mdev']/source/address"
_USB = "./devices/hostdev[@type='usb']/source"
#: A disk of this policy is left out where its source is missing; the others of libvirt's keep the domain from a start.
_OPTIONAL = "optional"


@dataclass(frozen=True)
class Needs:
    """What a start needs: *files* of the host, and things that libvirt has *offered*, each with what it is.

    *templates*: files with the variables of the firmware, and what they are made from where they are missing.
    *pci*, *mediated*: the names of such devices of the host. *usb*: vendor and product, without 0x.
    """

    files: tuple[tuple[str, str], ...] = ()
    offered: tuple[tuple[str, str], ...] = ()
    templates: tuple[tuple[str, str], ...] = ()
    pci: tuple[str, ...] = ()
    mediated: tuple[str, ...] = ()
    usb: tuple[tuple[str, str], ...] = ()


def needs(xml: str) -> Needs:
    """What the start of the domain with that definition needs, the images of its disks apart."""
    domain = _document.parse(xml)
    for disk in domain.findall("./devices/disk"):
        if _is_optional(disk):
            _document.remove(disk)
    return Needs(
        files=tuple(_named(domain, _FILES)),
        offered=tuple((kind, name) for name, kind in _named(domain, _OFFERED) if not _is_foreign(domain, kind, name)),
        templates=tuple(_templates(domain)),
        pci=tuple(_pci_name(address) for path in _PCI for address in domain.iterfind(path)),
        mediated=tuple(address.get("uuid", "") for address in domain.iterfind(_MEDIATED)),
        usb=tuple(_usb(domain)),
    )


def image_files(xml: str) -> t.Iterator[tuple[str, str]]:
    """The files that the domain with that definition has outside of its disks: the element that names one, its path."""
    domain = _document.parse(xml)
    for path, part in _named(domain, _IMAGES):
        yield part, path
    for argument in domain.iterfind(_ARGUMENT):
        for path in re.findall(_PATH_IN_ARGUMENT, argument.get("value", "")):
            yield "qemu:commandline", path


def optional_disks(xml: str) -> set[str]:
    """The targets of disks without whose source the domain starts, too: they are left out then."""
    disks = _document.parse(xml).iterfind("./devices/disk")
    return {disk.find("target").get("dev") for disk in disks if _is_optional(disk) and disk.find("target") is not None}


def _named(domain: t.Any, places: t.Iterable[tuple[str, str | None, str]]) -> t.Iterator[tuple[str, str]]:
    for path, attribute, what in places:
        for node in domain.iterfind(path):
            name = node.get(attribute) if attribute is not None else (node.text or "").strip()
            if name:
                yield name, what


def _is_optional(disk: t.Any) -> bool:
    source = disk.find("source")
    return source is not None and source.get("startupPolicy") == _OPTIONAL


def _is_foreign(domain: t.Any, kind: str, name: str) -> bool:
    """Whether an interface belongs to Open vSwitch, which the host need not show as an interface."""
    if kind != "interface":
        return False
    bridged = domain.iterfind("./devices/interface[virtualport]/source")
    return any(name in (source.get("bridge"), source.get("dev")) for source in bridged)


def _templates(domain: t.Any) -> t.Iterator[tuple[str, str]]:
    """The variables of the firmware, and their template; not those that are no file, or that libvirt finds itself."""
    for tag in ("nvram", "varstore"):
        for node in domain.iterfind(f"./os/{tag}"):
            path = node.get("path") or (node.text or "").strip()
            if path and node.get("template"):
                yield path, node.get("template")


def _pci_name(address: t.Any) -> str:
    """The address as the kernel writes it: 0000:01:00.0."""
    domain, bus, slot, function = (int(address.get(part, "0"), 0) for part in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def _usb(domain: t.Any) -> t.Iterator[tuple[str, str]]:
    for source in domain.iterfind(_USB):
        vendor, product = source.find("vendor"), source.find("product")
        if vendor is not None and product is not None and source.get("startupPolicy") != _OPTIONAL:
            yield vendor.get("id", "").removeprefix("0x"), product.get("id", "").removeprefix("0x")
