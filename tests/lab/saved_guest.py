# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that have booted already: their saved state is kept, and restored for each domain with the same machine.

A guest boots for seconds, and is restored in a fraction of one. It is saved before it has touched a device on its PCI
bus (lab.wait), so that the content, the size and the format of its disks play no part, and what libvirt knows of the
domain comes from the domain's own definition. A guest notices two things: its firmware tells it the UUID of another
domain, and its random numbers are those of every guest in such a machine.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from lab.cache import cache_key, cached

if TYPE_CHECKING:
    from lab.hypervisor import Hypervisor

# What a domain has for itself: its guest cannot tell it, or has not looked at it yet.
OWN = {
    ".": ("name", "uuid", "title", "description", "metadata"),
    "os": ("kernel", "initrd"),
    "devices": ("console",),  # libvirt's second name for the first serial port
    "devices/disk": ("source", "backingStore", "driver", "serial"),
    "devices/serial": ("source", "log"),
}
# What is a domain's own and yet part of a state: the variables of UEFI, the address of a network card, the size of a
# disk that identifies itself to the firmware.
PART_OF_A_STATE = (
    "os/loader",
    "devices/interface",
    "devices/disk[@device='disk']/target[@bus='ide']",
    "devices/disk[@device='disk']/target[@bus='sata']",
)
# The head of a file that libvirt saves (struct _virQEMUSaveHeader in src/qemu/qemu_saveimage.h): magic, version, length
# of the XML that follows, whether the domain ran, compression, offset of a cookie, reserved words. What QEMU has to say
# comes after the XML.
HEAD = struct.Struct("=16s5I56x")
MAGIC, VERSION, RAN, NOT_COMPRESSED, NO_COOKIE = b"LibvirtQemudSave", 2, 1, 0, 0


def saved_state(hv: Hypervisor, definition: str) -> Path | None:
    """The file with the state of a guest that waits in a machine like that of DEFINITION, made when it is missing.

    None where a guest has to boot.
    """
    tree = ElementTree.fromstring(definition)
    kernel, initrd = tree.findtext("os/kernel"), tree.findtext("os/initrd")
    if not kernel or not initrd or any(tree.find(path) is not None for path in PART_OF_A_STATE):
        return None
    machine = _machine(tree)
    shape = ElementTree.canonicalize(ElementTree.tostring(machine, encoding="unicode"), strip_text=True)
    key = cache_key(shape, Path(kernel), Path(initrd), _emulator(hv, tree), Path(__file__))

    def build(directory: Path) -> None:
        disks = hv.images / f"saved-{key}"
        disks.mkdir()
        disks.chmod(0o711)
        try:
            xml = _waiting(machine, disks, hv.serial(disks.name), kernel, initrd)
            _save(hv, xml, directory / "state")
        finally:
            shutil.rmtree(disks)

    return cached("saved-guests", key, build) / "state"


def write_save_file(path: Path, definition: str, state: Path) -> None:
    """Writes PATH, which libvirt restores as the domain of DEFINITION in STATE."""
    xml = definition.encode() + b"\0"
    with open(path, "wb") as out, open(state, "rb") as saved:
        out.write(HEAD.pack(MAGIC, VERSION, len(xml), RAN, NOT_COMPRESSED, NO_COOKIE) + xml)
        shutil.copyfileobj(saved, out, 1 << 20)


def _machine(tree: ElementTree.Element) -> ElementTree.Element:
    """A copy of a domain's TREE without what is the domain's own."""
    machine = copy.deepcopy(tree)
    for path, names in OWN.items():
        for element in machine.findall(path):
            for child in [child for child in element if child.tag in names]:
                element.remove(child)
    for screen in machine.findall("devices/graphics"):
        screen.attrib.pop("passwd", None)
    return machine


def _emulator(hv: Hypervisor, tree: ElementTree.Element) -> str:
    """What tells this QEMU from another one."""
    status = os.stat(f"{hv.root or ''}{tree.findtext('devices/emulator')}")
    return f"{status.st_size} {status.st_mtime_ns}"


def _waiting(machine: ElementTree.Element, disks: Path, serial: Path, kernel: str, initrd: str) -> str:
    """The definition of a domain with MACHINE and with stand-ins in the directory DISKS, whose guest waits."""
    tree = copy.deepcopy(machine)
    ElementTree.SubElement(tree, "name").text = disks.name
    for system in tree.findall("os"):
        for name, value in (("kernel", kernel), ("initrd", initrd)):
            ElementTree.SubElement(system, name).text = value
    for command_line in tree.findall("os/cmdline"):
        command_line.text = f"{command_line.text} lab.wait"
    for number, disk in enumerate(tree.findall("devices/disk")):
        image = disks / str(number)
        image.touch()
        os.truncate(image, 1 << 20)
        disk.set("type", "file")
        ElementTree.SubElement(disk, "source", file=str(image))
    for port in tree.findall("devices/serial"):
        ElementTree.SubElement(port, "source", mode="bind", path=str(serial))
    return ElementTree.tostring(tree, encoding="unicode")


def _save(hv: Hypervisor, xml: str, state: Path) -> None:
    """Boots the guest of XML and writes what QEMU says of it to STATE."""
    guest = hv.boot(xml)
    file = hv.images / f"{guest.name}.save"
    try:
        with contextlib.closing(hv.connect()) as connection:
            connection.lookupByName(guest.name).save(str(file))
        with open(file, "rb") as saved, open(state, "wb") as out:
            magic, version, length, _ran, compression, _cookie = HEAD.unpack(saved.read(HEAD.size))
            assert (magic, version, compression) == (MAGIC, VERSION, NOT_COMPRESSED), "libvirt saves in another format"
            saved.seek(length, os.SEEK_CUR)
            shutil.copyfileobj(saved, out, 1 << 20)
    finally:
        file.unlink(missing_ok=True)
        hv.remove(guest.name)
