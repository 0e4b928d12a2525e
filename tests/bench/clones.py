# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones by one task, beside what one would loop over, and beside the least that makes them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import libvirt
from lab import Disk, Hypervisor

from bench.growth import Curve, Size, curve
from bench.pair import Row, Way, compare, run_anew
from bench.play import ROOT, play

#: The package that brings community.libvirt, in an environment of its own.
PEER = ROOT / ".cache" / "venv-peer"
CLONES = 50
REMOVED = (50, 100, 200)
MODULE = "kvmops.disk.vm_linked_clone"
#: The same calls of qemu-img and libvirt, and nothing around them.
BARE = """
import ansible.module_utils.basic, lxml.etree
import libvirt, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
uri, base, directory, count = sys.argv[1:]
connection = libvirt.open(uri)
golden = connection.lookupByName("golden").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
uuid = connection.lookupByName("golden").UUIDString()
def make(number):
    path = f"{directory}/pc-{number}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True)
    xml = golden.replace(f"<uuid>{uuid}</uuid>", "").replace(base, path).replace(">golden<", f">pc-{number}<")
    connection.defineXML(xml)
with ThreadPoolExecutor(2) as threads:
    list(threads.map(make, range(int(count))))
"""


class Bench:
    """A golden domain, ways to make overlays of its disk, and the way back."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv
        self.base = hv.images / "golden.qcow2"
        self.directory = hv.images / "clones"
        self.directory.mkdir()
        self.directory.chmod(0o711)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.base, "10G"], check=True)
        hv.define(hv.domain_xml("golden", [Disk(self.base, "qcow2")], kernel=False, mac="52:54:00:00:00:01"))
        hv.pool("clones", self.directory)

    def wish(self, count: int = CLONES) -> dict[str, Any]:
        clones = [{"name": f"pc-{number}"} for number in range(count)]
        return {"source": "golden", "clones": clones, "disk_dir": str(self.directory), "uri": self.hv.uri}

    def run(self, count: int = CLONES) -> None:
        result = run_anew("vm_linked_clone", self.wish(count))
        if len(result["clones"]) != count or not result["changed"]:
            raise RuntimeError(f"not all clones were made: {result}")

    def bare(self) -> None:
        argv = [sys.executable, "-c", BARE, self.hv.uri, str(self.base), str(self.directory), str(CLONES)]
        subprocess.run(argv, check=True)

    def start_over(self) -> None:
        """No clone is there, and libvirt knows it."""
        with contextlib.closing(self.hv.connect()) as connection:
            for domain in connection.listAllDomains():
                if domain.name().startswith("pc-"):
                    domain.undefine()
            for path in self.directory.iterdir():
                path.unlink()
            connection.storagePoolLookupByName("clones").refresh()
        (self.base.parent / ".golden.qcow2.kvmops-base").unlink(missing_ok=True)
        self.base.chmod(0o644)
        os.sync()

    def volumes(self) -> None:
        """50 overlays by the module of the collection for libvirt; no domain is defined."""
        xml = (
            "<volume><name>{{ item }}</name><capacity>10737418240</capacity><target><format type='qcow2'/></target>"
            f"<backingStore><path>{self.base}</path><format type='qcow2'/></backingStore></volume>"
        )
        wanted = {"pool": "clones", "state": "present", "xml": xml, "uri": self.hv.uri}
        play(self.hv.directory, PEER, [{"community.libvirt.virt_volume": wanted, "loop": self.names()}])

    def commands(self) -> None:
        argv = [
            "qemu-img",
            "create",
            "-f",
            "qcow2",
            "-b",
            str(self.base),
            "-F",
            "qcow2",
            f"{self.directory}/{{{{ item }}}}",
        ]
        play(self.hv.directory, PEER, [{"ansible.builtin.command": {"argv": argv}, "loop": self.names()}])

    def names(self) -> list[str]:
        return [f"pc-{number}.qcow2" for number in range(CLONES)]

    def require(self, files: Sequence[str]) -> None:
        if {path.name for path in self.directory.iterdir() if not path.name.startswith(".")} != set(files):
            raise RuntimeError("not all overlays were made")


def clones(hv: Hypervisor) -> Iterator[Row | Curve]:
    """The rows about clones."""
    _install_peer()
    bench = Bench(hv)

    def checked(make: Callable[[], None]) -> Way:
        def run() -> None:
            make()
            bench.require(bench.names())

        return Way(run, bench.start_over)

    task, module = checked(lambda: play(hv.directory, PEER, [{MODULE: bench.wish()}])), checked(bench.run)
    what = "vm_linked_clone, 50 clones with domains, beside"
    yield compare(f"{what} 50 virt_volume", task, checked(bench.volumes), rounds=2, goal=0.17)
    yield compare(f"{what} 50 qemu-img", task, checked(bench.commands), rounds=2, goal=0.15)
    yield compare(f"{what} a bare loop", module, checked(bench.bare), rounds=7, goal=1.25)
    hundred = Way(lambda: bench.run(2 * CLONES), bench.start_over)
    yield compare("vm_linked_clone, 100 clones, beside 50", hundred, module, rounds=7, goal=2.2)
    yield removal(bench)
    bench.start_over()
    hv.remove("golden")
    with contextlib.closing(hv.connect()) as connection, contextlib.suppress(libvirt.libvirtError):
        connection.storagePoolLookupByName("clones").destroy()
        connection.storagePoolLookupByName("clones").undefine()


def removal(bench: Bench) -> Curve:
    """Clones removed, beside as many made."""

    def remove(number: int) -> None:
        if not run_anew("vm_linked_clone", {**bench.wish(number), "state": "absent"})["changed"]:
            raise RuntimeError("no clone was removed")

    def make(number: int) -> None:
        bench.start_over()
        bench.run(number)

    sizes = [
        Size(number, partial(remove, number), partial(bench.run, number), partial(make, number)) for number in REMOVED
    ]
    return curve("vm_linked_clone, clones removed, beside as many made", sizes, rounds=3, goal=0.8)


def _install_peer() -> None:
    if not (PEER / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--system-site-packages", PEER], check=True)
        pip = [str(PEER / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "ansible"]
        subprocess.run(pip, check=True)
        (PEER / "installed").touch()
