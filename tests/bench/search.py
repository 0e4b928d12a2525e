# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The search for the images that depend on a base, beside the least that any such search does."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import libvirt
from lab import Disk, Hypervisor

from bench.pair import Row, Way, compare

CLONES = 1000
DOMAINS = 50
_HEADER = struct.Struct(">4sIQI")


def search(hv: Hypervisor) -> Row:
    """1,000 overlays of one base in one directory, every twentieth of them the disk of a domain, in one process.

    Beside it the headers of all of them are read, and libvirt is asked for its pools and for the definition of each
    domain. Neither side starts Python or connects to libvirt.
    """
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor as Libvirt
    from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
    from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users

    directory = hv.images / "clones"
    base = _clones(directory)
    names = [f"clone{number}" for number in range(DOMAINS)]
    for number, name in enumerate(names):
        hv.define(hv.domain_xml(name, [Disk(directory / f"{number * (CLONES // DOMAINS)}.qcow2", "qcow2")]))
    connection = Libvirt.connect(hv.uri)

    def ours() -> None:
        users = _users.domain_uses(connection).users
        directories = _dependents.directories_to_search([str(base)], [str(directory)], [connection])
        if len(_dependents.of(str(base), directories, users)) != CLONES:
            raise RuntimeError("not all clones were found")

    with contextlib.closing(hv.connect()) as bare:
        what = "dependents among 1,000 images, beside headers and libvirt"
        row = compare(what, Way(ours), Way(lambda: _least(bare, directory)), rounds=15, goal=1.5)
    for name in names:
        hv.remove(name)
    shutil.rmtree(directory)
    return row


def _least(connection: Any, directory: Path) -> None:
    for domain in connection.listAllDomains():
        domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
    for pool in connection.listAllStoragePools():
        pool.XMLDesc()
    for entry in os.scandir(directory):
        with open(entry.path, "rb") as stream:
            head = stream.read(4096)
        _magic, _version, offset, length = _HEADER.unpack_from(head)
        if offset and not head[offset : offset + length]:
            raise RuntimeError(f"{entry.path} is cut off")


def _clones(directory: Path) -> Path:
    """The base of as many overlays, which is outside their directory."""
    directory.mkdir(mode=0o711)
    base, first = directory.with_name("golden.qcow2"), directory / "0.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1G"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", first], check=True)
    for number in range(1, CLONES):
        shutil.copyfile(first, directory / f"{number}.qcow2")
    return base
