# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_flatten: a disk needs its backing files no more, and nobody notices: the guest, its data, what is below."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Guest, Hypervisor, pattern_sha256, run_module, start_module, tree_state, write_pattern
from lab.fixtures import MakeDomain
from lab.tree import file_digest
from support.guest_writes import acknowledged, start_writing, stop_writing
from support.injection import wait_in
from support.playground import Playground, percents
from support.scene import (
    MIB,
    chain_of,
    content,
    definition,
    image_chain,
    leftovers,
    make_image,
    make_overlay,
    qemu_img,
    with_backing,
)
from support.waits import HELD, send_to_group, wait_for

MODULE = "vm_disk_flatten"


def guest_base(path: Path) -> Path:
    """A raw disk with an ext4 that holds 8 MiB of the lab's pattern."""
    tree = path.with_name("tree")
    tree.mkdir()
    write_pattern(tree / "old", 8, "base")
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, path, "64M"], check=True)
    (tree / "old").unlink()
    tree.rmdir()
    return path


def overlay(path: Path, below: Path, image_format: str = "qcow2", **options: str) -> Path:
    """An empty qcow2 image over BELOW."""
    chosen = ["-o", ",".join(f"{name}={value}" for name, value in options.items())] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *chosen, "-b", below, "-F", image_format, "--", path)
    return path


@pytest.mark.parametrize("mode", ["live", "offline"])
def test_a_hypervisor_that_does_not_change_owners_runs_on_the_flat_image_and_the_base_keeps_its_owner(
    static_hv: Hypervisor, mode: str
) -> None:
    user = pwd.getpwnam("libvirt-qemu")
    directory = static_hv.images / mode
    directory.mkdir(mode=0o711)
    base, top = make_image(directory / "base.raw"), directory / "vm.qcow2"
    make_overlay(top, base)
    for path, owner, rights in ((base, 4321, 0o644), (top, user.pw_uid, 0o600)):
        os.chown(path, owner, user.pw_gid if owner == user.pw_uid else owner)
        path.chmod(rights)
    worn, before = [dress(path) for path in (base, top)], content(top, "qcow2")
    below = file_digest(base)
    static_hv.define(static_hv.domain_xml(mode, [Disk(top, "qcow2")], kernel=False))
    if mode == "live":
        static_hv.start(mode)
    params = {"name": mode, "disk": "vda", "uri": static_hv.uri, "trusted": True}
    done = run_module(MODULE, params)
    assert done.get("changed"), done
    assert done["disks"][0]["mode"] == mode
    assert not run_module(MODULE, params)["changed"]
    assert [dress(path) for path in (base, top)] == worn
    assert file_digest(base) == below
    base.unlink()
    if mode == "offline":
        static_hv.start(mode)
    assert image_chain(top, "qcow2") == []
    assert content(top, "qcow2") == before
    assert leftovers(static_hv, mode, directory) == []
    static_hv.remove(mode)


def dress(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, status.st_mode


# Below a running guest


@dataclass
class Journey:
    """A guest that writes while its chain of three becomes one of two, and then one image."""

    guest: Guest
    base: Path
    middle: Path
    top: Path
    params: dict[str, Any]
    owner: tuple[int, int]
    before: str
    predicted: dict[str, Any]
    untouched_by_check: bool
    shorter: dict[str, Any]
    between: tuple[list[str], list[str], list[str]]
    again: dict[str, Any]
    alone: dict[str, Any]
    alone_again: dict[str, Any]
    same_process: bool
    same_below: bool
    owner_after: tuple[int, int]
    acked: list[int]
    phases: list[dict[str, Any]]


@pytest.fixture(scope="module")
def journey(hv: Hypervisor) -> Iterator[Journey]:
    directory = hv.images / "flatten: a, b ü"
    directory.mkdir(mode=0o711)
    base = guest_base(directory / "base, of:all.raw")
    middle = overlay(directory / "-middle.qcow2", base, "raw")
    top = overlay(directory / "vm 1.qcow2", middle)
    for path, number in ((base, 4321), (middle, 4322), (top, 4323)):
        os.chown(path, number, number)
    xml = hv.domain_xml("flatten", [Disk(top, "qcow2", serial="DATA")], vnc_password="sesame")
    guest = hv.boot(with_backing(xml, (middle, "qcow2"), (base, "raw")))
    guest.must("sha256sum /data/old | grep " + pattern_sha256(8, "base"))
    start_writing(guest)
    below = file_digest(base), file_digest(middle)
    owner = os.stat(base).st_uid, os.stat(middle).st_uid
    params = {"name": "flatten", "disk": "vda", "uri": hv.uri}
    before, process, tree = definition(hv, "flatten"), hv.qemu_pid("flatten"), set(os.listdir(directory))
    predicted = run_module(MODULE, {**params, "base": str(base)}, check=True, diff=True)
    untouched = definition(hv, "flatten") == before and set(os.listdir(directory)) == tree
    acked = [acknowledged(guest)]
    progress = directory.with_name("flatten-progress")
    watched = {"KVMOPS_PROGRESS": str(progress)}
    shorter = run_module(MODULE, {**params, "base": str(base)}, diff=True, env=watched)
    between = chain_of(hv, "flatten"), chain_of(hv, "flatten", live=True), image_chain(top, "qcow2")
    acked.append(acknowledged(guest, acked[-1]))
    again = run_module(MODULE, {**params, "disk": str(top), "base": str(base)})
    run = start_module(MODULE, {**params, "bandwidth": HELD}, diff=True)
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.lookupByName("flatten")
        wait_in(run, lambda: domain.blockJobInfo("vda", 0), "the pull")
        acked.append(acknowledged(guest, acked[-1]))  # while its disk is pulled
        domain.blockJobSetSpeed("vda", 0, 0)
    alone = run.result()
    acked.append(stop_writing(guest))
    yield Journey(
        *(guest, base, middle, top, params, owner, before, predicted, untouched, shorter, between, again, alone),
        alone_again=run_module(MODULE, params),
        same_process=hv.qemu_pid("flatten") == process,
        same_below=(file_digest(base), file_digest(middle)) == below,
        owner_after=(os.stat(base).st_uid, os.stat(middle).st_uid),
        acked=acked,
        phases=json.loads(progress.read_text(encoding="utf-8"))["phases"],
    )
    hv.remove("flatten")


def test_a_running_guest_never_stops_and_loses_no_record(journey: Journey) -> None:
    assert journey.shorter["changed"], journey.shorter
    assert journey.alone["changed"], journey.alone
    assert journey.same_process
    assert journey.acked == sorted(set(journey.acked))


def test_what_is_between_the_image_and_the_base_is_merged(journey: Journey) -> None:
    kept = [str(journey.base)]
    assert journey.between == (kept, kept, kept), "the definition, the running domain and the image say so"
    (disk,) = journey.shorter["disks"]
    assert [image["path"] for image in disk["backing_chain"]] == [str(journey.top), *kept]
    assert [image["path"] for image in disk["previous_backing_chain"]][1] == str(journey.middle)
    assert (disk["mode"], disk["path"], disk["format"]) == ("live", str(journey.top), "qcow2")
    assert disk["actual_size"] >= disk["previous_actual_size"]
    (action,) = journey.shorter["actions"]
    assert action.startswith(f"pull {journey.middle} into {journey.top} (vda), down to {journey.base}, below flatten")


def test_without_a_base_nothing_is_left_below(hv: Hypervisor, journey: Journey) -> None:
    assert [image["path"] for image in journey.alone["disks"][0]["backing_chain"]] == [str(journey.top)]
    assert chain_of(hv, "flatten") == chain_of(hv, "flatten", live=True) == []


def test_a_second_run_changes_nothing(journey: Journey) -> None:
    for again in (journey.again, journey.alone_again):
        assert not again["changed"], again
        assert again["actions"] == []
        assert again["disks"][0]["previous_backing_chain"] is None


def test_check_mode_predicts_a_pull_and_writes_nothing(journey: Journey) -> None:
    assert journey.untouched_by_check
    assert journey.predicted["changed"]
    assert journey.predicted["actions"] == journey.shorter["actions"]
    assert journey.predicted["diff"] == journey.shorter["diff"]
    removed = [line for line in journey.shorter["diff"][1]["prepared"].splitlines() if line.startswith("-  ")]
    assert any(journey.middle.name in line for line in removed)
    chains = [
        [image["path"] for image in run["disks"][0]["backing_chain"]] for run in (journey.predicted, journey.shorter)
    ]
    assert chains[0] == chains[1]


def test_only_the_backing_files_change_in_the_definition(hv: Hypervisor, journey: Journey) -> None:
    chain = journey.before[journey.before.index("<backingStore") : journey.before.rindex("</backingStore>")]
    assert definition(hv, "flatten") == journey.before.replace(chain + "</backingStore>", "<backingStore/>")


def test_the_backing_files_are_as_before_byte_for_byte_and_so_are_their_owners(
    hv: Hypervisor, journey: Journey
) -> None:
    assert journey.same_below
    assert journey.owner_after == journey.owner
    assert leftovers(hv, "flatten", journey.top.parent) == []


def test_how_far_the_pull_is_can_be_seen(journey: Journey) -> None:
    (phase,) = journey.phases
    assert (phase["subject"], phase["verb"], phase["state"]) == ("flatten vda", "pull", "done")
    assert phase["total"] > 0


def test_the_guest_boots_without_the_backing_files(hv: Hypervisor, journey: Journey) -> None:
    journey.guest.must("umount /data; sync")
    subprocess.run(["virsh", "-q", "-c", hv.uri, "destroy", "flatten"], check=True)
    assert os.stat(journey.top).st_uid == 4323
    journey.base.unlink()
    journey.middle.unlink()
    hv.start("flatten")
    journey.guest.wait_ready()
    said = journey.guest.must("check /data/records; sha256sum -c /data/SUMS; sha256sum /data/old")
    assert int(said.split()[1]) >= journey.acked[-1]
    assert pattern_sha256(8, "base") in said


def test_a_paused_domain_is_flattened_and_stays_paused(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    base = make_image(images / "base.qcow2", "qcow2")
    top = make_overlay(images / "vm.qcow2", base, "qcow2")
    wanted = content(top, "qcow2")
    name = make_domain([Disk(top, "qcow2")], kernel=False).name
    hv.start(name)
    subprocess.run(["virsh", "-q", "-c", hv.uri, "suspend", name], check=True)
    before = definition(hv, name)
    done = run_module(MODULE, {"name": name, "disk": "vda", "mode": "live", "uri": hv.uri})
    assert done.get("changed"), done
    state = subprocess.run(["virsh", "-q", "-c", hv.uri, "domstate", name], check=True, capture_output=True, text=True)
    assert state.stdout.strip() == "paused"
    assert image_chain(top, "qcow2") == []
    assert content(top, "qcow2") == wanted
    assert definition(hv, name) == before, "which says nothing of backing files"
    assert leftovers(hv, name, images) == []


# Offline


@dataclass
class Machine:
    """A domain that is off, over a chain of three: zeros over data, data over data, data alone."""

    hv: Hypervisor
    name: str
    base: Path
    middle: Path
    top: Path

    def __post_init__(self) -> None:
        self.params: dict[str, Any] = {"name": self.name, "disk": "vda", "uri": self.hv.uri}
        self.content = content(self.top, "qcow2")
        self.below = file_digest(self.base), file_digest(self.middle)

    def assert_same_below(self) -> None:
        assert (file_digest(self.base), file_digest(self.middle)) == self.below


@pytest.fixture
def off(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Machine:
    base = make_image(images / "base.raw", mib=4)
    middle = make_overlay(images / "middle.qcow2", base)
    top = overlay(images / "vm.qcow2", middle, cluster_size="128K", lazy_refcounts="on", refcount_bits="32")
    write = f"write -z {MIB} 1M"
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", write, "-c", "write -P 7 5M 64k", top], check=True, capture_output=True
    )
    os.chown(top, 4321, 4321)
    top.chmod(0o640)
    name = make_domain([], kernel=False).name
    hv.remove(name)
    hv.define(with_backing(hv.domain_xml(name, [Disk(top, "qcow2")], kernel=False), (middle, "qcow2"), (base, "raw")))
    return Machine(hv, name, base, middle, top)


def facts(path: Path) -> dict[str, Any]:
    return json.loads(qemu_img("info", "--output=json", "-f", "qcow2", path))  # type: ignore[no-any-return]


@pytest.mark.parametrize("to_base", [False, True], ids=["alone", "down to a base"])
def test_off_line_a_new_image_takes_the_place_of_the_old_one(off: Machine, to_base: bool) -> None:
    params = {**off.params, **({"base": str(off.base)} if to_base else {})}
    kept = [str(off.base)] if to_base else []
    before, old, tree = definition(off.hv, off.name), facts(off.top), tree_state(off.top.parent)
    inode = os.stat(off.top).st_ino
    predicted = run_module(MODULE, params, check=True, diff=True)
    assert tree_state(off.top.parent) == tree
    assert definition(off.hv, off.name) == before
    done = run_module(MODULE, params, diff=True)
    assert done.get("changed"), done
    assert predicted["actions"] == done["actions"]
    assert predicted["diff"] == done["diff"]
    (disk,) = done["disks"]
    assert disk["mode"] == "offline"
    assert disk["verified"]
    assert [image["path"] for image in disk["backing_chain"]] == [str(off.top), *kept]
    assert len(disk["previous_backing_chain"]) == 3
    assert image_chain(off.top, "qcow2") == kept
    assert chain_of(off.hv, off.name) == kept
    assert content(off.top, "qcow2") == off.content
    status, new = os.stat(off.top), facts(off.top)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777, status.st_nlink) == (4321, 4321, 0o640, 1)
    assert status.st_ino != inode
    for name in ("cluster-size", "virtual-size"):
        assert new[name] == old[name]
    new["format-specific"]["data"].pop("corrupt"), old["format-specific"]["data"].pop("corrupt")
    assert new["format-specific"] == old["format-specific"]
    off.assert_same_below()
    assert leftovers(off.hv, off.name, off.top.parent) == []
    again = run_module(MODULE, params)
    assert not again["changed"], again
    off.hv.start(off.name)
    assert chain_of(off.hv, off.name, live=True) == kept


def test_an_overlay_that_was_fully_allocated_and_is_not_any_more_is_told_of(off: Machine) -> None:
    size = facts(off.top)["virtual-size"]
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P 0 0 {size}", off.top], check=True, capture_output=True)
    done = run_module(MODULE, off.params)
    (told,) = done["warnings"]
    assert f"{off.top}: was fully allocated before the flattening, and " in str(told)
    assert "of its disk are not reserved any more" in str(told)


def test_the_new_image_reads_the_same_where_the_old_chain_is_still_named(off: Machine) -> None:
    """As by a definition that a killed run did not come to change: the zeros hide what the backing files hold."""
    assert run_module(MODULE, off.params)["changed"]
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", off.middle, "-F", "qcow2", off.top)
    assert content(off.top, "qcow2") == off.content


def test_a_chain_that_the_definition_does_not_name_is_followed_only_where_it_is_trusted(off: Machine) -> None:
    off.hv.remove(off.name)
    off.hv.define(off.hv.domain_xml(off.name, [Disk(off.top, "qcow2")], kernel=False))
    before = definition(off.hv, off.name)
    refused = run_module(MODULE, off.params)
    assert "which the definition of" in refused["msg"]
    done = run_module(MODULE, {**off.params, "trusted": True})
    assert done.get("changed"), done
    assert done["diff"][1]["prepared"] == ""
    assert definition(off.hv, off.name) == before
    assert content(off.top, "qcow2") == off.content


def test_overlays_of_domains_that_are_off_stay_valid_and_running_ones_forbid_it(
    off: Machine, make_domain: MakeDomain
) -> None:
    clone = make_overlay(off.top.with_name("clone.qcow2"), off.top, "qcow2")
    other = make_domain([Disk(clone, "qcow2")], kernel=False).name
    wanted = content(clone, "qcow2")
    off.hv.start(other)
    refused = run_module(MODULE, off.params)
    assert f"in use by running domain {other} (backing file of vda)" in refused["msg"]
    assert refused["in_use_by"][0]["domain"] == other
    subprocess.run(["virsh", "-q", "-c", off.hv.uri, "destroy", other], check=True)
    assert run_module(MODULE, off.params)["changed"]
    assert content(clone, "qcow2") == wanted


def test_several_disks_and_links_are_flattened_in_one_task(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    real = [make_overlay(images / f"{name}.qcow2", base) for name in ("a", "b")]
    link = images / "link.qcow2"
    link.symlink_to("a.qcow2")
    raw = make_image(images / "c.raw")
    wanted = [content(path, "qcow2") for path in real]
    disks = [Disk(link, "qcow2"), Disk(real[1], "qcow2", target="vdb"), Disk(raw, target="vdc")]
    name = make_domain(disks, kernel=False).name
    params = {"name": name, "disks": ["vda", str(real[1]), "vdc", "vda"], "trusted": True, "uri": hv.uri}
    done = run_module(MODULE, params)
    assert done.get("changed"), done
    assert [(disk["target"], disk["mode"]) for disk in done["disks"]] == [
        ("vda", "offline"),
        ("vdb", "offline"),
        ("vdc", None),
    ]
    assert link.is_symlink()
    assert [content(path, "qcow2") for path in real] == wanted
    assert [image_chain(path, "qcow2") for path in real] == [[], []]
    assert not run_module(MODULE, params)["changed"]
    assert leftovers(hv, name, images) == []


def test_a_disk_without_backing_files_is_left_alone_whatever_the_base(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    before = tree_state(images)
    done = run_module(MODULE, {"name": name, "disk": "vda", "base": "/nowhere/base.raw", "uri": hv.uri})
    assert not done["changed"], done
    assert done["disks"][0]["backing_chain"][0]["format"] == "raw"
    assert tree_state(images) == before


# In a playbook


def test_ctrl_c_ends_a_pull_that_says_how_far_it_is(off: Machine, ground: Playground) -> None:
    off.hv.start(off.name)
    task = {f"kvmops.disk.{MODULE}": {"name": off.name, "disk": "vda", "bandwidth": HELD}}
    run = ground.start(task)
    run.wait_for("vda: pull")
    wait_for(lambda: pulls(off), "the pull")
    send_to_group(run.process.pid, signal.SIGINT)
    run.wait()
    assert run.process.returncode != 0
    wait_for(lambda: not pulls(off) and not leftovers(off.hv, off.name, off.top.parent), "the end of the pull")
    assert image_chain(off.top, "qcow2") == [str(off.middle), str(off.base)]

    task[f"kvmops.disk.{MODULE}"]["bandwidth"] = "500M"
    again = ground.play({**task, "register": "again"})
    assert {(line["subject"], line["verb"]) for line in again.lines()} == {(f"{off.name} vda", "pull")}
    found = percents(again, "here", "pull")
    assert (found[0], found[-1]) == (0, 100)
    assert again.result("again")["disks"][0]["mode"] == "live"
    assert content(off.top, "qcow2") == off.content


def pulls(machine: Machine) -> bool:
    with contextlib.closing(machine.hv.connect()) as connection:
        return bool(connection.lookupByName(machine.name).blockJobInfo("vda", 0))
