# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain on its way to another hypervisor: the modules leave it alone on both sides, and it arrives."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import libvirt
from lab import Disk, Hypervisor, run_module, tree_state
from lab.fixtures import MakeDomain
from support.scene import content, definition, disk_of, is_running, leftovers, make_image, make_overlay
from support.waits import wait_for

#: What is asked of each module, and all of them refuse.
ASKED: dict[str, dict[str, Any]] = {
    "vm_disk_convert": {"disk": "vda", "format": "raw"},
    "vm_disk_resize": {"disk": "vda", "size": "16M"},
    "vm_disk_flatten": {"disk": "vda"},
    "vm_disk_snapshot": {"snapshot": "before", "disks": ["vda"]},
}
#: Those that need not ask for anything there that libvirt only tells when the domain has arrived.
TOLD_THERE = ("vm_disk_convert", "vm_disk_flatten")
#: The storage is shared: it is one directory.
FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    | libvirt.VIR_MIGRATE_UNSAFE
)


#: A guest whose memory never stays as it was copied last.
BUSY = "(while :; do date >/tmp/now; done) >/dev/null 2>&1 &"


class Migration:
    """NAME, whose guest is BUSY, on its way from HV to THERE, which has no end: it may not stand still for a page."""

    def __init__(self, hv: Hypervisor, there: Hypervisor, name: str) -> None:
        self._connections = hv.connect(), there.connect()
        self._domain = self._connections[0].lookupByName(name)
        self._socket = hv.serial(f"{name}-migration")  # where QEMU may make one
        self._arrived: list[str] = []
        self._domain.migrateSetMaxDowntime(1)  # a millisecond, in which a kilobyte goes over
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_for(self.goes_on, "the migration")

    def _run(self) -> None:
        how = {libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{self._socket}", libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: 1}
        self._arrived.append(self._domain.migrate3(self._connections[1], how, FLAGS).name())

    def goes_on(self) -> bool:
        assert self._thread.is_alive()
        return bool(self._domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)

    def finish(self) -> list[str]:
        """The name of what arrived: it may stand still for as long as it takes from now on."""
        self._domain.migrateSetMaxSpeed(10000)
        self._domain.migrateSetMaxDowntime(60_000)
        self._thread.join()
        for connection in self._connections:
            connection.close()
        return self._arrived


def test_a_domain_that_is_being_migrated_is_left_alone_and_arrives(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    top = make_overlay(images / "vm.qcow2", make_image(images / "base.raw"))
    guest = make_domain([Disk(top, "qcow2", cache="none")], start=True)
    guest.must(BUSY)
    name = guest.name
    before, seen, files = definition(hv, name), content(top, "qcow2"), sorted(tree_state(images))
    with Hypervisor(Path(tempfile.gettempdir()), f"other-{os.getpid()}") as there:
        migration = Migration(hv, there, name)
        for module, asked in ASKED.items():
            for side in (hv, there) if module in TOLD_THERE else (hv,):
                refused = run_module(module, {"name": name, "uri": side.uri, **asked})
                assert refused.get("failed"), refused
                assert "is being migrated" in refused["msg"] or "is transient" in refused["msg"], refused["msg"]
            assert migration.goes_on(), "it lasts for as long as it is needed here"
        assert definition(hv, name) == before
        assert sorted(tree_state(images)) == files
        assert migration.finish() == [name]
        assert is_running(there, name)
        assert disk_of(there, name) == (str(top), "qcow2")
        assert content(top, "qcow2") == seen
        assert leftovers(there, name, images) == []
        done = run_module("vm_disk_flatten", {"name": name, "uri": there.uri, **ASKED["vm_disk_flatten"]})
        assert done.get("changed"), "where it is now, it can be worked on"
        with contextlib.closing(there.connect()) as connection:
            connection.lookupByName(name).destroy()
        assert content(top, "qcow2") == seen
