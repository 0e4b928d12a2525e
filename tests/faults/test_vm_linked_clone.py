# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_linked_clone killed, crossed and starved: a rerun completes the list, and each clone is made exactly once."""

from __future__ import annotations

import contextlib
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.injection import GONE, Share, at_once, in_shares, killed_at, paused_at, points, signalled_at, waiting
from support.scene import MIB, definition, disk_of, image_chain, is_running, make_image

MODULE = "vm_linked_clone"


class Classroom:
    """A golden domain with UEFI variables, clones of it, and what must hold of both whatever happens."""

    def __init__(self, hv: Hypervisor, images: Path, name: str) -> None:
        self.hv, self.images, self.name = hv, images, name
        self.base, self.store = images / "golden.qcow2", images / "golden_VARS.fd"
        make_image(self.base, "qcow2")
        self.store.write_bytes(b"variables" * 1000)  # nobody starts by them, unless a test puts real ones there
        hv.define(hv.domain_xml(name, [Disk(self.base, "qcow2")], kernel=False, nvram=self.store))

    def asked(self, *names: str, **more: Any) -> dict[str, Any]:
        clones = [{"name": f"{self.name}-{name}"} for name in names]
        return {"source": self.name, "clones": clones, "uri": self.hv.uri, **more}

    def run(self, *names: str, **more: Any) -> dict[str, Any]:
        return run_module(MODULE, self.asked(*names, **more))

    def domains(self) -> list[str]:
        with contextlib.closing(self.hv.connect()) as connection:
            names = [domain.name() for domain in connection.listAllDomains()]
        return sorted(name.removeprefix(f"{self.name}-") for name in names if name.startswith(f"{self.name}-"))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.images.iterdir())

    def assert_has(self, *names: str) -> None:
        """Exactly the clones *names* are there, each whole, and nothing that a run left behind."""
        assert self.domains() == sorted(names)
        own = [f"{self.name}-{name}" for name in names]
        expected = [*(f"{name}.qcow2" for name in own), *(f"golden_VARS-{name}.fd" for name in own)]
        note = [".golden.qcow2.kvmops-base"] if (self.images / ".golden.qcow2.kvmops-base").exists() else []
        assert self.files() == sorted([*expected, *note, "golden.qcow2", "golden_VARS.fd"])
        for name in own:
            assert image_chain(disk_of(self.hv, name)[0], "qcow2") == [str(self.base)]
            assert (self.images / f"golden_VARS-{name}.fd").read_bytes() == self.store.read_bytes()
            assert "urn:kvmops:disk:1" not in definition(self.hv, name)
        assert stat.S_IMODE(self.base.stat().st_mode) == (0o444 if names else 0o644)

    def clear(self) -> None:
        for name in self.domains():
            self.hv.remove(f"{self.name}-{name}")
        for name in self.files():
            if name not in ("golden.qcow2", "golden_VARS.fd"):
                path = self.images / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.base.chmod(0o644)


@pytest.fixture
def classroom(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Classroom]:
    name = make_domain([], name="gold", kernel=False).name
    hv.remove(name)
    room = Classroom(hv, images, name)
    yield room
    for clone in room.domains():
        hv.remove(f"{name}-{clone}")


def chosen(found: list[str], first: str, last: str) -> list[str]:
    kept = found[found.index(first) : found.index(last) + 1]
    return [point for point in kept if not point.startswith(("fsync", "qemu-img-info"))]


# Killed


@in_shares(3)
def test_killed_at_any_point_the_next_run_makes_the_clone(classroom: Classroom, share: Share) -> None:
    params = classroom.asked("a")
    log = classroom.images.parent / f"{classroom.name}.points"
    every = points(params, log, module=MODULE)
    log.unlink()
    classroom.assert_has("a")
    found = chosen(every, "pwrite 1", "unlink 5")
    assert {"qemu-img-create 1", "link 1", "link 2", "virDomainDefineXMLFlags 1"} <= set(found)
    for number, point in share.take(found):
        classroom.clear()
        killed_at(point, params, children=bool(number % 2), module=MODULE)
        again = run_module(MODULE, params)
        try:
            assert not again.get("failed"), again
            classroom.assert_has("a")
            if number % 4 == 3:
                assert not run_module(MODULE, params)["changed"]
        except AssertionError as error:
            raise AssertionError(f"after a kill before {point}, then {again.get('actions')}: {error}") from error


@in_shares(2)
def test_removing_killed_at_any_point_the_next_run_removes_the_rest(classroom: Classroom, share: Share) -> None:
    classroom.run("a")
    params = classroom.asked("a", state="absent")
    log = classroom.images.parent / f"{classroom.name}.points"
    every = points(params, log, module=MODULE)
    log.unlink()
    classroom.assert_has()
    found = chosen(every, "pwrite 1", "unlink 4")
    assert "virDomainUndefineFlags 1" in found
    for _number, point in share.take(found[found.index("virDomainUndefineFlags 1") :]):
        classroom.clear()
        assert classroom.run("a")["changed"]
        killed_at(point, params, module=MODULE)
        again = run_module(MODULE, params)
        try:
            assert not again.get("failed"), again
            classroom.assert_has()
        except AssertionError as error:
            raise AssertionError(f"after a kill before {point}, then {again.get('actions')}: {error}") from error


@pytest.mark.parametrize("point", ["qemu-img-create 1", "link 5", "virDomainDefineXMLFlags 4"])
def test_killed_in_the_middle_of_a_list_the_next_run_completes_it(classroom: Classroom, point: str) -> None:
    names = [f"pc-{number}" for number in range(8)]
    killed_at(point, classroom.asked(*names), module=MODULE)
    assert classroom.run(*names)["changed"]
    classroom.assert_has(*names)
    assert not classroom.run(*names)["changed"]


def test_what_a_killed_run_made_can_be_removed_instead(classroom: Classroom) -> None:
    for point in ("mkdir 1", "link 2", "virDomainDefineXMLFlags 1"):
        killed_at(point, classroom.asked("a"), module=MODULE)
        assert classroom.domains() == []
        removed = classroom.run("a", state="absent")
        assert "remove what an interrupted run left of" in removed["actions"][0]
        left = [name for name in classroom.files() if name not in ("golden.qcow2", "golden_VARS.fd")]
        assert left == [".golden.qcow2.kvmops-base"], point
        assert not classroom.run("a", state="absent")["changed"]


def test_a_killed_removal_sets_the_base_free_in_the_next_run_though_the_source_is_gone(classroom: Classroom) -> None:
    away = classroom.images / "away"
    away.mkdir(mode=0o711)
    classroom.run("a", disk_dir=str(away))
    killed_at("unlink 4", classroom.asked("a", state="absent"), module=MODULE)
    classroom.hv.remove(classroom.name)
    assert (classroom.domains(), list(away.glob("*.qcow2"))) == ([], [])
    assert stat.S_IMODE(classroom.base.stat().st_mode) == 0o444
    asked = classroom.asked("a", state="absent", disk_dir=str(away))
    predicted = run_module(MODULE, asked, check=True)
    again = run_module(MODULE, asked)
    assert again["actions"][-1] == predicted["actions"][-1] == f"release {classroom.base}"
    assert stat.S_IMODE(classroom.base.stat().st_mode) == 0o644
    assert not run_module(MODULE, asked)["changed"]


def test_what_a_killed_removal_left_can_be_made_again(classroom: Classroom) -> None:
    classroom.run("a")
    killed_at("unlink 1", classroom.asked("a", state="absent"), module=MODULE)
    assert classroom.domains() == []
    again = classroom.run("a")
    assert "which an interrupted run left" in again["actions"][0]
    classroom.assert_has("a")


def test_a_clone_that_a_killed_run_did_not_start_is_started(classroom: Classroom) -> None:
    shutil.copyfile("/usr/share/OVMF/OVMF_VARS_4M.fd", classroom.store)
    killed_at("virDomainCreate 1", classroom.asked("a", start=True), module=MODULE)
    name = f"{classroom.name}-a"
    assert not is_running(classroom.hv, name)
    again = classroom.run("a", start=True)
    assert again["actions"] == [f"forget the run that was interrupted when it had made {name}", f"start {name}"], again
    assert is_running(classroom.hv, name)
    assert not classroom.run("a", start=True)["changed"]


def with_seed(classroom: Classroom) -> dict[str, Any]:
    """What gives a clone that is there a seed, and starts it."""
    shutil.copyfile("/usr/share/OVMF/OVMF_VARS_4M.fd", classroom.store)
    classroom.run("a")
    seed = make_image(classroom.images / "golden.qcow2.seed")
    return classroom.asked(start=True, clones=[{"name": f"{classroom.name}-a", "seed": str(seed)}])


@pytest.mark.parametrize("point", ["pwrite 1", "virDomainDefineXMLFlags 1", "virDomainCreate 1", "unlink 1"])
def test_killed_when_it_gives_a_clone_its_seed_the_next_run_does_the_rest(classroom: Classroom, point: str) -> None:
    params = with_seed(classroom)
    killed_at(point, params, module=MODULE)
    again = run_module(MODULE, params)
    assert not again.get("failed"), again
    assert is_running(classroom.hv, f"{classroom.name}-a")
    assert definition(classroom.hv, f"{classroom.name}-a").count("golden.qcow2.seed") == 1
    assert not run_module(MODULE, params)["changed"]
    assert not [name for name in classroom.files() if name.endswith(".kvmops")]


def test_of_two_runs_at_once_one_gives_the_seed_and_starts(classroom: Classroom) -> None:
    params = with_seed(classroom)
    with paused_at("virDomainDefineXMLFlags 1", params, module=MODULE) as run, waiting(params, module=MODULE) as other:
        assert not is_running(classroom.hv, f"{classroom.name}-a")
    assert run.result()["changed"]
    assert not other.result()["changed"]


def test_what_somebody_else_defines_meanwhile_is_kept(classroom: Classroom) -> None:
    params = with_seed(classroom)
    name = f"{classroom.name}-a"
    with paused_at("pwrite 1", params, module=MODULE) as run:
        classroom.hv.define(definition(classroom.hv, name).replace("</name>", "</name><title>Of another</title>"))
    assert run.result()["changed"]
    for words in ("golden.qcow2.seed", "Of another"):
        assert definition(classroom.hv, name).count(words) == 1


def test_libvirtd_killed_in_the_middle_the_next_run_makes_the_clones(classroom: Classroom) -> None:
    with paused_at("virDomainDefineXMLFlags 1", classroom.asked("a", "b"), module=MODULE, CONSTANTS=GONE) as run:
        classroom.hv.kill_libvirtd()
    failed = run.result()
    classroom.hv.start_libvirtd()
    assert failed.get("failed"), failed
    assert classroom.run("a", "b")["changed"]
    classroom.assert_has("a", "b")


def test_a_libvirtd_that_is_restarted_in_the_middle_makes_the_clones(classroom: Classroom) -> None:
    with paused_at("virDomainDefineXMLFlags 1", classroom.asked("a", "b"), module=MODULE) as run:
        classroom.hv.restart()
    done = run.result()
    assert done.get("changed"), done
    classroom.assert_has("a", "b")


# Told to end, crossed, starved


@pytest.mark.parametrize("point", ["link 1", "virDomainDefineXMLFlags 2"])
def test_a_run_that_is_told_to_end_leaves_whole_clones_only(classroom: Classroom, point: str) -> None:
    names = [f"pc-{number}" for number in range(12)]
    told = signalled_at(point, "SIGTERM", classroom.asked(*names), module=MODULE)
    assert "interrupted by SIGTERM" in told["msg"]
    made = classroom.domains()
    assert len(made) < len(names)
    classroom.assert_has(*made)
    assert classroom.run(*names)["changed"]
    classroom.assert_has(*names)


def test_copies_that_are_told_to_end_are_undone(classroom: Classroom) -> None:
    names = [f"pc-{number}" for number in range(10)]
    told = signalled_at("qemu-img-compare 1", "SIGTERM", classroom.asked(*names, mode="full"), module=MODULE)
    assert "interrupted by SIGTERM" in told["msg"]
    made = classroom.domains()
    assert len(made) < len(names)
    own = [
        name
        for clone in made
        for name in (f"{classroom.name}-{clone}.qcow2", f"golden_VARS-{classroom.name}-{clone}.fd")
    ]
    assert classroom.files() == sorted([*own, "golden.qcow2", "golden_VARS.fd"])


def test_of_two_identical_runs_at_once_each_clone_is_made_exactly_once(classroom: Classroom) -> None:
    names = [f"pc-{number}" for number in range(20)]
    results = at_once(MODULE, *(classroom.asked(*order) for order in (names, names[::-1], names)))
    for result in results:
        assert not result.get("failed"), result["msg"]
    makers = {name: [] for name in names}  # type: dict[str, list[int]]
    for number, result in enumerate(results):
        for clone in result["clones"]:
            if clone["changed"]:
                makers[clone["name"].removeprefix(f"{classroom.name}-")].append(number)
    assert {len(found) for found in makers.values()} == {1}
    classroom.assert_has(*names)
    by_name = [{clone["name"]: clone["uuid"] for clone in result["clones"]} for result in results]
    assert by_name[0] == by_name[1] == by_name[2]


def test_a_run_waits_for_the_one_that_makes_its_clone(classroom: Classroom) -> None:
    with (
        paused_at("virDomainDefineXMLFlags 1", classroom.asked("a"), module=MODULE) as run,
        waiting(classroom.asked("a", "b"), module=MODULE) as other,
    ):
        assert not (classroom.images / f".{classroom.name}-b.qcow2.kvmops").exists()
    assert run.result()["changed"]
    result = other.result()
    assert [clone["changed"] for clone in result["clones"]] == [False, True]
    classroom.assert_has("a", "b")


def test_a_file_that_appears_meanwhile_is_left_alone(classroom: Classroom) -> None:
    path = classroom.images / f"{classroom.name}-a.qcow2"
    with paused_at("link 1", classroom.asked("a"), module=MODULE) as run:
        path.write_text("somebody's")
    assert "a file appeared here in the meantime" in run.result()["msg"]
    assert path.read_text() == "somebody's"
    assert classroom.domains() == []
    path.unlink()
    classroom.assert_has()


def test_a_domain_that_appears_meanwhile_is_left_alone(classroom: Classroom) -> None:
    name = f"{classroom.name}-a"
    with paused_at("link 2", classroom.asked("a"), module=MODULE) as run:
        classroom.hv.define(classroom.hv.domain_xml(name, [], kernel=False))
    assert "was defined in the meantime" in run.result()["msg"]
    assert classroom.domains() == ["a"]
    classroom.hv.remove(name)
    classroom.assert_has()


@pytest.fixture
def small(classroom: Classroom) -> Iterator[Path]:
    place = classroom.images / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0711", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)
    place.rmdir()


def test_clones_that_find_no_room_fail_by_themselves(classroom: Classroom, small: Path) -> None:
    names = [f"pc-{number:02}" for number in range(12)]
    predicted = run_module(MODULE, classroom.asked(*names, disk_dir=str(small)), check=True)
    failed = classroom.run(*names, disk_dir=str(small))
    assert 0 < len(failed["clones"]) < 12
    assert predicted["failed_clones"] == failed["failed_clones"]
    for clone in failed["failed_clones"]:
        assert clone["required_bytes"] > clone["available_bytes"] >= 0
    assert classroom.domains() == [clone["name"].removeprefix(f"{classroom.name}-") for clone in failed["clones"]]
    assert len(list(small.iterdir())) == len(failed["clones"])


def test_a_file_system_that_fills_up_meanwhile_costs_the_clone_that_met_it(classroom: Classroom, small: Path) -> None:
    asked = classroom.asked("a", "b", disk_dir=str(small))
    with paused_at("qemu-img-create 1", asked, module=MODULE) as run:
        fat = small / "fat"
        with contextlib.suppress(OSError), fat.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
    failed = run.result()
    assert "o space left on device" in failed["msg"]
    assert classroom.domains() == []
    assert [path.name for path in small.iterdir()] == ["fat"]
    fat.unlink()
    assert run_module(MODULE, asked)["changed"]
    assert classroom.domains() == ["a", "b"]


def test_more_than_a_file_system_may_promise_is_not_made(classroom: Classroom, small: Path) -> None:
    names = [f"pc-{number}" for number in range(4)]
    failed = classroom.run(*names, disk_dir=str(small), max_overcommit=10.0)
    assert [clone["name"].removeprefix(f"{classroom.name}-") for clone in failed["clones"]] == ["pc-0", "pc-1"]
    assert failed["failed_clones"][0]["max_overcommit"] == 10.0
    assert failed["failed_clones"][0]["filesystem_bytes"] == 2 * MIB
    assert classroom.run("pc-0", "pc-1", disk_dir=str(small), max_overcommit=10.0)["changed"] is False
