# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world as the tests of domains see it: images with known content, definitions, and what must not have changed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
from lab import Hypervisor, tree_state, write_pattern
from lab.tree import file_digest

MIB = 1 << 20
DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
RECORD = "urn:kvmops:disk:1"


def qemu_img(*arguments: str | Path | int) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def make_image(path: Path, image_format: str = "raw", mib: int = 2, size_mib: int = 8, seed: str = "disk") -> Path:
    """An image of SIZE_MIB whose first MIB mebibytes are the lab's pattern."""
    raw = path if image_format == "raw" else path.with_name(path.name + ".tmp")
    write_pattern(raw, mib, seed)
    os.truncate(raw, size_mib * MIB)
    if image_format != "raw":
        qemu_img("convert", "-f", "raw", "-O", image_format, raw, path)
        raw.unlink()
    return path


def make_overlay(path: Path, base: Path, base_format: str = "raw", image_format: str = "qcow2") -> Path:
    """An overlay over BASE with a pattern of its own in its fourth mebibyte."""
    qemu_img("create", "-q", "-f", image_format, "-b", base, "-F", base_format, path)
    command = f"write -P 0x5a {3 * MIB} {MIB}"
    subprocess.run(["qemu-io", "-f", image_format, "-c", command, path], check=True, capture_output=True)
    return path


def make_encrypted(path: Path, image_format: str = "qcow2", size_mib: int = 4) -> Path:
    """An empty encrypted image, of format qcow2 or luks.

    On a busy machine QEMU may fail to time its key function: it is asked again.
    """
    key = ("--object", "secret,id=key,data=sesame")
    luks = "key-secret=key,iter-time=10"
    qcow2 = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"
    options = qcow2 if image_format == "qcow2" else luks
    for _try in range(20):
        with contextlib.suppress(subprocess.CalledProcessError):
            qemu_img("create", "-q", *key, "-f", image_format, "-o", options, path, f"{size_mib}M")
            return path
    raise AssertionError(f"{path}: qemu-img could not make an encrypted image")


def content(path: Path | str, image_format: str) -> str:
    """A digest (lab.tree) of what a guest sees on the disk, its chain included."""
    flat = Path(f"{path}.content")
    try:
        qemu_img("convert", "-U", "-f", image_format, "-O", "raw", path, flat)
        return file_digest(flat)
    finally:
        flat.unlink(missing_ok=True)


def definition(hv: Hypervisor, name: str, flags: int = DEFINITION) -> str:
    with contextlib.closing(hv.connect()) as connection:
        return str(connection.lookupByName(name).XMLDesc(flags))


def is_running(hv: Hypervisor, name: str) -> bool:
    with contextlib.closing(hv.connect()) as connection:
        return bool(connection.lookupByName(name).isActive())


def state(hv: Hypervisor, name: str) -> int:
    with contextlib.closing(hv.connect()) as connection:
        return int(connection.lookupByName(name).state()[0])


def disk_of(hv: Hypervisor, name: str, target: str = "vda") -> tuple[str, str]:
    """The path and the format that the definition says."""
    for disk in ElementTree.fromstring(definition(hv, name)).iterfind("devices/disk"):
        if disk.find(f"target[@dev='{target}']") is not None:
            source, driver = disk.find("source"), disk.find("driver")
            assert source is not None
            assert driver is not None
            return source.attrib["file"], driver.attrib["type"]
    raise AssertionError(f"{name} has no {target}")


def leftovers(hv: Hypervisor, name: str, *directories: Path) -> list[str]:
    """What a run must not leave behind: records, staging directories, what the domain's metadata says of it."""
    found = [str(path) for directory in directories for path in directory.rglob("*") if ".kvmops" in path.name]
    if RECORD in definition(hv, name) or "urn:kvmops:shutdown:1" in definition(hv, name):
        found.append(f"a record in the metadata of {name}")
    return found


@contextlib.contextmanager
def unchanged(hv: Hypervisor, directory: Path, *names: str) -> Iterator[None]:
    """Asserts that the block wrote nothing below DIRECTORY, and neither changed, started nor stopped a domain."""

    def look() -> tuple[Any, ...]:
        return tree_state(directory), [(definition(hv, name), state(hv, name)) for name in names]

    before = look()
    yield
    after = look()
    assert after[0] == before[0]
    assert after[1] == before[1]


def with_backing(xml: str, *links: tuple[Path | str, str]) -> str:
    """The XML of a domain whose only disk says its backing files: (path, format), upper first."""
    chain = "<backingStore/>"
    for path, image_format in reversed(links):
        chain = (
            f"<backingStore type='file'><format type='{image_format}'/><source file='{path}'/>{chain}</backingStore>"
        )
    return xml.replace("<target dev=", f"{chain}<target dev=", 1)


def chain_of(hv: Hypervisor, name: str, target: str = "vda", *, live: bool = False) -> list[str]:
    """The backing files that the definition names, or, LIVE, what the running domain has."""
    found = []
    for disk in ElementTree.fromstring(definition(hv, name, 0 if live else DEFINITION)).iterfind("devices/disk"):
        if disk.find(f"target[@dev='{target}']") is not None:
            found = [str(source.get("file")) for source in disk.iterfind(".//backingStore/source")]
    return found


def image_chain(path: Path | str, image_format: str) -> list[str]:
    """The backing files that the images themselves name."""
    told = json.loads(qemu_img("info", "-U", "--backing-chain", "--output=json", "-f", image_format, path))
    return [str(image["filename"]) for image in told[1:]]


def snapshot_xmls(hv: Hypervisor, name: str) -> dict[str, str]:
    """What libvirt says of each snapshot."""
    with contextlib.closing(hv.connect()) as connection:
        snapshots = connection.lookupByName(name).listAllSnapshots(0)
        return {snapshot.getName(): snapshot.getXMLDesc(0) for snapshot in snapshots}


def can_revert(hv: Hypervisor) -> bool:
    """External snapshots can be gone back to since libvirt 9.10."""
    with contextlib.closing(hv.connect()) as connection:
        return bool(connection.getLibVersion() >= 9_010_000)


def on_volume(xml: str, source: Path, pool: str) -> str:
    """The definition, with the file SOURCE of its only disk as a volume of POOL."""
    tree = ElementTree.fromstring(xml)
    (disk,) = tree.findall("./devices/disk")
    disk.set("type", "volume")
    element = disk.find("source")
    assert element is not None
    assert element.attrib.pop("file") == str(source)
    element.attrib.update(pool=pool, volume=source.name)
    return ElementTree.tostring(tree, encoding="unicode")
