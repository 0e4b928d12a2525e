# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest is only shut down where it comes back: all that its definition needs is there, and it loses nothing."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Hypervisor, run_module
from lab.domain import UEFI_VARIABLES
from lab.fixtures import MakeDomain
from support.arranged import Asked, Cases, Scene, assert_refused
from support.injection import paused_at
from support.scene import (
    definition,
    disk_of,
    is_running,
    leftovers,
    make_image,
    make_overlay,
    qemu_img,
    with_backing,
)

CASES = Cases("vm_disk_convert", disk="vda", mode="offline", shutdown="force")
case = CASES.case


@pytest.mark.parametrize("name", CASES)
def test_the_guest_stays_on_where_it_would_not_come_back(scene: Scene, name: str) -> None:
    CASES.assert_refused(name, scene)
    with contextlib.closing(scene.hv.connect()) as connection:
        assert connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE), "it runs on"


# What the definition needs is gone


def running_without(scene: Scene, gone: Path, *disks: Disk, **options: Any) -> Asked:
    """A running domain with vda and DISKS, of which the file GONE has gone since its start."""
    name = scene.domain(Disk(scene.raw()), *disks, start=True, **options)
    gone.unlink()
    return {"name": name}


def redefined(scene: Scene, change: Callable[[str], str], *disks: Disk) -> Asked:
    """A running domain whose definition is another since its start."""
    name = scene.domain(Disk(scene.raw()), *disks, start=True)
    scene.hv.define(change(definition(scene.hv, name)))
    return {"name": name}


def with_device(xml: str) -> Callable[[str], str]:
    return lambda domain: domain.replace("</devices>", f"{xml}</devices>")


def with_boot(xml: str) -> Callable[[str], str]:
    return lambda domain: domain.replace("</type>", f"</type>{xml}", 1)


@case("could not be started again", "the medium of the cdrom hda", "install.iso")
def the_medium_of_a_drive_is_gone(scene: Scene) -> Asked:
    iso = scene.raw("install.iso")
    return running_without(scene, iso, Disk(iso, target="hda", device="cdrom", readonly=True))


@case("the image of vdb", "data.raw")
def the_image_of_another_disk_is_gone(scene: Scene) -> Asked:
    data = scene.raw("data.raw")
    return running_without(scene, data, Disk(data, target="vdb"))


@case("the backing file of vdb", "base.raw")
def the_base_of_another_disk_is_gone(scene: Scene) -> Asked:
    base = scene.raw("base.raw")
    overlay = make_overlay(scene.images / "data.qcow2", base)
    return running_without(scene, base, Disk(overlay, "qcow2", target="vdb"))


@case("the backing file of vdb", "lowest.raw")
def the_lowest_base_that_the_definition_names_is_gone(scene: Scene) -> Asked:
    lowest = scene.raw("lowest.raw")
    base = make_overlay(scene.images / "base.qcow2", lowest)
    data = make_overlay(scene.images / "data.qcow2", base, "qcow2")
    vda, vdb = Disk(scene.raw()).xml(), Disk(data, "qcow2", target="vdb").xml()
    chained = with_backing(vdb, (base, "qcow2"), (lowest, "raw"))
    name = scene.defined(with_device(vda + chained))
    scene.hv.start(name)
    lowest.unlink()
    return {"name": name}


@case("the data file of vdb", "data.content")
def the_data_file_of_another_disk_is_gone(scene: Scene) -> Asked:
    data, content = scene.images / "data.qcow2", scene.images / "data.content"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={content}", data, "4M")
    content.chmod(0o666)
    return running_without(scene, content, Disk(data, "qcow2", target="vdb"))


@case("the kernel /nonexistent/vmlinuz", "the initial RAM disk /nonexistent/initrd")
def the_kernel_and_the_initial_ram_disk_are_gone(scene: Scene) -> Asked:
    return redefined(scene, with_boot("<kernel>/nonexistent/vmlinuz</kernel><initrd>/nonexistent/initrd</initrd>"))


@case("the template /nonexistent/variables.fd of the firmware's variables")
def the_template_of_the_firmware_is_gone(scene: Scene) -> Asked:
    variables = scene.images / "vm.fd"
    shutil.copy(UEFI_VARIABLES, variables)
    name = scene.domain(Disk(scene.raw()), start=True, nvram=variables, memory_mib=256)
    scene.hv.define(definition(scene.hv, name).replace(UEFI_VARIABLES, "/nonexistent/variables.fd"))
    variables.unlink()
    return {"name": name}


@case("the network", "(inactive)")
def the_network_is_inactive(scene: Scene) -> Asked:
    network = f"quiet-{uuid.uuid4().hex[:8]}"
    connection = scene.stack.enter_context(contextlib.closing(scene.hv.connect()))
    defined = connection.networkDefineXML(f"<network><name>{network}</name></network>")
    scene.stack.callback(defined.undefine)
    return redefined(scene, with_device(f"<interface type='network'><source network='{network}'/></interface>"))


@case("the network nowhere (missing)", "the interface nobridge0 (missing)", "the network filter nofilter (missing)")
def the_network_the_bridge_and_the_filter_are_missing(scene: Scene) -> Asked:
    bridge = "<interface type='bridge'><source bridge='nobridge0'/><filterref filter='nofilter'/></interface>"
    return redefined(scene, with_device(f"<interface type='network'><source network='nowhere'/></interface>{bridge}"))


def pool_of(scene: Scene) -> Any:
    """An active pool in a directory of its own, with the volume data.raw."""
    directory = scene.images / "pool"
    directory.mkdir(mode=0o711)
    make_image(directory / "data.raw")
    name = f"pool-{uuid.uuid4().hex[:8]}"
    scene.hv.pool(name, directory)
    pool = scene.stack.enter_context(contextlib.closing(scene.hv.connect())).storagePoolLookupByName(name)
    scene.stack.callback(pool.undefine)
    return pool


def with_volume(scene: Scene, pool: str, volume: str = "data.raw") -> str:
    """A running domain whose vdb is a volume."""
    source = f"<source pool='{pool}' volume='{volume}'/>"
    vdb = f"<disk type='volume' device='disk'><driver type='raw'/>{source}<target dev='vdb' bus='virtio'/></disk>"
    name = scene.domain(Disk(scene.raw()), extra_devices=vdb)
    scene.hv.start(name)
    return name


@case("the storage pool", "(inactive)")
def the_pool_of_another_disk_is_inactive(scene: Scene) -> Asked:
    pool = pool_of(scene)
    name = with_volume(scene, pool.name())
    pool.destroy()
    return {"name": name}


@case("the image of vdb", "data.raw")
def the_volume_of_another_disk_is_gone(scene: Scene) -> Asked:
    pool = pool_of(scene)
    scene.stack.callback(pool.destroy)
    name = with_volume(scene, pool.name())
    (scene.images / "pool/data.raw").unlink()
    pool.refresh()
    return {"name": name}


@case("the image of vdb", "data.raw")
def the_file_of_a_volume_is_gone_and_the_pool_does_not_know(scene: Scene) -> Asked:
    pool = pool_of(scene)
    scene.stack.callback(pool.destroy)
    name = with_volume(scene, pool.name())
    (scene.images / "pool/data.raw").unlink()
    return {"name": name}


@case("the PCI device 0000:ff:1f.7", "the USB device dead:beef", "the shared directory /nonexistent/shared")
def devices_of_the_host_are_missing(scene: Scene) -> Asked:
    pci = (
        "<hostdev mode='subsystem' type='pci' managed='yes'><source>"
        "<address domain='0x0000' bus='0xff' slot='0x1f' function='0x7'/></source></hostdev>"
    )
    usb = (
        "<hostdev mode='subsystem' type='usb'><source><vendor id='0xdead'/><product id='0xbeef'/></source></hostdev>"
        "<hostdev mode='subsystem' type='usb'><source startupPolicy='optional'><vendor id='0xdead'/>"
        "<product id='0x0001'/></source></hostdev>"
    )
    shared = "<filesystem type='mount'><source dir='/nonexistent/shared'/><target dir='shared'/></filesystem>"
    return redefined(scene, with_device(pci + usb + shared))


@case("the secret")
def the_secret_of_another_disk_is_gone(scene: Scene) -> Asked:
    secret = f"<encryption format='luks'><secret type='passphrase' uuid='{uuid.uuid4()}'/></encryption>"
    image = scene.raw("data.raw")
    vdb = Disk(image, target="vdb").xml().replace("<target", f"{secret}<target", 1)
    return redefined(scene, with_device(vdb))


def test_what_a_start_can_do_without_does_not_count(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    iso, shared = make_image(images / "install.iso"), images / "shared"
    shared.mkdir(mode=0o777)
    drive = (
        Disk(iso, target="hda", device="cdrom", readonly=True)
        .xml()
        .replace("<source ", "<source startupPolicy='optional' ")
    )
    folder = f"<filesystem type='mount'><source dir='{shared}'/><target dir='shared'/></filesystem>"
    empty = "<disk type='file' device='cdrom'><target dev='hdb' bus='ide'/></disk>"
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False, extra_devices=drive + folder + empty).name
    hv.start(name)
    iso.unlink()
    done = run_module("vm_disk_convert", {**CASES.usual, "name": name, "uri": hv.uri})
    assert done.get("changed"), done
    assert is_running(hv, name)
    assert disk_of(hv, name) == (str(images / "vm.qcow2"), "qcow2")


def test_a_domain_that_stays_off_needs_nothing_for_a_start(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    iso = make_image(images / "install.iso")
    disks = [Disk(make_image(images / "vm.raw")), Disk(iso, target="hda", device="cdrom", readonly=True)]
    name = make_domain(disks, kernel=False).name
    iso.unlink()
    assert run_module("vm_disk_convert", {"name": name, "disk": "vda", "uri": hv.uri})["changed"]


def test_a_start_that_fails_all_the_same_is_told_of_first(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    iso = make_image(images / "install.iso")
    disks = [Disk(make_image(images / "vm.raw")), Disk(iso, target="hda", device="cdrom", readonly=True)]
    name = make_domain(disks, kernel=False).name
    hv.start(name)
    params = {**CASES.usual, "name": name, "uri": hv.uri}
    with paused_at("virDomainDestroy 1", params) as run:
        iso.unlink()
    told = run.result()
    assert told["msg"].startswith("the domain is off: "), told
    for words in (str(iso), f"virsh start {name}", "run this task again"):
        assert words in told["msg"]
    assert disk_of(hv, name) == (str(images / "vm.raw"), "raw"), "it is what it was"

    again = run_module("vm_disk_convert", params)
    assert again["msg"].startswith("the domain is off: "), again
    assert not is_running(hv, name)

    make_image(iso)
    assert run_module("vm_disk_convert", params)["changed"]
    assert is_running(hv, name)
    assert disk_of(hv, name) == (str(images / "vm.qcow2"), "qcow2")
    assert leftovers(hv, name, images) == []


# The running domain and its definition differ


def without_device(tag: str) -> Callable[[str], str]:
    """What takes the last device of that kind out of a definition."""

    def change(xml: str) -> str:
        begin = xml.rindex(f"<{tag} ")
        return xml[:begin] + xml[xml.index(f"</{tag}>", begin) + len(f"</{tag}>") :]

    return change


def plugged_out(scene: Scene, tag: str, device: str) -> Asked:
    """A running domain with a device that its definition has no more."""
    name = scene.domain(Disk(scene.raw()), extra_devices=device)
    scene.hv.start(name)
    scene.hv.define(without_device(tag)(definition(scene.hv, name)))
    return {"name": name}


@case("has what its definition does not: disk vdb", "would come back without that")
def a_disk_is_plugged_into_the_running_domain_only(scene: Scene) -> Asked:
    name = scene.domain(Disk(scene.raw()), start=True)
    data = Disk(scene.raw("data.raw"), target="vdb").xml()
    with scene.libvirt(name) as domain:
        domain.attachDeviceFlags(data, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return {"name": name}


@case("disk vdb", "data.raw")
def another_disk_has_other_content_than_it_is_defined_with(scene: Scene) -> Asked:
    data, other = scene.raw("data.raw"), scene.raw("other.raw")
    name = scene.domain(Disk(scene.raw()), Disk(data, target="vdb"), start=True)
    scene.hv.define(definition(scene.hv, name).replace(str(data), str(other)))
    return {"name": name}


@case("rng virtio")
def a_source_of_random_numbers_is_defined_no_more(scene: Scene) -> Asked:
    return plugged_out(scene, "rng", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")


@case("interface 52:54:00:11:22:33")
def a_network_interface_is_defined_no_more(scene: Scene) -> Asked:
    return plugged_out(scene, "interface", "<interface type='user'><mac address='52:54:00:11:22:33'/></interface>")


@case("channel unix org.example.1")
def a_channel_is_defined_no_more(scene: Scene) -> Asked:
    return plugged_out(scene, "channel", "<channel type='unix'><target type='virtio' name='org.example.1'/></channel>")


def test_what_the_guest_gains_by_the_restart_is_told_of(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    first, second = make_image(images / "first.iso"), make_image(images / "second.iso")
    disks = [Disk(make_image(images / "vm.raw")), Disk(first, target="hda", device="cdrom", readonly=True)]
    name = make_domain(disks, kernel=False).name
    hv.start(name)
    data = Disk(make_image(images / "data.raw"), target="vdb").xml()
    hv.define(with_device(data)(definition(hv, name)).replace(str(first), str(second)))
    done = run_module("vm_disk_convert", {**CASES.usual, "name": name, "uri": hv.uri})
    assert done.get("changed"), done
    (told,) = [str(warning) for warning in done["warnings"]]
    assert "disk vdb" in told
    assert "cdrom hda" in told


def test_what_the_guest_has_more_of_than_its_definition_gives_it_is_told_of(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.define(definition(hv, name).replace("<vcpu placement='static'>1<", "<vcpu placement='static' current='1'>2<"))
    hv.start(name)
    with contextlib.closing(hv.connect()) as connection:
        domain = connection.lookupByName(name)
        domain.setVcpusFlags(2, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        domain.setBlockIoTune("vda", {"total_iops_sec": 5000}, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    asked = {**CASES.usual, "name": name, "uri": hv.uri}
    foretold = run_module("vm_disk_convert", asked, check=True)
    done = run_module("vm_disk_convert", asked)
    assert done.get("changed"), done
    assert foretold["warnings"] == done["warnings"]
    (told,) = [str(warning) for warning in done["warnings"]]
    assert "vCPUs (2, and 1 by the definition)" in told
    assert "limits of vda (total_iops_sec=5000, and none by the definition)" in told
    assert "memory" not in told


def test_a_limit_that_is_in_the_definition_too_is_nothing_to_tell_of(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    name = make_domain([Disk(make_image(images / "vm.raw"))], kernel=False).name
    hv.start(name)
    burst = {"total_bytes": "1M", "total_bytes_max": "4M", "read_iops": 100}
    assert run_module("vm_disk", {"name": name, "disk": "vda", "throttle": burst, "uri": hv.uri})["changed"]
    done = run_module("vm_disk_convert", {**CASES.usual, "name": name, "uri": hv.uri})
    assert done.get("changed"), done
    assert "warnings" not in done


def half_plugged_in(scene: Scene) -> str:
    """A running domain whose vdb is in the definition only."""
    name = scene.domain(Disk(scene.raw()), start=True)
    base = scene.qcow2("base.qcow2")
    data = Disk(make_overlay(scene.images / "data.qcow2", base, "qcow2"), "qcow2", target="vdb").xml()
    with scene.libvirt(name) as domain:
        domain.attachDeviceFlags(data, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    return name


@pytest.mark.parametrize(
    ("module", "asked"),
    [
        ("vm_disk_convert", {"format": "raw", "disk": "vdb"}),
        ("vm_disk_convert", {"format": "raw", "disks": ["vda", "vdb"], "mode": "offline", "shutdown": "force"}),
        ("vm_disk_flatten", {"disk": "vdb"}),
        ("vm_disk_resize", {"disk": "vdb", "size": "16M"}),
        ("vm_disk_snapshot", {"snapshot": "s", "disks": ["vdb"]}),
    ],
    ids=["convert", "convert offline", "flatten", "resize", "snapshot"],
)
def test_a_disk_that_only_the_definition_has_is_refused_beforehand(
    scene: Scene, module: str, asked: dict[str, Any]
) -> None:
    params = {**asked, "name": half_plugged_in(scene), "uri": scene.hv.uri}
    assert_refused(module, scene, params, ["vdb: is only in the definition", "shut the domain down first"])


def test_a_snapshot_leaves_out_a_disk_that_only_the_definition_has(scene: Scene) -> None:
    name = half_plugged_in(scene)
    done = run_module("vm_disk_snapshot", {"name": name, "snapshot": "s", "uri": scene.hv.uri})
    assert done.get("changed"), done
    assert disk_of(scene.hv, name)[0].endswith("vm.s.qcow2")
    assert disk_of(scene.hv, name, "vdb")[0].endswith("data.qcow2")


def test_a_snapshot_of_a_disk_that_was_plugged_out_is_not_merged_below_the_guest(scene: Scene) -> None:
    name = scene.domain(Disk(scene.raw()), Disk(scene.raw("data.raw"), target="vdb"))
    params = {"name": name, "snapshot": "s", "uri": scene.hv.uri}
    assert run_module("vm_disk_snapshot", params)["changed"]
    whole = definition(scene.hv, name)
    scene.hv.define(without_device("disk")(whole))
    scene.hv.start(name)
    scene.hv.define(whole)
    assert_refused("vm_disk_snapshot", scene, {**params, "state": "absent"}, ["vdb: is only in the definition"])
