# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What vm_disk_convert prints while it works, over which connection ever, and what of it when it is interrupted."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lab import Hypervisor
from support.held_qemu_img import HeldQemuImg
from support.playground import LARGE_MIB, MakeWeb, Playground, conversion, percents
from support.processes import catches, children_of
from support.scene import content, disk_of, is_running, leftovers, make_image, make_overlay, qemu_img
from support.ssh_server import SshServer
from support.waits import send, send_to_group, wait_for


def test_it_says_how_far_it_is_when_it_begins_meanwhile_and_when_it_has_ended(
    hv: Hypervisor, make_web: MakeWeb, held_ground: Playground, held: HeldQemuImg
) -> None:
    name = make_web(large=True)
    run = held_ground.start(conversion(name))
    for percent in (3, 6):
        held.wait()
        run.wait_for(rf"vda: convert {percent}\d %")
        held.let_go()
    assert run.wait().process.returncode == 0, run.output

    assert {line["subject"] for line in run.lines()} == {f"{name} vda"}
    convert = percents(run, "here", "convert")
    assert len(convert) >= 4, run.output
    assert convert == sorted(convert)
    assert (convert[0], convert[-1]) == (0, 100)
    compare = percents(run, "here", "compare")
    assert (compare[0], compare[-1]) == (0, 100)
    meanwhile = next(line["rest"] for line in run.lines() if 0 < int(line["percent"]) < 100)
    assert re.fullmatch(rf"{LARGE_MIB} MiB, [\d.]+ \wiB/s, \d+ (s|min) left", meanwhile), run.output
    assert re.fullmatch(r"\d+ MiB, [\d.]+ \wiB/s, in [\d.]+ s", run.lines()[-1]["rest"]), run.output
    assert disk_of(hv, name)[1] == "qcow2"
    assert held_ground.left() == []


def test_the_result_is_that_of_a_run_that_nobody_watches(make_web: MakeWeb, ground: Playground) -> None:
    one, other = make_web(), make_web()
    tasks = []
    for number, progress in enumerate([True, False]):
        name = (one, other)[number]
        suffix = "watched" if progress else "plain"
        tasks += [
            conversion(name, progress=progress, REGISTER=f"changed_{suffix}"),
            conversion(name, progress=progress, REGISTER=f"unchanged_{suffix}"),
            conversion(name, progress=progress, disk="vdx", REGISTER=f"refused_{suffix}", IGNORE_ERRORS=True),
            conversion(name, progress=progress, colour="red", REGISTER=f"wrong_{suffix}", IGNORE_ERRORS=True),
            conversion(
                "{{ item }}", progress=progress, REGISTER=f"loop_{suffix}", LOOP=[name], RETRIES=2, DELAY=0,
                UNTIL=f"loop_{suffix} is not changed",
            ),
        ]  # fmt: skip
    run = ground.play(*tasks, options=["--diff", "-v"])

    assert run.output.count("+++ after") + run.output.count('"prepared"') >= 2, run.output
    for kind in ("changed", "unchanged", "refused", "wrong", "loop"):
        watched, plain = (json.dumps(run.result(f"{kind}_{suffix}")) for suffix in ("watched", "plain"))
        watched = watched.replace(one, "NAME").replace('"progress": true', '"progress": false').replace("/0.", "/N.")
        plain = plain.replace(other, "NAME").replace("/1.", "/N.")
        assert json.loads(watched) == json.loads(plain)
    assert run.result("changed_watched")["changed"]
    assert run.result("refused_watched")["failed"]
    assert {line["subject"] for line in run.lines()} == {f"{one} vda"}
    assert ground.left() == []


def test_modules_for_images_say_how_far_they_are_too(images: Path, ground: Playground) -> None:
    source, image, overlay = make_image(images / "one.raw", mib=2), images / "new.qcow2", images / "over.qcow2"
    two = {"path": str(source), "format": "raw", "other": str(image), "other_format": "qcow2"}
    qemu_img("convert", "-f", "raw", "-O", "qcow2", source, image)
    make_overlay(overlay, image, "qcow2")
    image.unlink()
    run = ground.play(
        {"kvmops.disk.qcow2_convert": {"src": str(source), "src_format": "raw", "dest": str(image)}},
        {"kvmops.disk.qcow2_compare": two},
        {"kvmops.disk.qcow2_commit": {"path": str(overlay), "overlay": "remove"}},
    )
    told = re.findall(r"(?m)^\[here\] (.+): (\w+) (\d+) % of .*$", run.output)
    ended = [(subject, verb) for subject, verb, percent in told if percent == "100"]
    assert ended == [
        ("new.qcow2", "convert"),
        ("new.qcow2", "compare"),
        ("one.raw and new.qcow2", "compare"),
        ("over.qcow2", "merge"),
        ("over.qcow2", "compare"),
    ], run.output
    assert ground.left() == []


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        ((), {"progress": False}),
        (("--check",), {}),
        ((), {"ASYNC": 60, "POLL": 1}),
        ((), {"NO_LOG": True}),
    ],
    ids=["progress: false", "check mode", "async", "no_log"],
)
def test_nothing_is_printed_where_it_is_not_wanted(
    make_web: MakeWeb, ground: Playground, options: Sequence[str], keywords: dict[str, Any]
) -> None:
    run = ground.play(conversion(make_web(), REGISTER="done", **keywords), options=options)
    assert run.result("done")["changed"]
    assert run.lines() == []
    assert not list(ground.async_dir.glob("kvmops-*"))


@pytest.mark.parametrize("whom", ["the terminal's processes", "the playbook alone", "SIGTERM"])
def test_ctrl_c_has_the_module_undo_what_it_began(
    hv: Hypervisor, images: Path, make_web: MakeWeb, held_ground: Playground, held: HeldQemuImg, whom: str
) -> None:
    name = make_web(large=True, running=True)
    run = held_ground.start(conversion(name, mode="offline", shutdown="force"))
    held.wait()
    run.wait_for("vda: convert")

    if whom == "the terminal's processes":
        send_to_group(run.process.pid, signal.SIGINT)
    else:
        send(run.process.pid, signal.SIGTERM if whom == "SIGTERM" else signal.SIGINT)
    run.wait()

    wait_for(lambda: is_running(hv, name) and not leftovers(hv, name, images), "the machine as it was")
    assert run.process.returncode != 0
    assert disk_of(hv, name)[1] == "raw"
    assert not list(images.glob("*.qcow2"))
    wait_for(lambda: not held_ground.left(), "an empty async directory")
    held_ground.prefix = ()
    assert "changed=1" in held_ground.play(conversion(name, mode="offline", shutdown="force")).output
    assert disk_of(hv, name)[1] == "qcow2"


def test_the_timeout_of_the_task_has_the_module_undo_what_it_began(
    hv: Hypervisor, images: Path, make_web: MakeWeb, held_ground: Playground, held: HeldQemuImg
) -> None:
    """It is SIGALRM that ends a task of Ansible's: here it comes when the module is at work, however slow that was."""
    name = make_web(large=True, running=True)
    run = held_ground.start(conversion(name, mode="offline", shutdown="force", TIMEOUT=3600))
    held.wait()
    run.wait_for("vda: convert")
    (worker,) = (child for child in children_of(run.process.pid) if catches(child, signal.SIGALRM))
    send(worker, signal.SIGALRM)
    assert run.wait().process.returncode == 2, run.output
    assert is_running(hv, name)
    assert disk_of(hv, name)[1] == "raw"
    assert leftovers(hv, name, images) == []
    assert held_ground.left() == []


def test_a_killed_playbook_leaves_a_job_that_goes_on_and_the_next_run_finds_its_result(
    hv: Hypervisor, images: Path, make_web: MakeWeb, held_ground: Playground, held: HeldQemuImg
) -> None:
    name = make_web(large=True)
    run = held_ground.start(conversion(name))
    held.wait()
    run.wait_for("vda: convert")
    send_to_group(run.process.pid, signal.SIGKILL)
    run.wait()
    held.open()
    wait_for(lambda: disk_of(hv, name)[1] == "qcow2", "the job's end")
    wait_for(lambda: not leftovers(hv, name, images), "the records' end")
    assert "changed=0" in held_ground.play(conversion(name)).output


def test_a_killed_module_fails_the_task(
    hv: Hypervisor, make_web: MakeWeb, held_ground: Playground, held: HeldQemuImg
) -> None:
    name = make_web(large=True)
    run = held_ground.start(conversion(name))
    held.wait()
    run.wait_for("vda: convert")
    send(held_ground.module(), signal.SIGKILL)
    assert run.wait().process.returncode == 2, run.output
    assert held_ground.left() == []
    held_ground.prefix = ()
    assert "changed=1" in held_ground.play(conversion(name)).output
    assert disk_of(hv, name)[1] == "qcow2"


def test_an_escalation_that_fails_changes_nothing(
    hv: Hypervisor, images: Path, make_web: MakeWeb, ground: Playground
) -> None:
    name = make_web()
    broken = {"ansible_become_exe": "/bin/false"}
    run = ground.play(
        conversion(name, BECOME=True, BECOME_USER="nobody", VARS=broken, REGISTER="refused", IGNORE_ERRORS=True)
    )
    assert run.result("refused")["failed"]
    assert not run.result("refused")["changed"]
    assert disk_of(hv, name)[1] == "raw"
    assert leftovers(hv, name, images) == []


def test_several_hosts_at_once_over_ssh_as_another_user(
    hv: Hypervisor, images: Path, make_web: MakeWeb, ground: Playground, base: Path, held: HeldQemuImg
) -> None:
    first, second = make_web(large=True), make_web(large=True)
    sources = sorted(images.glob("*.raw"))
    with SshServer(base, held.mount()) as server:
        ground.hosts = (
            "[far]\n"
            + server.inventory("host1", "host2")
            + f"[far:vars]\nansible_python_interpreter={sys.executable}\n[near]\n{ground.hosts}"
        )
        task = conversion(f"{{{{ {{'host1': '{first}', 'host2': '{second}'}}[inventory_hostname] }}}}")
        run = ground.start(task, hosts="far", become=True, strategy="free")
        for percent in (3, 6):
            held.wait(2)
            for host in ("host1", "host2"):
                run.wait_for(rf"(?m)^\[{host}\] .*: convert {percent}\d %")
            held.let_go()
        assert run.wait().process.returncode == 0, run.output
        assert ground.left() == []

    for host, name, source in (("host1", first, sources[0]), ("host2", second, sources[1])):
        found = percents(run, host, "convert")
        assert len(found) >= 4, run.output
        assert found == sorted(found)
        assert (found[0], found[-1]) == (0, 100)
        assert {line["subject"] for line in run.lines() if line["host"] == host} == {f"{name} vda"}
        assert content(disk_of(hv, name)[0], "qcow2") == content(source, "raw")
    assert len(run.lines()) == len(re.findall(r"(?:convert|compare) \d+ %", run.output)), "a line is not whole"


def test_neither_pipelining_nor_a_user_without_rights_makes_a_difference(
    make_web: MakeWeb, ground: Playground, base: Path
) -> None:
    name = make_web()
    with SshServer(base) as server:
        ground.hosts = f"{server.inventory('far')}[near]\n{ground.hosts}[all:vars]\nansible_pipelining=true\n"
        tasks = [conversion(name, REGISTER="changed")]
        for suffix, progress in (("watched", True), ("plain", False)):
            tasks.append(conversion(name, progress=progress, BECOME_USER="nobody", REGISTER=suffix))
        run = ground.play(*tasks, hosts="far", become=True)
        assert ground.left() == []
    assert run.result("changed")["changed"]
    watched, plain = (json.dumps(run.result(suffix)) for suffix in ("watched", "plain"))
    assert json.loads(watched.replace('"progress": true', '"progress": false')) == json.loads(plain)


def test_a_connection_that_breaks_is_set_up_again(
    hv: Hypervisor, make_web: MakeWeb, ground: Playground, base: Path, held: HeldQemuImg
) -> None:
    name = make_web(large=True)
    with SshServer(base, held.mount()) as server:
        ground.hosts = (
            server.inventory("far") + f"far ansible_python_interpreter={sys.executable}\n[near]\n{ground.hosts}"
        )
        run = ground.start(conversion(name), hosts="far", become=True)
        held.wait()
        run.wait_for("vda: convert")
        server.drop_connections()
        told = len(run.lines())
        wait_for(lambda: len(run.lines()) > told, "another line, over a new connection")
        held.open()
        run.wait()
    assert run.process.returncode == 0, run.output
    assert percents(run, "far", "convert")[-1] == 100
    assert disk_of(hv, name)[1] == "qcow2"
