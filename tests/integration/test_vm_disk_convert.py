# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert, the main job: a machine on a raw disk runs on qcow2 afterwards, with its data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Guest, Hypervisor, build_boot_disk, run_module, tree_state
from lab.fixtures import MakeDomain
from lab.tree import file_digest
from support.scene import (
    content,
    definition,
    disk_of,
    is_running,
    leftovers,
    make_image,
    qemu_img,
    unchanged,
)

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_convert"


@dataclass(frozen=True)
class MainJob:
    """What was seen of the job, from the booted guest on its raw disk to the third run."""

    guest: Guest
    source: Path
    source_content: str
    before: str
    untouched_by_check: bool
    predicted: dict[str, Any]
    done: dict[str, Any]
    took: float
    again: dict[str, Any]
    by_old_path: dict[str, Any]


@pytest.fixture(scope="module")
def main_job(hv: Hypervisor) -> Iterator[MainJob]:
    directory = hv.images / "main-job"
    directory.mkdir(mode=0o711)
    source = build_boot_disk(directory / "vm.raw")
    disk = Disk(source, serial="ROOT", cache="none", io="native")
    guest = hv.boot(hv.domain_xml("main-job", [disk], kernel=False, vnc_password="sesame"))
    params = {"name": "main-job", "disk": "vda", "mode": "offline", "uri": hv.uri}
    before, files = definition(hv, "main-job"), tree_state(directory)
    predicted = run_module(MODULE, params, check=True, diff=True)
    untouched = (definition(hv, "main-job"), tree_state(directory)) == (before, files) and is_running(hv, "main-job")
    began = time.monotonic()
    done = run_module(MODULE, params, diff=True)
    took = time.monotonic() - began
    guest.wait_ready()
    again = run_module(MODULE, params)
    by_old_path = run_module(MODULE, {**params, "disk": str(source)})
    yield MainJob(guest, source, file_digest(source), before, untouched, predicted, done, took, again, by_old_path)
    hv.remove("main-job")


def test_the_guest_finds_its_data_on_the_new_disk(main_job: MainJob) -> None:
    assert main_job.done["changed"]
    status, sums = main_job.guest.run("cd /data && sha256sum -c SHA256SUMS")
    assert status == 0, sums
    assert "pattern.bin: OK" in sums
    assert disk_of(main_job.guest.hv, "main-job") == (str(main_job.source.with_suffix(".qcow2")), "qcow2")


def test_the_running_guest_uses_the_new_disk(main_job: MainJob) -> None:
    assert main_job.guest.run("echo written >/data/new && sync")[0] == 0
    assert main_job.source_content == file_digest(main_job.source), "the old image is kept as it was"
    assert str(main_job.source.with_suffix(".qcow2")) in definition(main_job.guest.hv, "main-job", 0)


def test_the_result_says_what_became_of_the_disk(main_job: MainJob) -> None:
    (disk,) = main_job.done["disks"]
    dest = str(main_job.source.with_suffix(".qcow2"))
    expected = {
        "domain": "main-job",
        "target": "vda",
        "path": dest,
        "format": "qcow2",
        "virtual_size": 64 << 20,
        "previous_path": str(main_job.source),
        "previous_format": "raw",
        "mode": "offline",
        "verified": True,
    }
    assert {name: disk[name] for name in expected} == expected
    assert 0 < disk["downtime_seconds"] <= main_job.took
    assert disk["actual_size"] > 1 << 20
    assert disk["previous_actual_size"] == pytest.approx(os.stat(main_job.source).st_blocks * 512, rel=0.01)
    assert [image["path"] for image in disk["backing_chain"]] == [dest]


def test_the_actions_say_what_was_done_in_order(main_job: MainJob) -> None:
    assert [action.split()[0] for action in main_job.done["actions"]] == ["shut", "convert", "define", "start"]


def test_check_mode_writes_nothing_and_stops_nothing(main_job: MainJob) -> None:
    assert main_job.untouched_by_check


def test_check_mode_predicts_what_the_run_does(main_job: MainJob) -> None:
    predicted, done = main_job.predicted, main_job.done
    assert predicted["changed"]
    assert predicted["actions"] == done["actions"]
    assert predicted["diff"] == done["diff"]
    known = ("domain", "target", "path", "format", "virtual_size", "previous_path", "previous_format", "mode")
    assert [{name: disk[name] for name in known} for disk in predicted["disks"]] == [
        {name: disk[name] for name in known} for disk in done["disks"]
    ]
    chains = [
        [(image["path"], image["format"], image["virtual_size"], image["backing_file"]) for image in chain]
        for chain in (predicted["disks"][0]["backing_chain"], done["disks"][0]["backing_chain"])
    ]
    assert chains[0] == chains[1]


def test_the_diff_shows_the_disk_and_the_definition(main_job: MainJob) -> None:
    facts, xml = main_job.done["diff"]
    dest = str(main_job.source.with_suffix(".qcow2"))
    assert facts["before"] == {"vda": {"path": str(main_job.source), "format": "raw"}}
    assert facts["after"] == {"vda": {"path": dest, "format": "qcow2"}}
    lines = xml["prepared"].splitlines()
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line[0] for line in changed] == ["-", "-", "+", "+"]
    assert dest in changed[3]
    assert "sesame" not in str(main_job.done)
    assert "sesame" in main_job.before


def test_the_second_and_the_third_run_change_nothing(main_job: MainJob) -> None:
    assert not main_job.again["changed"]
    assert main_job.again["actions"] == []
    assert main_job.again["disks"][0]["path"] == str(main_job.source.with_suffix(".qcow2"))
    assert main_job.again["disks"][0]["previous_path"] is None


def test_the_disk_is_known_by_the_path_that_it_had(main_job: MainJob) -> None:
    assert not main_job.by_old_path["changed"]
    assert main_job.by_old_path["disks"] == main_job.again["disks"]


def test_nothing_is_left_behind(main_job: MainJob) -> None:
    hv = main_job.guest.hv
    assert leftovers(hv, "main-job", main_job.source.parent) == []
    assert sorted(os.listdir(main_job.source.parent)) == ["vm.qcow2", "vm.raw"]


PAIRS = [("raw", other) for other in ("qcow2", "vmdk", "vdi", "qed", "vpc", "qcow")]
SUFFIXES = {"vpc": "vhd"}


@pytest.mark.parametrize(("old", "new"), [*PAIRS, *[(new, old) for old, new in PAIRS], ("vmdk", "qcow2")])
def test_a_disk_keeps_its_content_in_another_format(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, old: str, new: str
) -> None:
    source = make_image(images / f"vm.{old}", old)
    before = content(source, old)
    name = make_domain([Disk(source, old)], kernel=False).name
    done = module(MODULE, {"name": name, "disk": "vda", "format": new})
    dest = images / f"vm.{SUFFIXES.get(new, new)}"
    assert done.get("changed"), done
    assert disk_of(hv, name) == (str(dest), new)
    qemu_img("compare", "-f", old, "-F", new, source, dest)
    assert content(dest, new) == before
    assert not is_running(hv, name)
    assert not module(MODULE, {"name": name, "disk": "vda", "format": new})["changed"]


def test_several_disks_are_converted_in_one_go(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    sources = [make_image(images / f"{target}.raw", seed=target) for target in ("vda", "sdb", "vdc")]
    name = make_domain([Disk(path, target=path.stem) for path in sources], kernel=False).name
    params = {"name": name, "disks": ["vda", str(sources[1])]}
    predicted = module(MODULE, params, check=True)
    done = module(MODULE, params)
    assert [disk["target"] for disk in done["disks"]] == ["vda", "sdb"]
    assert predicted["actions"] == done["actions"]
    assert sum(action.startswith("define") for action in done["actions"]) == 1
    for source in sources[:2]:
        dest = source.with_suffix(".qcow2")
        assert disk_of(hv, name, source.stem) == (str(dest), "qcow2")
        assert content(dest, "qcow2") == content(source, "raw")
    assert disk_of(hv, name, "vdc") == (str(sources[2]), "raw")
    assert not module(MODULE, params)["changed"]


def test_of_several_disks_only_those_are_converted_that_need_it(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    done_already = make_image(images / "a.qcow2", "qcow2")
    source = make_image(images / "b.raw")
    name = make_domain([Disk(done_already, "qcow2"), Disk(source, target="vdb")], kernel=False).name
    state = tree_state(images)["a.qcow2"]
    done = module(MODULE, {"name": name, "disks": ["vda", "vdb"]})
    assert [disk["previous_path"] for disk in done["disks"]] == [None, str(source)]
    assert tree_state(images)["a.qcow2"] == state


def test_the_new_image_goes_where_dest_says(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    (images / "other").mkdir()
    dest = images / "other" / "root-disk"
    name = make_domain([Disk(source)], kernel=False).name
    params = {"name": name, "disk": "vda", "dest": str(dest)}
    assert module(MODULE, params)["changed"]
    assert disk_of(hv, name) == (str(dest), "qcow2")
    assert content(dest, "qcow2") == content(source, "raw")
    assert not module(MODULE, params)["changed"]
    assert not module(MODULE, {**params, "disk": str(source)})["changed"]


def test_the_same_format_with_another_dest_moves_the_disk(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.qcow2", "qcow2")
    before = content(source, "qcow2")
    (images / "fast").mkdir()
    name = make_domain([Disk(source, "qcow2")], kernel=False).name
    params = {"name": name, "disk": "vda", "dest_dir": str(images / "fast"), "keep_source": False}
    assert module(MODULE, params)["changed"]
    assert disk_of(hv, name) == (str(images / "fast" / "vm.qcow2"), "qcow2")
    assert content(images / "fast" / "vm.qcow2", "qcow2") == before
    assert not source.exists()
    assert not module(MODULE, params)["changed"]


def test_the_new_names_come_from_the_old_ones(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    sources = [make_image(images / name) for name in ("a.img", "b.data", "c", "d.RAW")]
    targets = ["vda", "vdb", "vdc", "vdd"]
    pairs = zip(sources, targets, strict=True)
    name = make_domain([Disk(path, target=target) for path, target in pairs], kernel=False).name
    (images / "new").mkdir()
    module(MODULE, {"name": name, "disks": targets, "dest_dir": str(images / "new")})
    expected = ["a.qcow2", "b.data.qcow2", "c.qcow2", "d.qcow2"]
    assert [Path(disk_of(hv, name, target)[0]).name for target in targets] == expected
    assert sorted(os.listdir(images / "new")) == expected


ODD_NAMES = [
    "with space",
    "a,b",
    "nbd:localhost",
    """quo'te "double" `tick`""",
    "-dash",
    "ünïcode-ディスク",
    "json:{}",
    "100%20$HOMELESS&<amp>",
    "x" * 240,
]


def test_odd_names_of_files_work(hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> None:
    targets = [f"vd{letter}" for letter in "abcdefghi"]
    sources = [make_image(images / f"{name}.raw", seed=name) for name in ODD_NAMES]
    pairs = zip(sources, targets, strict=True)
    name = make_domain([Disk(path, target=target) for path, target in pairs], kernel=False).name
    done = module(MODULE, {"name": name, "disks": targets})
    assert done.get("changed"), done
    for source, target in zip(sources, targets, strict=True):
        dest = source.with_suffix(".qcow2")
        assert disk_of(hv, name, target) == (str(dest), "qcow2")
        qemu_img("compare", "-f", "raw", "-F", "qcow2", source, dest)
    assert leftovers(hv, name, images) == []
    assert not module(MODULE, {"name": name, "disks": [str(source) for source in sources]})["changed"]


def test_a_raw_disk_that_begins_like_an_image_is_converted_as_raw(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    victim = images / "victim"
    victim.write_bytes(b"the victim's secret\n" * 4096)
    source = images / "vm.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-b", victim, "-F", "raw", source, "4M")
    os.truncate(source, 4 << 20)
    name = make_domain([Disk(source)], kernel=False).name
    done = module(MODULE, {"name": name, "disk": "vda"})
    assert done.get("changed"), done
    assert content(images / "vm.qcow2", "qcow2") == file_digest(source)
    assert b"victim's secret" not in (images / "vm.qcow2").read_bytes()


def test_a_raw_disk_with_a_planted_data_file_leaves_that_alone(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    victim, source = images / "victim", images / "vm.raw"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={victim}", source, "4M")
    victim.write_bytes(b"the victim's secret\n" * 4096)
    os.truncate(source, 4 << 20)
    name = make_domain([Disk(source)], kernel=False).name
    state = tree_state(images)["victim"]
    assert module(MODULE, {"name": name, "disk": "vda"})["changed"]
    assert tree_state(images)["victim"] == state
    assert content(images / "vm.qcow2", "qcow2") == file_digest(source)
    assert b"victim's secret" not in (images / "vm.qcow2").read_bytes()


def test_a_disk_that_is_as_wanted_is_not_touched(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(make_image(images / "vm.qcow2", "qcow2"), "qcow2")], kernel=False).name
    hv.start(name)
    with unchanged(hv, images, name):
        assert not module(MODULE, {"name": name, "disk": "vda", "shutdown": "never"})["changed"]


def test_a_domain_is_known_by_its_uuid(hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain) -> None:
    uuid = "6b8b4567-327b-43c6-a643-c98069663348"
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False, uuid=uuid).name
    done = module(MODULE, {"name": uuid, "disk": "vda"})
    assert [disk["domain"] for disk in done["disks"]] == [name]
