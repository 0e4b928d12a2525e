# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The domain modules without root, against the libvirt session of a user without rights."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, SessionHypervisor, run_module
from support.scene import content, definition, disk_of, is_running, leftovers, make_image


@pytest.fixture(scope="module")
def session() -> Iterator[SessionHypervisor]:
    with SessionHypervisor(Path(tempfile.gettempdir()), f"user-{os.getpid()}") as hypervisor:
        yield hypervisor


def run(session: SessionHypervisor, module: str, **params: Any) -> dict[str, Any]:
    return run_module(module, {"uri": session.uri, **params}, as_user=session.uid, env=session.environment)


def test_a_user_converts_the_disk_of_a_running_domain(session: SessionHypervisor) -> None:
    source = make_image(session.images / "vm.raw")
    os.chown(source, session.uid, session.uid)
    os.chmod(source, 0o600)
    os.setxattr(source, "user.ticket", b"4711")
    session.define(session.domain_xml("vm", [Disk(source)], kernel=False))
    session.start("vm")
    before, digest = definition(session, "vm"), content(source, "raw")
    params = {"name": "vm", "disk": "vda", "mode": "offline", "shutdown": "force", "keep_source": False}

    done = run(session, "vm_disk_convert", **params)

    assert done.get("changed"), done
    dest = session.images / "vm.qcow2"
    assert disk_of(session, "vm") == (str(dest), "qcow2")
    assert content(dest, "qcow2") == digest
    assert definition(session, "vm") == before.replace("type='raw'", "type='qcow2'").replace(str(source), str(dest))
    status = os.stat(dest)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (session.uid, session.uid, 0o600)
    assert os.getxattr(dest, "user.ticket") == b"4711"
    assert is_running(session, "vm")
    assert leftovers(session, "vm", session.images) == []
    assert os.listdir(session.images) == ["vm.qcow2"]
    assert not run(session, "vm_disk_convert", **params)["changed"]
    (disk,) = run(session, "vm_disk_info")["disks"]
    assert (disk["domain"], disk["path"], disk["format"], disk["problem"]) == ("vm", str(dest), "qcow2", None)


def test_a_user_converts_the_disk_below_a_running_domain(session: SessionHypervisor) -> None:
    source = make_image(session.images / "live.raw")
    os.chown(source, session.uid, session.uid)
    session.define(session.domain_xml("live", [Disk(source)], kernel=False))
    session.start("live")
    done = run(session, "vm_disk_convert", name="live", disk="vda")
    assert done.get("changed"), done
    assert done["disks"][0]["mode"] == "live"
    assert leftovers(session, "live", session.images) == []
    assert not run(session, "vm_disk_convert", name="live", disk="vda")["changed"]


def test_a_user_grows_a_disk_while_the_domain_runs_and_while_it_is_off(session: SessionHypervisor) -> None:
    path = make_image(session.images / "grown.qcow2", "qcow2")
    os.chown(path, session.uid, session.uid)
    session.define(session.domain_xml("grown", [Disk(path, "qcow2")], kernel=False))
    for size, mode in (("16M", "offline"), ("24M", "live")):
        done = run(session, "vm_disk_resize", name="grown", disk="vda", size=size)
        assert done.get("changed"), done
        assert done["disks"][0]["mode"] == mode
        assert not run(session, "vm_disk_resize", name="grown", disk="vda", size=size)["changed"]
        if mode == "offline":
            session.start("grown")
    assert leftovers(session, "grown", session.images) == []


def test_a_directory_that_the_user_may_not_write_to_is_refused_before_anything_happens(
    session: SessionHypervisor,
) -> None:
    source = make_image(session.images / "other.raw")
    os.chown(source, session.uid, session.uid)
    foreign = session.images / "foreign"
    foreign.mkdir(mode=0o755)
    session.define(session.domain_xml("other", [Disk(source)], kernel=False))
    before = definition(session, "other")
    refused = run(session, "vm_disk_convert", name="other", disk="vda", dest_dir=str(foreign))
    assert "no permission to write in" in refused["msg"]
    assert definition(session, "other") == before
    assert os.listdir(foreign) == []
