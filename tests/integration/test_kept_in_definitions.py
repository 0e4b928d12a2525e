# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a definition says of a disk, and libvirt keeps with its image, is there after each change of that image.

tests/unit/_xml/test_kept_in_disks.py goes through all that libvirt's schema allows; here it is libvirt that drops it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.scene import definition, disk_of, make_image, qemu_img

CACHE = "<metadata_cache><max_size unit='bytes'>2097152</max_size></metadata_cache>"
LABEL = "<seclabel model='dac' relabel='no'/>"
SAID = ("<max_size unit='bytes'>2097152</max_size>", LABEL, "startupPolicy='mandatory'", "<serial>KEPT</serial>")


@pytest.fixture(params=[False, True], ids=["off", "running"])
def name(request: pytest.FixtureRequest, hv: Hypervisor, images: Path, make_domain: MakeDomain) -> str:
    """A domain whose disk says what libvirt keeps with its image."""
    image = make_image(images / "vm.qcow2", "qcow2")
    image.chmod(0o666)  # nobody makes it QEMU's own
    name = make_domain([], kernel=False).name
    hv.remove(name)
    xml = hv.domain_xml(name, [Disk(image, "qcow2", serial="KEPT")], kernel=False)
    source = f'<source file="{image}"'
    assert source in xml
    xml = xml.replace('type="qcow2"/>', f'type="qcow2">{CACHE}</driver>', 1)
    hv.define(xml.replace(f"{source}/>", f"{source} startupPolicy='mandatory'>{LABEL}</source>"))
    assert says_all(hv, name)
    if request.param:
        hv.start(name)
    return name


def says_all(hv: Hypervisor, name: str) -> bool:
    return all(text in definition(hv, name) for text in SAID)


def done(module: str, hv: Hypervisor, name: str, **asked: Any) -> dict[str, Any]:
    result = run_module(module, {"name": name, "uri": hv.uri, **asked})
    assert result.get("changed"), result
    return result


def test_a_snapshot_that_is_taken_and_removed_leaves_the_definition_as_it_was(
    hv: Hypervisor, images: Path, name: str
) -> None:
    before = definition(hv, name)
    for snapshot in ("one", "two", "three"):
        done("vm_disk_snapshot", hv, name, snapshot=snapshot)
        assert says_all(hv, name), definition(hv, name)
    assert disk_of(hv, name)[0] == str(images / "vm.three.qcow2")
    for snapshot in ("two", "three", "one"):
        done("vm_disk_snapshot", hv, name, snapshot=snapshot, state="absent")
        assert says_all(hv, name), definition(hv, name)
    assert definition(hv, name) == before


def test_what_libvirt_dropped_for_a_snapshot_of_somebody_else_is_put_back_when_that_is_removed(
    hv: Hypervisor, images: Path, name: str
) -> None:
    before = definition(hv, name)
    overlay = images / "vm.s.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", images / "vm.qcow2", "-F", "qcow2", overlay)
    overlay.chmod(0o666)
    argv = ["virsh", "-q", "-c", hv.uri, "snapshot-create-as", name, "s", "--disk-only", "--reuse-external"]
    subprocess.run([*argv, "--diskspec", f"vda,file={overlay}"], check=True)
    done("vm_disk_snapshot", hv, name, snapshot="s", state="absent")
    assert definition(hv, name) == before


@pytest.mark.parametrize("mode", ["offline", "auto"])
def test_a_converted_disk_says_what_it_said(hv: Hypervisor, images: Path, name: str, mode: str) -> None:
    before = definition(hv, name)
    done("vm_disk_convert", hv, name, disk="vda", dest=str(images / "other.qcow2"), mode=mode, shutdown="force")
    after = definition(hv, name).replace("      <backingStore/>\n", "")  # libvirt says so after a pivot
    assert after == before.replace("vm.qcow2", "other.qcow2")


def test_a_disk_that_becomes_raw_says_nothing_that_is_for_qcow2_only(hv: Hypervisor, images: Path, name: str) -> None:
    done("vm_disk_convert", hv, name, disk="vda", format="raw")
    assert disk_of(hv, name) == (str(images / "vm.raw"), "raw")
    after = definition(hv, name)
    assert "metadata_cache" not in after
    assert all(text in after for text in SAID[1:])


def test_a_larger_disk_says_what_it_said(hv: Hypervisor, name: str) -> None:
    before = definition(hv, name)
    done("vm_disk_resize", hv, name, disk="vda", size="16M")
    assert definition(hv, name) == before


def test_a_volume_is_a_volume_again_when_its_snapshot_is_removed(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    image = make_image(images / "vm.qcow2", "qcow2")
    name = make_domain([], kernel=False).name
    hv.remove(name)
    pool = f"pool-{name}"
    hv.pool(pool, images)
    xml = hv.domain_xml(name, [Disk(image, "qcow2")], kernel=False)
    volume = xml.replace('type="file" device', 'type="volume" device')
    hv.define(volume.replace(f'<source file="{image}"/>', f"<source pool='{pool}' volume='vm.qcow2'/>"))
    before = definition(hv, name)
    assert f"pool='{pool}'" in before
    done("vm_disk_snapshot", hv, name, snapshot="s")
    done("vm_disk_snapshot", hv, name, snapshot="s", state="absent")
    assert definition(hv, name) == before
