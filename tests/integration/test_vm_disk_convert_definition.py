# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert and the definition of the domain: driver type and source of the disk change, nothing else does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from support.scene import RECORD, definition, disk_of, leftovers, make_image, make_overlay, on_volume, with_backing

Module = Callable[..., dict[str, Any]]
MODULE = "vm_disk_convert"
METADATA = (
    "<app:note xmlns:app='urn:example:app' owner='ops'><!-- do not touch: ticket 4711 -->"
    "<app:text>a &lt;b&gt; &amp; 'c'</app:text><?keep this?></app:note>"
)
DEVICES = (
    "<controller type='virtio-serial' index='3'/><controller type='usb' index='0' model='ich9-ehci1'/>"
    "<channel type='unix'><alias name='ua-channel'/><target type='virtio' name='org.example.0'/></channel>"
    "<controller type='scsi' index='2' model='virtio-scsi'/><controller type='scsi' index='1' model='lsilogic'/>"
    "<watchdog model='i6300esb' action='poweroff'/>"
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
)
COMMAND_LINE = (
    "<qemu:commandline><qemu:arg value='-name'/><qemu:arg value='guest=x,debug-threads=on'/></qemu:commandline>"
)


def rich(xml: str) -> str:
    """The domain with everything that a careless redefinition loses."""
    return (
        xml.replace(
            "<domain type='qemu'>", "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
        )
        .replace("</domain>", f"<seclabel type='dynamic' model='dac' relabel='yes'/>{COMMAND_LINE}</domain>")
        .replace('<target dev="vda"', '<alias name="ua-root"/><target dev="vda"')
        .replace('vm.raw"/>', "vm.raw\"><seclabel model='dac' relabel='no'/></source>")
    )


def test_nothing_changes_in_a_rich_definition_but_the_driver_type_and_the_source(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    disk = Disk(source, serial="ROOT-1", cache="directsync", io="native", discard="unmap", boot_order=1)
    other = Disk(make_image(images / "other.raw"), target="sdb")
    options: dict[str, Any] = {"vnc_password": "sesame", "metadata": METADATA, "extra_devices": DEVICES}
    name = make_domain([disk, other], kernel=False, **options).name
    uuid = next(line for line in definition(hv, name).splitlines() if "<uuid>" in line)
    xml = hv.domain_xml(name, [disk, other], kernel=False, **options)
    hv.define(rich(xml).replace("<memory", uuid.strip() + "<memory", 1))
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(name).setAutostart(1)
    before = definition(hv, name)
    for kept in (
        "sesame",
        "ticket 4711",
        "keep this",
        "debug-threads",
        "ROOT-1",
        "ua-root",
        "ua-channel",
        "relabel='no'",
    ):
        assert kept in before

    done = module(MODULE, {"name": name, "disk": "vda"}, diff=True)

    assert done.get("changed"), done
    expected = before.replace("type='raw' cache='directsync'", "type='qcow2' cache='directsync'")
    expected = expected.replace(str(source), str(images / "vm.qcow2"))
    # Every redefinition, by whomever, makes libvirt sort the controllers anew.
    assert sorted(definition(hv, name).splitlines()) == sorted(expected.splitlines())
    with contextlib.closing(hv.connect()) as connection:
        assert connection.lookupByName(name).autostart()
    assert "sesame" not in str(done)


def test_a_definition_without_metadata_has_none_afterwards(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    name = make_domain([Disk(source)], kernel=False).name
    before = definition(hv, name)
    assert "<metadata" not in before
    module(MODULE, {"name": name, "disk": "vda"})
    dest = str(images / "vm.qcow2")
    assert definition(hv, name) == before.replace("type='raw'", "type='qcow2'").replace(str(source), dest)


def test_the_definition_of_a_running_domain_changes_as_little(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    name = make_domain([Disk(source)], kernel=False, vnc_password="sesame", metadata=METADATA).name
    hv.start(name)
    before = definition(hv, name)
    done = module(MODULE, {"name": name, "disk": "vda", "mode": "offline", "shutdown": "force"})
    assert done.get("changed"), done
    dest = str(images / "vm.qcow2")
    assert definition(hv, name) == before.replace("type='raw'", "type='qcow2'").replace(str(source), dest)
    assert RECORD not in definition(hv, name, 0), "the running domain carries no record either"


def test_a_volume_of_a_pool_becomes_a_file_and_the_pool_sees_both(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    source = make_image(images / "vm.raw")
    hv.pool("volumes", images)
    with contextlib.closing(hv.connect()) as connection:
        pool = connection.storagePoolLookupByName("volumes")
        try:
            name = make_domain([], kernel=False).name
            hv.remove(name)
            hv.define(on_volume(hv.domain_xml(name, [Disk(source)], kernel=False), source, "volumes"))
            before = definition(hv, name)
            assert "volume='vm.raw'" in before
            done = module(MODULE, {"name": name, "disk": str(source), "keep_source": False})
            assert done.get("changed"), done
            assert disk_of(hv, name) == (str(images / "vm.qcow2"), "qcow2")
            expected = before.replace("type='volume' device", "type='file' device").replace(
                "type='raw'", "type='qcow2'"
            )
            assert definition(hv, name) == expected.replace(
                "pool='volumes' volume='vm.raw'", f"file='{images / 'vm.qcow2'}'"
            )
            assert pool.listVolumes() == ["vm.qcow2"]
            assert leftovers(hv, name, images) == []
        finally:
            pool.destroy()
            pool.undefine()


def test_the_backing_files_go_out_of_the_definition_with_their_overlay(
    hv: Hypervisor, module: Module, images: Path, make_domain: MakeDomain
) -> None:
    base = make_image(images / "base.raw")
    overlay = make_overlay(images / "vm.qcow2", base)
    name = make_domain([], kernel=False).name
    hv.remove(name)
    hv.define(with_backing(hv.domain_xml(name, [Disk(overlay, "qcow2")], kernel=False), (base, "raw")))
    before = definition(hv, name)
    assert "<backingStore" in before
    done = module(MODULE, {"name": name, "disk": "vda", "format": "raw"})
    assert done.get("changed"), done
    start, end = before.index("      <backingStore"), before.rindex("</backingStore>") + len("</backingStore>\n")
    expected = (before[:start] + before[end:]).replace("type='qcow2'", "type='raw'")
    assert definition(hv, name) == expected.replace(str(overlay), str(images / "vm.raw"))
