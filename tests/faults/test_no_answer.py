# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A QEMU or a libvirtd that does not answer: no task waits for ever, each says for what, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from support.held_qemu_img import HeldQemuImg
from support.injection import constants, environment, paused_at, wait_in
from support.scene import content, definition, disk_of, is_running, leftovers, make_image, make_overlay
from support.waits import HELD, send, wait_for

#: Seconds that a run waits for an answer from who is silent. All that is answered may take its time.
PATIENCE = 1
WHERE_QEMU_IS_SILENT = constants({"_libvirt.binding": {"PATIENCE": PATIENCE, "AT_ONCE": 60}})
WHERE_LIBVIRT_IS_SILENT = constants({"_libvirt.binding": {"PATIENCE": PATIENCE, "AT_ONCE": PATIENCE}})
#: The same for a look, which has no point from which on it is met by silence: a few seconds, for what is answered, too.
LOOKING = constants({"_libvirt.binding": {"PATIENCE": 5}})
ASKS_FOR: dict[str, dict[str, Any]] = {
    "vm_disk_convert": {"disk": "vda", "format": "raw"},
    "vm_disk_resize": {"disk": "vda", "size": "16M"},
    "vm_disk_flatten": {"disk": "vda"},
    "vm_disk_snapshot": {"snapshot": "before", "disks": ["vda"]},
}


class Machine:
    """A running domain on an overlay, and what must hold of it whatever happens."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.content = self.seen()
        self.process = hv.qemu_pid(name)

    def asks(self, module: str, **more: Any) -> dict[str, Any]:
        return {"name": self.name, "uri": self.hv.uri, **ASKS_FOR.get(module, {}), **more}

    def seen(self) -> str:
        """What the guest would find after a start."""
        return content(*disk_of(self.hv, self.name))

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        send(self.process, signal.SIGSTOP)
        try:
            yield
        finally:
            send(self.process, signal.SIGCONT)

    def assert_says_who_is_silent(self, failed: Mapping[str, Any]) -> None:
        assert failed.get("failed"), failed
        assert f"QEMU of {self.name} does not answer" in failed["msg"]
        assert f"waited {PATIENCE} s for an answer" in failed["msg"]
        assert self.hv.qemu_pid(self.name) == self.process

    def assert_converges(self, module: str) -> None:
        """The next run does what is left to do, if that is anything, and the one after it nothing."""
        done = run_module(module, self.asks(module))
        assert not done.get("failed"), done
        again = run_module(module, self.asks(module))
        assert again.get("changed") is False, again
        assert self.hv.qemu_pid(self.name) == self.process
        assert "<mirror" not in definition(self.hv, self.name, 0)
        assert leftovers(self.hv, self.name, self.images) == []
        path, image_format = disk_of(self.hv, self.name)
        assert f"<source file='{path}' index" in definition(self.hv, self.name, 0), "both XMLs name the same image"
        if module != "vm_disk_resize":
            assert content(path, image_format) == self.content


@pytest.fixture
def machine(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    top = make_overlay(images / "vm.qcow2", make_image(images / "base.raw"))
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    hv.start(name)
    return Machine(hv, images, name)


@pytest.mark.parametrize(
    ("module", "point"),
    [
        ("vm_disk_convert", "ask-blockCopy 1"),
        ("vm_disk_convert", "ask-blockJobAbort 1"),
        ("vm_disk_resize", "ask-blockResize 1"),
        ("vm_disk_flatten", "ask-blockPull 1"),
        ("vm_disk_flatten", "ask-qemuMonitorCommand 1"),
        ("vm_disk_snapshot", "ask-snapshotCreateXML 1"),
    ],
)
def test_a_qemu_that_stops_in_the_middle_is_named_and_once_it_goes_on_the_next_run_finishes_the_job(
    machine: Machine, module: str, point: str
) -> None:
    with contextlib.ExitStack() as silence:
        with paused_at(point, machine.asks(module), module=module, AT_CONSTANTS=WHERE_QEMU_IS_SILENT) as run:
            silence.enter_context(machine.stopped())
        machine.assert_says_who_is_silent(run.result())
    machine.assert_converges(module)


def test_a_copy_whose_qemu_stops_is_adopted_when_it_goes_on(machine: Machine) -> None:
    point, held = "virDomainBlockCopy 1 > ask-blockJobInfo 1", machine.asks("vm_disk_convert", bandwidth=HELD)
    with contextlib.ExitStack() as silence:
        with paused_at(point, held, AT_CONSTANTS=WHERE_QEMU_IS_SILENT) as run:
            assert "<mirror" in definition(machine.hv, machine.name, 0), "it is being copied"
            silence.enter_context(machine.stopped())
        machine.assert_says_who_is_silent(run.result())
        asked = {"names": [machine.name], "uri": machine.hv.uri}
        (disk,) = run_module("vm_disk_info", asked, env=environment(CONSTANTS=LOOKING))["disks"]
        assert disk["job"], "libvirt knows that without its QEMU"
    done = run_module("vm_disk_convert", machine.asks("vm_disk_convert"))
    assert done["actions"][0].startswith("resume the copy of vda"), done
    machine.assert_converges("vm_disk_convert")


def test_a_guest_whose_qemu_stops_as_it_is_asked_to_shut_down_is_started_again_once_it_is_off(machine: Machine) -> None:
    params = machine.asks("vm_disk_convert", mode="offline")
    with contextlib.ExitStack() as silence:
        with paused_at("ask-shutdown 1", params, AT_CONSTANTS=WHERE_QEMU_IS_SILENT) as run:
            silence.enter_context(machine.stopped())
        failed = run.result()
        machine.assert_says_who_is_silent(failed)
        assert "cannot ask the guest to shut down" in failed["msg"]
    with contextlib.closing(machine.hv.connect()) as connection:
        connection.lookupByName(machine.name).destroy()
    done = run_module("vm_disk_convert", machine.asks("vm_disk_convert", trusted=True))
    assert done.get("changed"), done
    assert done["disks"][0]["mode"] == "offline"
    assert is_running(machine.hv, machine.name)
    machine.process = machine.hv.qemu_pid(machine.name)
    machine.assert_converges("vm_disk_convert")


def test_facts_of_a_domain_whose_qemu_is_silent_say_so_and_the_others_come_all_the_same(
    machine: Machine, make_domain: MakeDomain
) -> None:
    other = make_domain([Disk(make_image(machine.images / "other.raw"))], kernel=False).name
    run = start_module("vm_disk_flatten", machine.asks("vm_disk_flatten", bandwidth=HELD))
    asked = {"names": [machine.name, other], "uri": machine.hv.uri}
    wait_in(run, lambda: run_module("vm_disk_info", asked)["disks"][0]["job"], "the pull")
    run.kill()
    with machine.stopped():
        silent, found = run_module("vm_disk_info", asked, env=environment(CONSTANTS=LOOKING))["disks"]
    assert silent["job"] is None
    assert f"QEMU of {machine.name} does not answer" in silent["problem"]
    assert (found["job"], found["problem"]) == (False, None)
    machine.assert_converges("vm_disk_flatten")


def test_a_libvirtd_that_is_silent_is_named(machine: Machine) -> None:
    params = machine.asks("vm_disk_resize")
    send(machine.hv.pid, signal.SIGSTOP)
    try:
        never = run_module("vm_disk_resize", params, env=environment(CONSTANTS=WHERE_LIBVIRT_IS_SILENT))
        assert f"cannot connect to libvirt: waited {PATIENCE} s for an answer: libvirt does not answer" in never["msg"]
    finally:
        send(machine.hv.pid, signal.SIGCONT)
    settings = {
        "CONSTANTS": constants({"_libvirt.binding": {"KEEPALIVE": [2, 5]}}),
        "AT_CONSTANTS": WHERE_LIBVIRT_IS_SILENT,
    }
    with contextlib.ExitStack() as silence:
        with paused_at("ask-blockResize 1", params, module="vm_disk_resize", **settings) as run:
            send(machine.hv.pid, signal.SIGSTOP)
            silence.callback(send, machine.hv.pid, signal.SIGCONT)
        failed = run.result()
    assert "libvirt does not answer: see whether libvirtd" in failed["msg"], failed
    machine.assert_converges("vm_disk_resize")


DEAF = """
import libvirt, sys
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def deaf_client(uri: str) -> Iterator[None]:
    """A client that gives libvirtd no sign of life."""
    argv = [sys.executable, "-c", DEAF, uri]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout
        assert client.stdout.readline()
        yield


def test_a_conversion_that_takes_longer_than_libvirtd_waits_for_a_sign_of_life_is_no_dead_client(
    tmp_path: Path,
) -> None:
    """Another client, which gives none, shows that so much time is over."""
    held = HeldQemuImg(tmp_path, "convert", 25)
    with Hypervisor(Path(tempfile.gettempdir()), f"brief-{os.getpid()}") as hv:
        with open(hv.directory / "etc/libvirtd.conf", "a", encoding="utf-8") as settings:
            settings.write("keepalive_interval = 1\nkeepalive_count = 5\n")
        hv.restart()
        source = make_image(hv.images / "vm.raw", mib=20, size_mib=24)
        before = content(source, "raw")
        hv.define(hv.domain_xml("vm", [Disk(source)], kernel=False))
        run = start_module("vm_disk_convert", {"name": "vm", "disk": "vda", "uri": hv.uri}, python=held.python())
        held.wait()
        with deaf_client(hv.uri):
            wait_for(lambda: "closed due to keepalive timeout" in hv.log(), "libvirtd takes the other client for dead")
        held.let_go()
        assert run.result().get("changed")
        assert disk_of(hv, "vm") == (str(hv.images / "vm.qcow2"), "qcow2")
        assert content(hv.images / "vm.qcow2", "qcow2") == before
        assert not is_running(hv, "vm")
