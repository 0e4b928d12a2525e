# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom a task asks who uses an image: where nobody could be asked, that is no answer, and the result says so."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, SessionHypervisor, run_module
from lab.fixtures import MakeDomain
from lab.tree import tree_state
from support.image_tools import SILENT, create, overlay

NOT_ASKED = "libvirt was not asked, because"


@pytest.fixture(scope="module")
def session() -> Iterator[SessionHypervisor]:
    with SessionHypervisor(Path(tempfile.gettempdir()), f"ask-{os.getpid()}") as hypervisor:
        yield hypervisor


@pytest.fixture
def disk(session: SessionHypervisor, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The disk of a domain of the user's session that is off."""
    name = f"vm-{request.node.name[:20]}"
    directory = session.images / name
    directory.mkdir()
    path = create(directory / "vm.qcow2")
    for one in (directory, path):
        os.chown(one, session.uid, session.uid)
    session.define(session.domain_xml(name, [Disk(path, "qcow2")], kernel=False))
    yield path
    session.remove(name)


def warnings_of(result: dict[str, Any]) -> str:
    assert not result.get("failed"), result
    return "\n".join(map(str, result.get("warnings", ())))


def as_user(session: SessionHypervisor, module: str, params: dict[str, Any], **options: Any) -> dict[str, Any]:
    return run_module(module, params, as_user=session.uid, env=session.environment, **options)


def in_another_view(directory: Path, *commands: str, then: str = "") -> str:
    """An interpreter, started with the word THEN before it, to which the host looks as the shell COMMANDS leave it."""
    inside, outside = directory / "inside", directory / "python"
    steps = "\n".join(commands)
    inside.write_text(f'#!/bin/sh -e\n{steps}\nexec {then} {sys.executable} "$@"\n', encoding="utf-8")
    outside.write_text(f'#!/bin/sh -e\nexec unshare --mount {inside} "$@"\n', encoding="utf-8")
    for made in (inside, outside):
        made.chmod(0o755)
    return str(outside)


def becoming(session: SessionHypervisor) -> str:
    """The words before a program that is to run as the user of SESSION."""
    return f"setpriv --reuid={session.uid} --regid={session.uid} --clear-groups"


@pytest.fixture
def without_libvirt(tmp_path: Path) -> dict[str, Any]:
    """Options of a run on a host where no libvirt is, or ever was."""
    return {
        "python": in_another_view(tmp_path, "mount -t tmpfs none /run"),
        "env": {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")},
    }


@pytest.fixture
def without_bindings(open_directory: Path) -> dict[str, Any]:
    """Options of a run with a Python that has no libvirt-python."""
    (open_directory / "libvirt.py").write_text("raise ImportError('no libvirt here')\n", encoding="utf-8")
    return {"python": sys.executable, "env": {"PYTHONPATH": str(open_directory)}}


# --- the libvirts of this host ---------------------------------------------------------------------------------------


def test_a_user_without_rights_keeps_the_disks_of_the_own_session(session: SessionHypervisor, disk: Path) -> None:
    before = tree_state(disk.parent)
    for check in (True, False):
        result = as_user(session, "qcow2_image", {"path": str(disk), "state": "absent"}, check=check)
        assert "in use by defined domain vm-" in result["msg"]
    convert = {"src": str(disk), "src_format": "qcow2", "dest": f"{disk}.raw", "format": "raw", "remove_src": True}
    assert "in use by defined domain vm-" in as_user(session, "qcow2_convert", convert)["msg"]
    assert tree_state(disk.parent) == before


def test_a_session_that_does_not_run_is_started_to_be_asked(
    session: SessionHypervisor, disk: Path, tmp_path: Path
) -> None:
    known = [f"mount --bind {session.directory}/{name} /etc/{name}" for name in ("passwd", "group")]
    python = in_another_view(tmp_path, *known, then=becoming(session))
    before = tree_state(disk.parent)
    session.stop_libvirtd()
    try:
        params = {"path": str(disk), "state": "absent"}
        result = run_module("qcow2_image", params, python=python, env=session.environment)
        session.stop_libvirtd()
    finally:
        session.start_libvirtd()
    assert "in use by defined domain vm-" in result["msg"]
    assert tree_state(disk.parent) == before


def test_the_session_is_found_by_a_task_that_became_this_user(
    session: SessionHypervisor, disk: Path, tmp_path: Path
) -> None:
    """Its environment does not say where the session is."""
    python = in_another_view(
        tmp_path,
        "mount -t tmpfs none /run/user",
        f"ln -s {session.directory}/user-run /run/user/{session.uid}",
        "unset XDG_RUNTIME_DIR",
        then=becoming(session),
    )
    before = tree_state(disk.parent)
    result = run_module("qcow2_image", {"path": str(disk), "state": "absent"}, python=python)
    assert "in use by defined domain vm-" in result["msg"]
    assert tree_state(disk.parent) == before


def test_root_keeps_the_disks_of_sessions_that_run(session: SessionHypervisor, disk: Path, tmp_path: Path) -> None:
    run = f"ln -s {session.directory}/user-run /run/user/{session.uid}"
    python = in_another_view(tmp_path, "mount -t tmpfs none /run/user", run)
    before = tree_state(disk.parent)
    result = run_module("qcow2_image", {"path": str(disk), "state": "absent"}, python=python)
    assert "in use by defined domain vm-" in result["msg"]
    assert tree_state(disk.parent) == before


def test_a_module_for_domains_asks_the_sessions_too(
    session: SessionHypervisor, hv: Hypervisor, disk: Path, tmp_path: Path, make_domain: MakeDomain
) -> None:
    """A domain of the system's libvirt has the disk, as well."""
    name = make_domain([Disk(disk, "qcow2")]).name
    python = in_another_view(
        tmp_path,
        "mount -t tmpfs none /run",
        f"mkdir -p /run/libvirt /run/user && ln -s {hv.socket} /run/libvirt/libvirt-sock",
        f"ln -s {session.directory}/user-run /run/user/{session.uid}",
    )
    convert = {"name": name, "disk": "vda", "format": "raw", "keep_source": False}
    before = tree_state(disk.parent)
    for module, params in (
        ("vm_disk_convert", convert),
        ("vm_disk_resize", {"name": name, "disk": "vda", "size": "5M", "shrink": True}),
    ):
        result = run_module(module, params, python=python)
        assert "in use by defined domain vm-test" in result["msg"], result
    assert tree_state(disk.parent) == before


def test_what_needs_no_change_asks_nobody(session: SessionHypervisor, disk: Path) -> None:
    result = as_user(session, "qcow2_image", {"path": str(disk), "size": "10M", "uri": SILENT})
    assert (result["changed"], result.get("warnings", [])) == (False, [])


# --- where nobody can be asked ---------------------------------------------------------------------------------------


def test_a_mistyped_uri_ends_whatever_would_write(tmp_path: Path) -> None:
    disk, base = create(tmp_path / "disk.qcow2"), create(tmp_path / "base.qcow2")
    clone = overlay(tmp_path / "clone.qcow2", base)
    before = tree_state(tmp_path)
    there, new = {"path": str(disk)}, {"path": str(tmp_path / "new.qcow2")}
    convert = {"src": str(disk), "src_format": "qcow2", "dest": str(tmp_path / "x.raw"), "format": "raw"}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("qcow2_image", {**there, "state": "absent"}),
        ("qcow2_image", {**there, "state": "absent", "force": True, "allow_dependents": True}),
        ("qcow2_image", {**there, "size": "20M"}),
        ("qcow2_image", {**there, "mode": "0600"}),
        ("qcow2_image", {**new, "size": "20M"}),
        ("qcow2_convert", convert),
        ("qcow2_convert", {**convert, "remove_src": True}),
        ("qcow2_snapshot", {**there, "snapshot": "s"}),
        ("qcow2_bitmap", {**there, "bitmap": "b"}),
        ("qcow2_commit", {"path": str(clone), "overlay": "remove"}),
    ]
    for module, params in attempts:
        for check in (True, False):
            result = run_module(module, {**params, "uri": SILENT}, check=check)
            assert result.get("failed"), (module, params, result)
            assert "/nonexistent/libvirt-sock" in result["msg"], (module, result)
            assert "nothing was changed: correct the uri" in result["msg"]
    assert tree_state(tmp_path) == before


def test_a_mistyped_uri_is_a_warning_where_a_task_only_reads(tmp_path: Path) -> None:
    disk, other = create(tmp_path / "disk.qcow2"), create(tmp_path / "other.qcow2")
    for module, params in (
        ("qcow2_image_info", {"paths": [str(disk)], "dependents": True}),
        ("qcow2_compare", {"path": str(disk), "other": str(other)}),
        ("storage_capacity_info", {"paths": [str(tmp_path)]}),
    ):
        assert NOT_ASKED in warnings_of(run_module(module, {**params, "uri": SILENT})), module
    assert not run_module("qcow2_check", {"path": str(disk), "uri": SILENT}).get("failed")


def test_a_host_without_libvirt_is_told_of(tmp_path: Path, without_libvirt: dict[str, Any]) -> None:
    path = str(tmp_path / "disk.qcow2")
    for params in ({"size": "1M"}, {"size": "2M"}, {"state": "absent"}):
        told = warnings_of(run_module("qcow2_image", {"path": path, **params}, **without_libvirt))
        assert told.count(NOT_ASKED) == 1
        assert "qemu:///system: cannot connect to libvirt" in told
        assert "only QEMU's locks" in told


def test_a_python_without_bindings_beside_a_libvirt_is_told_of(
    session: SessionHypervisor, disk: Path, without_bindings: dict[str, Any]
) -> None:
    environment = {**session.environment, **without_bindings["env"]}
    result = run_module("qcow2_image", {"path": str(disk), "size": "20M"}, as_user=session.uid, env=environment)
    assert f"{NOT_ASKED} {sys.executable} has no libvirt-python: install the package python3-libvirt" in warnings_of(
        result
    )


def test_a_given_uri_needs_the_bindings(tmp_path: Path, without_bindings: dict[str, Any]) -> None:
    disk = create(tmp_path / "disk.qcow2")
    params = {"path": str(disk), "state": "absent", "uri": "test:///default"}
    result = run_module("qcow2_image", params, **without_bindings)
    assert "libvirt-python" in result["msg"]
    assert disk.exists()


# --- what cannot be looked at ----------------------------------------------------------------------------------------


@pytest.fixture
def users_own(session: SessionHypervisor, open_directory: Path) -> Path:
    """A directory of the user's own."""
    os.chown(open_directory, session.uid, session.uid)
    return open_directory


def test_an_overlay_that_the_user_may_not_read_is_named(session: SessionHypervisor, users_own: Path) -> None:
    base = create(users_own / "base.qcow2")
    closed = overlay(users_own / "closed.qcow2", base)
    closed.chmod(0o600)
    os.chown(base, session.uid, session.uid)
    result = as_user(session, "qcow2_image", {"path": str(base), "size": "20M"})
    assert f"cannot read {closed}: whether anything there has the images of this task" in warnings_of(result)
    assert result["changed"]


def test_a_disk_of_another_domain_that_the_user_may_not_read_is_named(
    session: SessionHypervisor, users_own: Path, disk: Path
) -> None:
    os.chown(disk, 0, 0)
    disk.chmod(0o600)
    mine = create(users_own / "mine.qcow2")
    os.chown(mine, session.uid, session.uid)
    result = as_user(session, "qcow2_image", {"path": str(mine), "state": "absent"})
    assert f"cannot read {disk}" in warnings_of(result)


def test_an_image_that_nobody_can_ask_for_locks_stays(session: SessionHypervisor, users_own: Path) -> None:
    closed = create(users_own / "closed.qcow2")
    closed.chmod(0o600)
    result = as_user(session, "qcow2_image", {"path": str(closed), "state": "absent"})
    assert "its locks cannot be read" in result["msg"]
    assert closed.exists()


def test_a_search_path_that_cannot_be_searched_is_an_error(session: SessionHypervisor, users_own: Path) -> None:
    base, closed = create(users_own / "base.qcow2"), users_own / "closed"
    closed.mkdir(mode=0o700)
    os.chown(base, session.uid, session.uid)
    params = {"path": str(base), "state": "absent", "search_paths": [str(closed)]}
    assert f"no permission to search {closed}" in as_user(session, "qcow2_image", params)["msg"]
    assert base.exists()
