# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/convert_disks.yml and its role: which disks of which domains on which hosts, and what of a failed one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libvirt
import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import record_path
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, record_to_xml
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from support.scene import RECORD, content, disk_of, is_running, leftovers, make_image, unchanged

ROOT = Path(__file__).resolve().parents[2]
Play = Callable[..., "Played"]


class Played:
    """A run of the playbook: whether it succeeded, what it changed, how many batches of hosts it went through."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.output = done.stdout + done.stderr
        self.succeeded = done.returncode == 0
        self.changed = sum(int(count) for count in re.findall(r"\bchanged=(\d+)", self.output))
        self.hosts = len(re.findall(r"^\S+ +: ok=", self.output, re.MULTILINE))
        self.batches = self.output.count("PLAY [")


@pytest.fixture
def play(hv: Hypervisor, tmp_path: Path) -> Play:
    """Runs the playbook, by default on this machine, with variables as a person would type them."""

    def run(*options: str, **variables: object) -> Played:
        given = {"disk_convert_hosts": "localhost", "disk_convert_uri": hv.uri, **variables}
        typed = [f"--extra-vars={name}={value}" for name, value in given.items() if value is not None]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment["ANSIBLE_HOME"] = str(tmp_path / "ansible-home")
        playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/convert_disks.yml"]
        return Played(
            subprocess.run(
                [*playbook, "--inventory", "/dev/null", *options, *typed],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        )

    return run


def test_only_the_named_domains_and_formats_are_converted(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    raw, vmdk, vdi = (make_image(images / f"{name}.{name}", name) for name in ("raw", "vmdk", "vdi"))
    first = make_domain([Disk(raw, "raw", "vda"), Disk(vdi, "vdi", "vdb")]).name
    second = make_domain([Disk(vmdk, "vmdk")]).name
    other = make_domain([Disk(make_image(images / "other.raw"))]).name
    wanted = {
        "disk_convert_domains": f"{first},{second}",
        "disk_convert_from": "raw,vmdk",
        "disk_convert_dest_dir": images / "new",
    }
    (images / "new").mkdir()

    with unchanged(hv, images, first, second, other):
        assert play("--check", **wanted).changed
    done = play(**wanted)

    assert done.succeeded, done.output
    assert f"{raw} (raw," in done.output
    assert disk_of(hv, first, "vda") == (str(images / "new/raw.qcow2"), "qcow2")
    assert disk_of(hv, first, "vdb") == (str(vdi), "vdi")
    assert disk_of(hv, second) == (str(images / "new/vmdk.qcow2"), "qcow2")
    assert disk_of(hv, other) == (str(images / "other.raw"), "raw")
    assert content(images / "new/vmdk.qcow2", "qcow2") == content(vmdk, "vmdk")
    with unchanged(hv, images, first, second, other):
        assert play(**wanted).changed == 0


def test_without_names_every_disk_that_its_guest_alone_may_write_to_is_converted(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    mine, shared, fixed, cd = (
        make_image(images / f"{name}.raw", seed=name) for name in ("mine", "shared", "fixed", "cd")
    )
    disks = [
        Disk(mine, target="vda"),
        Disk(shared, target="vdb", shareable=True),
        Disk(fixed, target="vdc", readonly=True),
        Disk(cd, target="hda", device="cdrom", readonly=True),
    ]
    name = make_domain(disks).name

    done = play(disk_convert_keep_source="false")

    assert done.succeeded, done.output
    assert disk_of(hv, name, "vda") == (str(images / "mine.qcow2"), "qcow2")
    assert not mine.exists()
    for target, path in (("vdb", shared), ("vdc", fixed), ("hda", cd)):
        assert disk_of(hv, name, target) == (str(path), "raw")


def test_a_machine_that_runs_is_only_shut_down_where_that_is_asked_for(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    process = hv.qemu_pid(name)
    back = {"disk_convert_from": "qcow2", "disk_convert_format": "raw", "disk_convert_dest_dir": images / "back"}
    (images / "back").mkdir()

    predicted = play("--check", disk_convert_mode="live")
    there = play(disk_convert_mode="live", disk_convert_bandwidth="100M", disk_convert_copy_timeout=3600)

    assert "its machine runs on" in predicted.output
    assert "its machine ran on" in there.output, there.output
    assert (hv.qemu_pid(name), disk_of(hv, name)[1]) == (process, "qcow2")

    again = play(disk_convert_mode="offline", disk_convert_shutdown="force", **back)

    assert re.search(r"its machine was off for \d+\.\d seconds", again.output), again.output
    assert is_running(hv, name)
    assert hv.qemu_pid(name) != process
    assert disk_of(hv, name) == (str(images / "back/vm.raw"), "raw")


def test_a_domain_that_cannot_be_converted_does_not_hold_up_the_others(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    blocked = make_domain([Disk(make_image(images / "blocked.raw"))], name="a").name
    free = make_domain([Disk(make_image(images / "free.raw"))], name="b").name
    (images / "blocked.qcow2").write_text("somebody's")

    with unchanged(hv, images / "blocked.raw", blocked):
        done = play(disk_convert_domains=f"{blocked},{free}")

    assert not done.succeeded
    assert f"{images}/blocked.qcow2: exists already" in done.output
    assert (images / "blocked.qcow2").read_text() == "somebody's"
    assert disk_of(hv, free) == (str(images / "free.qcow2"), "qcow2")


def test_a_disk_that_cannot_be_converted_does_not_hold_up_its_siblings(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    good, blocked = make_image(images / "good.raw"), make_image(images / "blocked.raw")
    first = make_domain([Disk(blocked), Disk(good, target="vdb")], name="a").name
    alone = make_domain([Disk(make_image(images / "alone.raw"))], name="b").name
    for name in ("blocked", "alone"):
        (images / f"{name}.qcow2").write_text("somebody's")

    wanted = {"disk_convert_domains": f"{first},{alone}"}
    checked, done = play("--check", **wanted), play(**wanted)

    assert not checked.succeeded
    assert not done.succeeded
    for name in ("blocked", "alone"):
        assert f"{images}/{name}.qcow2: exists already" in done.output
    assert disk_of(hv, first, "vda") == (str(blocked), "raw")
    assert disk_of(hv, first, "vdb") == (str(images / "good.qcow2"), "qcow2")
    assert content(images / "good.qcow2", "qcow2") == content(good, "raw")
    assert disk_of(hv, alone) == (str(images / "alone.raw"), "raw")
    assert "(raw, " in done.output, "what was done is told of"

    for name in ("blocked", "alone"):
        (images / f"{name}.qcow2").unlink()
    again = play(**wanted)
    assert again.succeeded, again.output
    assert disk_of(hv, first) == (str(images / "blocked.qcow2"), "qcow2")


def test_a_raw_disk_that_is_called_like_the_new_one_is_converted_with_its_sibling(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    misnamed, good = make_image(images / "x.qcow2"), make_image(images / "x.raw", seed="good")
    seen = content(misnamed, "raw"), content(good, "raw")
    name = make_domain([Disk(misnamed), Disk(good, target="vdb")]).name

    predicted = play("--check", disk_convert_domains=name)
    done = play(disk_convert_domains=name)

    assert predicted.succeeded, predicted.output
    assert done.succeeded, done.output
    made = [disk_of(hv, name, target) for target in ("vda", "vdb")]
    assert made == [(str(images / "x.1.qcow2"), "qcow2"), (str(images / "x.2.qcow2"), "qcow2")]
    assert tuple(content(path, "qcow2") for path, _format in made) == seen
    assert content(misnamed, "raw") == seen[0], "the old image is kept"
    assert play(disk_convert_domains=name).changed == 0


def test_a_domain_that_a_killed_run_left_off_is_started(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    source, dest = make_image(images / "vm.raw"), make_image(images / "vm.qcow2", "qcow2")
    name = make_domain([Disk(dest, "qcow2")]).name
    recorded = RecordedDisk("vda", str(source), "raw", str(dest), "qcow2")
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(name).setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            record_to_xml(Record("convert", "offline", "2026-01-01T00:00:00+00:00", True, False, (recorded,))),
            "kvmops",
            RECORD,
            libvirt.VIR_DOMAIN_AFFECT_CONFIG,
        )
        uuid = connection.lookupByName(name).UUIDString()
    note = {"verb": "convert", "domain": uuid, "source": str(source), "dest": str(dest)}
    Path(record_path(str(dest))).write_text(json.dumps(note), encoding="utf-8")

    done = play()

    assert done.succeeded, done.output
    assert done.changed == 1
    assert is_running(hv, name)
    assert not leftovers(hv, name, images)
    assert play().changed == 0


def test_hosts_are_done_one_by_one_or_together(hv: Hypervisor, tmp_path: Path, play: Play) -> None:
    inventory = tmp_path / "hosts"
    local = f"ansible_connection=local ansible_python_interpreter={sys.executable}"
    inventory.write_text(f"[kvm_hosts]\none {local}\ntwo {local}\n[others]\nthree {local}\n")
    inventories = ("--inventory", str(inventory))

    one_by_one = play(*inventories, disk_convert_hosts=None)
    together = play(*inventories, disk_convert_hosts=None, disk_convert_serial="100%")
    elsewhere = play(*inventories, disk_convert_hosts="others")

    assert (one_by_one.succeeded, one_by_one.hosts, one_by_one.batches) == (True, 2, 2), one_by_one.output
    assert (together.succeeded, together.hosts, together.batches) == (True, 2, 1), together.output
    assert (elsewhere.succeeded, elsewhere.hosts, elsewhere.batches) == (True, 1, 1), elsewhere.output


def test_nothing_is_touched_until_somebody_says_on_which_hosts(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, play: Play
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))]).name
    with unchanged(hv, images, name):
        done = play(disk_convert_hosts=None)
    assert done.hosts == 0, done.output
