# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module must refuse: scenes that an arranger sets up, and the proof that nothing changed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.scene import leftovers, make_image, unchanged
from support.waits import HELD


@dataclass
class Scene:
    """What the arranger of a case needs; it says what is asked of which domain by `ask`."""

    hv: Hypervisor
    images: Path
    make_domain: MakeDomain
    stack: contextlib.ExitStack

    def domain(self, *disks: Disk, start: bool = False, **options: Any) -> str:
        name = self.make_domain(disks, kernel=False, **options).name
        if start:
            self.hv.start(name)
        return name

    def defined(self, change: Callable[[str], str], *disks: Disk) -> str:
        """A domain whose XML was changed before it was defined."""
        name = self.make_domain([], kernel=False).name
        self.hv.remove(name)
        self.hv.define(change(self.hv.domain_xml(name, disks, kernel=False)))
        return name

    @contextlib.contextmanager
    def libvirt(self, name: str) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(name)

    def raw(self, name: str = "vm.raw", **options: Any) -> Path:
        return make_image(self.images / name, **options)

    def qcow2(self, name: str = "vm.qcow2") -> Path:
        return make_image(self.images / name, "qcow2")

    def small_file_system(self, size: str, *, exist_ok: bool = False) -> Path:
        small = self.images / "small"
        small.mkdir(exist_ok=exist_ok)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "tmpfs", small], check=True)
        self.stack.callback(lambda: subprocess.run(["umount", small], check=True))
        return small

    def copy_block(self, name: str) -> None:
        """Starts a block job on vda of the running domain, which then stands still."""
        copy = self.images / "copy.raw"
        with self.libvirt(name) as domain:
            xml = f"<disk type='file'><source file='{copy}'/><driver type='raw'/></disk>"
            bandwidth = {libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH: int(HELD)}
            domain.blockCopy("vda", xml, bandwidth, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
            # Only the guest's images are to be compared, not the copy that grows meanwhile.
            domain.suspend()
        moved = self.images.parent / f"{self.images.name}-copy.raw"
        os.rename(copy, moved)
        self.stack.callback(moved.unlink)

    def back_up(self, name: str) -> None:
        """Begins a backup by pulling, which lasts until somebody ends it."""
        beside = self.images.parent / f"{self.images.name}-backup"
        beside.mkdir(mode=0o777)
        beside.chmod(0o777)
        self.stack.callback(shutil.rmtree, beside)
        disk = f"<disk name='vda' backup='yes' type='file'><scratch file='{beside}/scratch'/></disk>"
        server = f"<server transport='unix' socket='{beside}/socket'/>"
        with self.libvirt(name) as domain:
            domain.backupBegin(f"<domainbackup mode='pull'>{server}<disks>{disk}</disks></domainbackup>", None)
        self.stack.callback(self._end_job, name)

    def _end_job(self, name: str) -> None:
        with self.libvirt(name) as domain:
            domain.abortJob()


Asked = dict[str, Any]
Arrange = Callable[[Scene], Asked]


class Cases(dict[str, tuple[Arrange, list[str]]]):
    """Arrangers by their names, with what the message of MODULE must say; USUAL is what each of them asks for.

    *facts* look at what else comes back, by the names of the cases.
    """

    def __init__(self, module: str, **usual: Any) -> None:
        super().__init__()
        self.module, self.usual = module, usual
        self.facts: dict[str, Callable[[dict[str, Any]], None]] = {}

    def assert_refused(self, name: str, scene: Scene) -> None:
        """Sets the scene of a case; then it is refused as it has to be, and nothing has changed."""
        arrange, said = self[name]
        asked = {**self.usual, "uri": scene.hv.uri, **arrange(scene)}
        if "disks" in asked:
            asked.pop("disk", None)
        refused = assert_refused(self.module, scene, asked, said)
        if name in self.facts:
            self.facts[name](refused)

    def case(self, *said: str) -> Callable[[Arrange], Arrange]:
        """Registers an arranger."""

        def register(arrange: Arrange) -> Arrange:
            self[arrange.__name__] = (arrange, list(said))
            return arrange

        return register


def assert_refused(module: str, scene: Scene, asked: Asked, said: list[str]) -> dict[str, Any]:
    """The result of MODULE, which failed with the words SAID, in check mode too, and changed nothing."""
    options = {"env": asked.pop("environment", None), "python": asked.pop("python", None)}
    with contextlib.closing(scene.hv.connect()) as connection:
        domains = [domain.name() for domain in connection.listAllDomains() if domain.isPersistent()]
    with unchanged(scene.hv, scene.images, *domains):
        refused = run_module(module, asked, **options)
        checked = run_module(module, asked, check=True, **options)
    assert refused.get("failed"), refused
    for words in said:
        assert words in refused["msg"], refused["msg"]
    assert "Traceback" not in refused["msg"]
    assert checked["msg"] == refused["msg"], "check mode says the same"
    for domain in domains:
        assert leftovers(scene.hv, domain, scene.images) == []
    return refused
