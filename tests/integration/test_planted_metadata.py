# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever may change a domain can write into its metadata: what stands there alone is no record of a run of ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.tree import tree_state
from support.other_users import TENANT
from support.scene import make_image

Module = Callable[..., dict[str, Any]]
URI = "urn:kvmops:disk:1"
STARTED = "2026-01-01T00:00:00+00:00"


def operation(*disks: dict[str, str], **facts: str) -> str:
    usual = {"started": STARTED, "was_running": "no", "remove_source": "no", "mode": "offline"}
    written = " ".join(f"{name}='{value}'" for name, value in {**usual, **facts}.items())
    inside = "".join("<disk " + " ".join(f"{name}='{value}'" for name, value in disk.items()) + "/>" for disk in disks)
    return f"<operation {written}>{inside}</operation>"


def plant(hv: Hypervisor, name: str, text: str) -> None:
    with contextlib.closing(hv.connect()) as connection:
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        connection.lookupByName(name).setMetadata(kind, text, "k", URI, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def is_active(hv: Hypervisor, name: str) -> bool:
    with contextlib.closing(hv.connect()) as connection:
        return bool(connection.lookupByName(name).isActive())


def disk(source: Path, source_format: str, dest: Path, image_format: str, **more: str) -> dict[str, str]:
    known = {"target": "vda", "source": str(source), "source_format": source_format, "dest": str(dest)}
    return {**known, "format": image_format, **more}


@pytest.fixture
def victim(images: Path) -> Path:
    (images / "others").mkdir()
    return make_image(images / "others" / "db.qcow2", "qcow2")


@pytest.mark.parametrize("kind", ["merge", "remove the source", "remove it by default", "flatten", "start"])
def test_an_operation_that_no_run_noted_beside_the_images_is_not_believed(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, victim: Path, kind: str
) -> None:
    own = make_image(images / "web.qcow2", "qcow2")
    base = make_image(images / "base.qcow2", "qcow2")
    name = make_domain([Disk(own, "qcow2")], kernel=False).name
    merge = operation(disk(victim, "qcow2", own, "qcow2"), verb="disk-snapshot", snapshot="none", change="merge")
    removal = operation(disk(victim, "raw", own, "qcow2"), verb="convert", remove_source="yes")
    pull = operation(
        disk(victim, "qcow2", victim, "qcow2", below=str(base), below_format="qcow2"),
        verb="flatten",
        mode="live",
        run="1",
    )
    start = operation(disk(own, "qcow2", images / "x.raw", "raw"), verb="convert", was_running="yes")
    convert = {"name": name, "disk": "vda", "format": "qcow2"}
    planted: dict[str, tuple[str, str, dict[str, Any]]] = {
        "merge": (merge, "vm_disk_snapshot", {"name": name, "snapshot": "fine"}),
        "remove the source": (removal, "vm_disk_convert", {**convert, "keep_source": False}),
        "remove it by default": (removal, "vm_disk_convert", convert),
        "flatten": (pull, "vm_disk_flatten", {"name": name, "disk": "vda"}),
        "start": (start, "vm_disk_convert", convert),
    }
    text, module_name, params = planted[kind]
    plant(hv, name, text)
    before = tree_state(images)
    result = module(module_name, params)
    assert result["failed"], result
    assert "of which nothing is noted beside these files: it is not believed" in result["msg"]
    assert f"virsh metadata {name} {URI} --remove" in result["msg"]
    assert tree_state(images) == before
    assert not is_active(hv, name)


@pytest.mark.parametrize(
    "text",
    [
        "<operation/>",
        operation(disk(Path("relative"), "x\u009b", Path("/a"), "raw"), verb="convert\u009b31m"),
        operation({"target": "vda", "zzz": "1"}, verb="convert"),
        operation(verb="convert", was_running="yes"),
        operation(disk(Path("/a"), "raw", Path("/b"), "raw"), verb="convert", mode="sideways"),
        operation(disk(Path("/a"), "raw", Path("/b"), "raw"), verb="convert", started="long ago"),
    ],
)
def test_metadata_that_nobody_can_read_spoil_the_row_of_their_domain_alone(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, text: str
) -> None:
    spoilt = make_domain([Disk(make_image(images / "a.qcow2", "qcow2"), "qcow2")], name="a", kernel=False).name
    sound = make_domain([Disk(make_image(images / "b.qcow2", "qcow2"), "qcow2")], name="b", kernel=False).name
    plant(hv, spoilt, text)
    problems = {found["domain"]: found["problem"] for found in module("vm_disk_info", {})["disks"]}
    assert problems[sound] is None
    assert "holds a record of an operation" in problems[spoilt]
    assert problems[spoilt].isprintable()
    refused = module("vm_disk_convert", {"name": spoilt, "disk": "vda", "format": "raw"})
    assert refused["failed"]
    assert refused["msg"].isprintable()


@pytest.mark.parametrize("wish", ["convert", "snapshot"])
def test_libvirt_fills_no_new_image_where_another_user_may_exchange_it(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain, wish: str
) -> None:
    home = images / "home"
    home.mkdir()
    source = make_image((images if wish == "convert" else home) / "web.raw")
    name = make_domain([Disk(source)], kernel=False).name
    hv.start(name)
    os.chown(home, TENANT, TENANT)
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "convert": ("vm_disk_convert", {"name": name, "disk": "vda", "dest_dir": str(home), "mode": "live"}),
        "snapshot": ("vm_disk_snapshot", {"name": name, "snapshot": "one"}),
    }
    module_name, params = asked[wish]
    refused = module(module_name, params)
    assert "can put a link to any file of this host in its place" in refused["msg"]
    assert [path.name for path in home.iterdir()] == ([] if wish == "convert" else ["web.raw"])
    trusted = module(module_name, {**params, "trust_directories": True})
    assert trusted["changed"], trusted
