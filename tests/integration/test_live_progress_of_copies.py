# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vm_disk_convert prints while it copies below a running guest, and what becomes of an interrupted copy."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest
from lab import Hypervisor
from support.playground import LARGE_MIB, MakeWeb, Playground, Run, conversion, percents
from support.scene import content, definition, disk_of, leftovers
from support.waits import HELD, send, send_to_group, wait_for

#: Of the disk of make_web(large=True).
SIZE_MIB = LARGE_MIB + 8


class Web:
    """A running machine: what must hold of it however its copy ends."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.process = hv.qemu_pid(name)
        (self.source,) = images.glob("*.raw")
        self.content = content(self.source, "raw")

    def live(self) -> tuple[str, str | None]:
        """The path of the image that the guest uses, and of that to which it is copied."""
        disk = ElementTree.fromstring(definition(self.hv, self.name, 0)).find("devices/disk")
        assert disk is not None
        source, mirror = disk.find("source"), disk.find("mirror/source")
        assert source is not None
        return source.attrib["file"], None if mirror is None else mirror.attrib["file"]

    def is_copied(self) -> bool:
        return self.live()[1] is not None

    @contextlib.contextmanager
    def domain(self) -> Iterator[libvirt.virDomain]:
        with contextlib.closing(self.hv.connect()) as connection:
            yield connection.lookupByName(self.name)

    def assert_as_before(self) -> None:
        assert self.hv.qemu_pid(self.name) == self.process
        assert self.live() == (str(self.source), None)
        assert disk_of(self.hv, self.name) == (str(self.source), "raw")
        assert leftovers(self.hv, self.name, self.images) == []
        assert list(self.images.iterdir()) == [self.source]

    def assert_converted(self) -> None:
        assert self.hv.qemu_pid(self.name) == self.process
        path, image_format = disk_of(self.hv, self.name)
        assert image_format == "qcow2"
        assert self.live() == (path, None)
        assert content(path, "qcow2") == self.content
        assert leftovers(self.hv, self.name, self.images) == []


@pytest.fixture
def web(hv: Hypervisor, images: Path, make_web: MakeWeb) -> Web:
    return Web(hv, images, make_web(large=True, running=True))


def assert_tells(run: Run, web: Web) -> None:
    """The lines of the copy, from its beginning to its end."""
    told = {(line["host"], line["subject"], line["verb"]) for line in run.lines()}
    assert told == {("here", f"{web.name} vda", "copy")}, run.output
    found = percents(run, "here", "copy")
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 100)


def test_a_copy_says_how_far_it_is_when_it_begins_meanwhile_and_when_it_has_ended(web: Web, ground: Playground) -> None:
    run = ground.start(conversion(web.name, bandwidth=HELD, REGISTER="done"))
    run.wait_for(r"vda: copy [1-9]\d? %")
    with web.domain() as domain:
        job = domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        assert job["bandwidth"] == int(HELD), "as slowly as it was asked for"
        domain.blockJobSetSpeed("vda", 0, 0)
    assert run.wait().process.returncode == 0, run.output

    assert_tells(run, web)
    assert run.lines()[0]["rest"] == f"{SIZE_MIB} MiB", "the size of the disk, from the first line on"
    meanwhile = [line["rest"] for line in run.lines() if 0 < int(line["percent"]) < 100]
    assert meanwhile, run.output
    for rest in meanwhile:
        assert re.fullmatch(rf"{SIZE_MIB}(\.\d+)? MiB, [\d.]+ \wiB/s, \d+ (s|min) left", rest), run.output
    told = re.fullmatch(rf"({SIZE_MIB}(\.\d+)?) MiB, ([\d.]+) (\w)iB/s, in ([\d.]+) (s|min)", run.lines()[-1]["rest"])
    assert told, run.output
    fastest, slowest = rounded(told[3], 1 << {"K": 10, "M": 20, "G": 30}[told[4]])
    longest, shortest = rounded(told[5], {"s": 1, "min": 60}[told[6]])
    assert slowest * shortest <= float(told[1]) * (1 << 20) <= fastest * longest, run.output
    assert run.result("done")["disks"][0]["mode"] == "live"
    web.assert_converted()
    assert ground.left() == []


def rounded(told: str, unit: int) -> tuple[float, float]:
    """The most and the least that is told so, in whole units or in tenths."""
    half = 0.05 if "." in told else 0.5
    return (float(told) + half) * unit, (float(told) - half) * unit


def test_ctrl_c_ends_the_copy_and_the_guest_runs_on_with_its_old_disk(web: Web, ground: Playground) -> None:
    run = ground.start(conversion(web.name, bandwidth=HELD))
    run.wait_for("vda: copy")
    wait_for(web.is_copied, "the copy")

    send_to_group(run.process.pid, signal.SIGINT)
    run.wait()

    assert run.process.returncode != 0
    wait_for(lambda: not web.is_copied() and not leftovers(web.hv, web.name, web.images), "the end of the copy")
    web.assert_as_before()
    wait_for(lambda: not ground.left(), "an empty async directory")
    assert "changed=1" in ground.play(conversion(web.name)).output
    web.assert_converted()


def test_the_copy_of_a_killed_module_goes_on_and_the_next_run_goes_on_with_it(web: Web, ground: Playground) -> None:
    run = ground.start(conversion(web.name, bandwidth=HELD))
    run.wait_for("vda: copy")
    wait_for(web.is_copied, "the copy")
    send(ground.module(), signal.SIGKILL)

    assert run.wait().process.returncode == 2, run.output
    dest = web.live()[1]
    assert dest is not None
    identity = os.stat(dest).st_ino
    assert web.live() == (str(web.source), dest)

    again = ground.play(conversion(web.name, REGISTER="again"), conversion(web.name, REGISTER="third"))
    assert again.result("again")["actions"][0].startswith("resume the copy of vda"), again.output
    assert_tells(again, web)
    web.assert_converted()
    assert (disk_of(web.hv, web.name)[0], os.stat(dest).st_ino) == (dest, identity)
    assert not again.result("third")["changed"]
