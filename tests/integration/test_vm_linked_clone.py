# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_linked_clone with real guests and images: a clone is its own machine, and the base stays as it was."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lab import Disk, Guest, Hypervisor, build_boot_disk, run_module, tree_state
from lab.fixtures import MakeDomain
from lab.tree import file_digest
from support.scene import (
    MIB,
    chain_of,
    content,
    definition,
    disk_of,
    image_chain,
    is_running,
    make_image,
    make_overlay,
    qemu_img,
    with_backing,
)

MODULE = "vm_linked_clone"
MAC = "52:54:00:aa:00:01"


@dataclass
class Golden:
    """A domain to be cloned; what is made of it goes with it."""

    hv: Hypervisor
    images: Path
    name: str

    def clone(self, *names: str | dict[str, Any], **more: Any) -> dict[str, Any]:
        options = {key: more.pop(key) for key in ("check", "diff", "env", "timeout") if key in more}
        return run_module(MODULE, {**self.asked(*names), **more}, **options)

    def asked(self, *names: str | dict[str, Any]) -> dict[str, Any]:
        clones = [{"name": self.named(name)} if isinstance(name, str) else name for name in names]
        return {"source": self.name, "clones": clones, "uri": self.hv.uri}

    def named(self, short: str) -> str:
        return f"{self.name}-{short}"

    def made(self, *names: str | dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        result = self.clone(*names, **more)
        assert result.get("changed"), result
        return list(result["clones"])

    def domains(self) -> list[str]:
        with contextlib.closing(self.hv.connect()) as connection:
            return sorted(domain.name() for domain in connection.listAllDomains() if domain.name() != self.name)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.images.rglob("*") if path.is_file())


MakeGolden = Callable[..., Golden]


@pytest.fixture
def golden(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[MakeGolden]:
    """Defines a domain to be cloned, by default with a qcow2 image and a network interface."""
    before = set()
    with contextlib.closing(hv.connect()) as connection:
        before = {domain.name() for domain in connection.listAllDomains()}

    def make(*disks: Disk, kernel: bool = False, **options: Any) -> Golden:
        found = list(disks) or [Disk(make_image(images / "golden.qcow2", "qcow2"), "qcow2")]
        return Golden(hv, images, make_domain(found, name="gold", kernel=kernel, **{"mac": MAC, **options}).name)

    yield make
    with contextlib.closing(hv.connect()) as connection:
        made = {domain.name() for domain in connection.listAllDomains()} - before
    for name in made:
        hv.remove(name)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def identity(guest: Guest) -> tuple[str, str]:
    """The product UUID and the MAC address as the guest sees them."""
    said = guest.must("cat /sys/class/dmi/id/product_uuid /sys/class/net/eth0/address").split()
    return said[0].lower(), said[1]


# Guests


def test_clones_boot_with_the_data_of_the_base_and_write_only_for_themselves(golden: MakeGolden, images: Path) -> None:
    base = build_boot_disk(images / "golden.raw")
    gold = golden(Disk(base), kernel=True)
    before = file_digest(base)
    linked = gold.made("a", {"name": gold.named("b"), "disk_sizes": {"vda": "96M"}}, start=True)
    clones = [*linked, *gold.made("full", mode="full", start=True)]
    guests = [Guest(gold.hv, clone["name"]) for clone in clones]
    for guest, clone in zip(guests, clones, strict=True):
        guest.wait_ready()
        assert identity(guest) == (clone["uuid"], clone["macs"][0])
        guest.must("cd /data && sha256sum -c SHA256SUMS")
    assert [guest.disk_size("vda") for guest in guests] == [64 * MIB, 96 * MIB, 64 * MIB]
    assert len({identity(guest) for guest in guests}) == 3
    guests[0].must("pattern /data/first 1 first && sync")
    guests[2].must("pattern /data/third 1 third && sync")
    assert guests[1].run("test -e /data/first || test -e /data/third")[0] == 1
    assert base.stat().st_uid == 0, "libvirt's change of the owner was undone"
    later = gold.made("later")[0]["disks"][0]["path"]
    assert content(later, "qcow2") == file_digest(base) == before
    for guest, chain in zip(guests, ([str(base)], [str(base)], []), strict=True):
        assert chain_of(gold.hv, guest.name) == chain_of(gold.hv, guest.name, live=True) == chain
    assert image_chain(clones[2]["disks"][0]["path"], "raw") == []


def test_a_copy_of_a_chain_is_one_image(golden: MakeGolden, images: Path) -> None:
    base = make_image(images / "base.raw", mib=3)
    top = make_overlay(images / "top.qcow2", base)
    gold = golden(Disk(top, "qcow2"))
    gold.hv.define(with_backing(definition(gold.hv, gold.name), (base, "raw")))
    clone = gold.made(
        {"name": gold.named("full"), "disk_sizes": {"vda": "12M"}}, mode="full", preallocation="metadata"
    )[0]
    path = clone["disks"][0]["path"]
    assert clone["disks"][0]["backing_file"] is None
    assert image_chain(path, "qcow2") == chain_of(gold.hv, clone["name"]) == []
    told = json.loads(qemu_img("info", "--output=json", path))
    assert told["virtual-size"] == 12 * MIB
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", path, top)


def test_a_uefi_clone_boots_with_variables_of_its_own(golden: MakeGolden, images: Path) -> None:
    base = make_image(images / "golden.raw")
    nvram = images / "golden_VARS.fd"
    nvram.write_bytes(Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes())
    gold = golden(Disk(base), kernel=True, nvram=nvram, memory_mib=256)
    store = file_digest(nvram)
    clone = gold.made("uefi", start=True)[0]
    own = Path(clone["nvram"])
    assert own.name == f"golden_VARS-{clone['name']}.fd"
    guest = Guest(gold.hv, clone["name"])
    guest.wait_ready()
    guest.must("test -d /sys/firmware/efi")
    assert identity(guest) == (clone["uuid"], clone["macs"][0])
    guest.must("pattern /dev/vda 1 uefi")
    assert file_digest(own) != store, "the firmware wrote its variables there"
    assert file_digest(nvram) == store
    assert content(base, "raw") == file_digest(base)
    result = gold.clone("uefi", state="absent", force=True)
    assert result["changed"], result
    assert not own.exists()
    assert nvram.exists()
    assert gold.domains() == []


def test_clones_of_a_machine_with_everything_run_at_once_each_for_itself(golden: MakeGolden, images: Path) -> None:
    devices = (
        f"<channel type='unix'><source mode='bind' path='{images}/agent'/><target type='virtio' name='x.0'/></channel>"
        f"<serial type='file'><source path='{images}/serial.txt'/></serial>"
        "<graphics type='vnc' port='5999' autoport='no' listen='127.0.0.1'/><video><model type='vga'/></video>"
    )
    gold = golden(extra_devices=devices)
    own = ET.fromstring(definition(gold.hv, gold.name)).findtext("uuid")
    system = f"<sysinfo type='smbios'><system><entry name='uuid'>{own}</entry></system></sysinfo>"
    genid = "<genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>"
    xml = definition(gold.hv, gold.name).replace("<os>", f"{system}{genid}<os><smbios mode='sysinfo'/>")
    gold.hv.define(xml)
    made = gold.made("a", "b", start=True)
    roots = [ET.fromstring(definition(gold.hv, name)) for name in (gold.name, *(clone["name"] for clone in made))]
    assert all(is_running(gold.hv, clone["name"]) for clone in made)
    for where in ("uuid", "sysinfo/system/entry", "genid"):
        assert len({root.findtext(where) for root in roots}) == 3, where
    assert [root.findtext("uuid") for root in roots] == [root.findtext("sysinfo/system/entry") for root in roots]
    for where, name in (("channel/source", "path"), ("serial/source", "path"), ("serial/log", "file")):
        found = [[node.get(name) for node in root.iterfind(f"devices/{where}")] for root in roots]
        assert len({path for paths in found for path in paths}) == 3 * len(found[0]) > 0, where
    for clone in made:
        told = {change["what"] for change in clone["identity"]}
        assert {"name", "uuid", "sysinfo uuid", "genid", "interface 0 mac", "vda source", "graphics 0 port"} <= told


def test_what_two_machines_cannot_share_is_a_clones_own_or_told_with_a_warning(
    golden: MakeGolden, images: Path
) -> None:
    devices = (
        "<vsock model='virtio'><cid auto='no' address='77'/></vsock>"
        f"<filesystem type='mount'><source dir='{images}'/><target dir='host'/></filesystem>"
        "<rng model='virtio'><backend model='egd' type='unix'><source mode='connect' path='/run/egd'/></backend></rng>"
        "<shmem name='pages'><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>"
    )
    gold = golden(extra_devices=devices)
    for check in (True, False):
        result = gold.clone("a", "b", check=check)
        assert result.get("changed"), result
        for clone in result["clones"]:
            assert set(clone["shared"]) == {
                "rng 0 connected to /run/egd",
                "shared memory pages",
                f"filesystem of {images}",
            }
            assert {"what": "vsock cid", "before": "77", "after": None} in clone["identity"]
        assert any(all(text in str(warning) for text in clone["shared"]) for warning in result["warnings"])
    for clone in result["clones"]:
        cid = ET.fromstring(definition(gold.hv, clone["name"])).find("devices/vsock/cid")
        assert cid is not None
        assert cid.get("auto") == "yes"
    assert not gold.clone("a", "b")["changed"]


def test_a_clone_goes_in_one_list_with_its_own_clones_but_not_before_them(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    template = gold.made("template")[0]["name"]
    Golden(gold.hv, images, template).made("child", start=True)
    child = f"{template}-child"
    assert f"is a clone of {template}" in gold.clone({"name": child}, state="absent", force=True)["msg"]
    listed: list[Any] = [{"name": template}, {"name": child}]
    kept = gold.clone(*listed, state="absent")
    assert [clone["name"] for clone in kept["failed_clones"]] == [template, child], "what runs keeps its template"
    predicted = gold.clone(*listed, state="absent", force=True, check=True)
    removed = gold.clone(*listed, state="absent", force=True)
    assert predicted["actions"] == removed["actions"]
    assert removed["actions"][-1] == f"release {images}/golden.qcow2"
    assert gold.domains() == []
    assert gold.files() == [".golden.qcow2.kvmops-base", "golden.qcow2"]
    assert mode_of(images / "golden.qcow2") == 0o644
    assert not gold.clone(*listed, state="absent")["changed"]


# Images


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_an_overlay_is_what_qemu_img_makes(golden: MakeGolden, images: Path, base_format: str) -> None:
    base = make_image(images / f"golden.{base_format}", base_format)
    gold = golden(Disk(base, base_format))
    sizes = {"vda": "1G"}
    clones = gold.made(
        "a", "b", {"name": gold.named("c"), "disk_sizes": sizes}, {"name": gold.named("d"), "disk_sizes": sizes}
    )
    for number, size in enumerate(["8M", "8M", "1G", "1G"]):
        typed = images.parent / f"{images.name}.typed"
        qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", base_format, typed, size)
        assert Path(clones[number]["disks"][0]["path"]).read_bytes() == typed.read_bytes()
        typed.unlink()


def test_clones_follow_the_owner_and_the_mode_of_the_base_and_the_base_is_protected(
    golden: MakeGolden, images: Path
) -> None:
    base = make_image(images / "golden.qcow2", "qcow2")
    os.chown(base, 1234, 2345)
    base.chmod(0o664)
    gold = golden(Disk(base, "qcow2"))
    away = images / "elsewhere"
    away.mkdir(mode=0o711)
    for number in range(2):
        clone = gold.made(f"c{number}", disk_dir=str(away))[0]
        status = Path(clone["disks"][0]["path"]).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o664)
        assert mode_of(base) == 0o444
    refused = run_module("qcow2_image", {"path": str(base), "size": "16M"})
    assert len(refused["dependents"]) == 2
    gold.clone("c0", state="absent")
    assert mode_of(base) == 0o444
    last = gold.clone("c1", state="absent")
    assert last["actions"][-1] == f"release {base}"
    assert mode_of(base) == 0o664
    assert run_module("qcow2_image", {"path": str(base), "size": "16M"})["changed"]


def test_without_protection_the_clones_are_noted_all_the_same(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    base = images / "golden.qcow2"
    away = images / "away"
    away.mkdir(mode=0o711)
    made = gold.clone("a", protect_base=False, disk_dir=str(away))
    assert "is not protected" in json.dumps(made["warnings"])
    assert "protect" not in json.dumps(made["actions"])
    assert mode_of(base) == 0o644
    assert not gold.clone("a", protect_base=False, disk_dir=str(away))["changed"]
    gold.hv.remove(gold.named("a"))
    refused = run_module("qcow2_image", {"path": str(base), "size": "16M"})
    assert refused["dependents"] == [str(away / gold.named("a.qcow2"))], "found though no domain has it"
    (away / gold.named("a.qcow2")).unlink()
    assert run_module("qcow2_image", {"path": str(base), "size": "16M"})["changed"]


def test_a_base_that_lost_its_protection_gets_it_back(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    base = images / "golden.qcow2"
    gold.clone("a", protect_base=False)
    predicted = gold.clone("a", check=True)
    assert predicted["actions"] == [f"protect {base}"]
    assert gold.clone("a")["actions"] == predicted["actions"]
    assert mode_of(base) == 0o444
    assert not gold.clone("a")["changed"]


def test_several_disks_and_what_is_shared(golden: MakeGolden, images: Path) -> None:
    root, data = make_image(images / "root.raw"), make_image(images / "data.qcow2", "qcow2", seed="data")
    iso, library = make_image(images / "tools.iso"), make_image(images / "library.raw")
    quorum = make_image(images / "quorum.raw")
    gold = golden(
        Disk(root, serial="ROOT"),
        Disk(data, "qcow2", "vdb", serial="DATA"),
        Disk(iso, target="hdc", device="cdrom", readonly=True),
        Disk(library, target="vdc", readonly=True),
        Disk(quorum, target="vdd", shareable=True),
    )
    clone = gold.made("a", unique_serials=True)[0]
    name = clone["name"]
    assert [disk["backing_file"] for disk in clone["disks"]] == [str(root), str(data)]
    assert disk_of(gold.hv, name)[1] == disk_of(gold.hv, name, "vdb")[1] == "qcow2"
    for target, path in (("hdc", iso), ("vdc", library), ("vdd", quorum)):
        assert disk_of(gold.hv, name, target)[0] == str(path)
    serials = [node.text for node in ET.fromstring(definition(gold.hv, name)).iterfind("./devices/disk/serial")]
    assert len({*serials, "ROOT", "DATA"}) == 4
    assert content(clone["disks"][1]["path"], "qcow2") == content(data, "qcow2")
    gold.clone("a", state="absent")
    for path in (root, data, iso, library, quorum):
        assert path.exists()
    assert gold.domains() == []


def test_a_source_with_a_chain_is_named_as_a_whole_where_it_is_trusted(golden: MakeGolden, images: Path) -> None:
    base = make_image(images / "base.raw", mib=3)
    top = make_overlay(images / "top.qcow2", base)
    gold = golden(Disk(top, "qcow2"))
    refused = gold.clone("a")
    assert "which the definition of" in refused["msg"]
    clone = gold.made("a", trusted=True)[0]
    assert chain_of(gold.hv, clone["name"]) == image_chain(clone["disks"][0]["path"], "qcow2") == [str(top), str(base)]
    assert content(clone["disks"][0]["path"], "qcow2") == content(top, "qcow2")
    again = Golden(gold.hv, images, clone["name"]).made("deeper")[0]
    assert len(chain_of(gold.hv, again["name"])) == 3


@pytest.fixture
def loop(images: Path) -> Iterator[str]:
    """A block device."""
    backing = make_image(images / "device.raw")
    losetup = ["losetup", "--find", "--show", str(backing)]
    device = subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def test_a_block_device_is_a_base_too_where_a_directory_is_given(golden: MakeGolden, images: Path, loop: str) -> None:
    gold = golden(Disk(loop))
    assert "is the block device" in gold.clone("a")["msg"]
    clone = gold.made("a", disk_dir=str(images))[0]
    backing = ET.fromstring(definition(gold.hv, clone["name"])).find("./devices/disk/backingStore")
    assert backing is not None
    assert backing.get("type") == "block"
    assert (clone["disks"][0]["backing_file"], mode_of(Path(clone["disks"][0]["path"]))) == (loop, 0o600)
    assert content(clone["disks"][0]["path"], "qcow2") == content(loop, "raw")
    copy = gold.made("b", disk_dir=str(images), mode="full")[0]
    assert content(copy["disks"][0]["path"], "raw") == content(loop, "raw")
    assert not gold.clone("a", disk_dir=str(images))["changed"]


def test_a_volume_of_a_pool_is_cloned_and_the_pool_sees_the_new_image(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    pool = f"pool-{gold.name}"
    gold.hv.pool(pool, images)
    try:
        source = f"<source pool='{pool}' volume='golden.qcow2'/>"
        xml = definition(gold.hv, gold.name).replace("<disk type='file'", "<disk type='volume'")
        gold.hv.define(xml.replace(f"<source file='{images}/golden.qcow2'/>", source))
        clone = gold.made("a")[0]
        assert disk_of(gold.hv, clone["name"])[0] == clone["disks"][0]["path"]
        with contextlib.closing(gold.hv.connect()) as connection:
            assert f"{clone['name']}.qcow2" in connection.storagePoolLookupByName(pool).listVolumes()
            gold.clone("a", state="absent")
            assert f"{clone['name']}.qcow2" not in connection.storagePoolLookupByName(pool).listVolumes()
    finally:
        with contextlib.closing(gold.hv.connect()) as connection:
            connection.storagePoolLookupByName(pool).destroy()
            connection.storagePoolLookupByName(pool).undefine()


@pytest.fixture
def xfs(images: Path) -> Iterator[Path]:
    """A directory on a file system that knows reflinks."""
    device, place = images / "xfs.device", images / "xfs"
    with device.open("wb") as stream:
        stream.truncate(320 * MIB)
    subprocess.run(["mkfs.xfs", "-q", device], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", device, place], check=True)
    place.chmod(0o711)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_reflink_is_a_copy_that_takes_no_space(golden: MakeGolden, xfs: Path) -> None:
    base = make_image(xfs / "base.raw", mib=2, size_mib=64)
    top = xfs / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", top)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 8M 32M", top], check=True, capture_output=True)
    gold = golden(Disk(top, "qcow2"))
    os.sync()
    before = os.statvfs(xfs).f_bfree
    predicted = gold.clone("a", mode="reflink", trusted=True, check=True)
    clones = gold.made("a", {"name": gold.named("b"), "disk_sizes": {"vda": "80M"}}, mode="reflink", trusted=True)
    assert predicted["actions"][0].startswith(f"reflink {top} to ")
    os.sync()
    assert (before - os.statvfs(xfs).f_bfree) * os.statvfs(xfs).f_frsize < 4 * MIB
    for clone, size in zip(clones, (64, 80), strict=True):
        path = clone["disks"][0]["path"]
        assert image_chain(path, "qcow2") == chain_of(gold.hv, clone["name"]) == [str(base)]
        assert json.loads(qemu_img("info", "--output=json", path))["virtual-size"] == size * MIB
    assert content(clones[0]["disks"][0]["path"], "qcow2") == content(top, "qcow2")
    assert mode_of(top) == 0o644, "what is copied needs no protection"
    assert not gold.clone("a", mode="reflink", trusted=True)["changed"]


def test_without_reflinks_the_task_says_what_is_made_instead(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    refused = gold.clone("a", mode="reflink")
    assert "cannot be reflinked into" in refused["msg"]
    linked = gold.made("a", mode="reflink", fallback="linked")[0]
    assert linked["disks"][0]["backing_file"] == str(images / "golden.qcow2")
    full = gold.made("b", mode="reflink", fallback="full")[0]
    assert full["disks"][0]["backing_file"] is None
    assert not gold.clone("a", mode="reflink", fallback="linked")["changed"]


def test_names_with_odd_characters(golden: MakeGolden, images: Path) -> None:
    odd = images / "odd: place, here"
    odd.mkdir(mode=0o711)
    base = make_image(odd / "-b a,s:e.qcow2", "qcow2")
    gold = golden(Disk(base, "qcow2"))
    names = ["-dash", "with space", "com,ma", "col:on", "q'uo\"te", "ünï"]
    clones = gold.made(*({"name": name} for name in names))
    for clone in clones:
        path = clone["disks"][0]["path"]
        assert disk_of(gold.hv, clone["name"])[0] == path
        assert content(path, "qcow2") == content(base, "qcow2")
    assert not gold.clone(*({"name": name} for name in names))["changed"]
    assert gold.clone(*({"name": name} for name in names), state="absent")["changed"]
    assert gold.domains() == []


# The list


def test_a_task_predicts_makes_and_then_changes_nothing(golden: MakeGolden, images: Path) -> None:
    gold = golden(vnc_password="sesame")
    wish: list[Any] = [
        "a",
        {
            "name": gold.named("b"),
            "mac": "52:54:00:00:00:0B",
            "uuid": "12345678-1234-4234-8234-123456789ABC",
            "memory": "192M",
            "vcpus": 2,
            "description": "The second",
            "metadata": "<o:owner xmlns:o='urn:o'>Ada</o:owner>",
        },
    ]
    state = tree_state(images)
    predicted = gold.clone(*wish, check=True, diff=True)
    assert tree_state(images) == state
    assert gold.domains() == []
    made = gold.clone(*wish, diff=True)
    assert predicted["actions"] == made["actions"]
    assert predicted["clones"][1] == made["clones"][1]
    assert predicted["clones"][0]["uuid"] is None
    assert predicted["diff"][2] == made["diff"][2]
    assert "+  <uuid>12345678-1234-4234-8234-123456789abc</uuid>" in made["diff"][2]["prepared"]
    assert "sesame" not in json.dumps(made["diff"])
    xml = definition(gold.hv, gold.named("b"))
    for words in ("<memory unit='KiB'>196608<", ">2</vcpu>", "<description>The second<", "urn:o", "passwd='sesame'"):
        assert words in xml
    state = tree_state(images)
    again = gold.clone(*wish, diff=True)
    assert (again["changed"], again["actions"]) == (False, [])
    assert tree_state(images) == state
    assert [clone["uuid"] for clone in again["clones"]] == [clone["uuid"] for clone in made["clones"]]
    assert gold.files() == [
        ".golden.qcow2.kvmops-base",
        *sorted([gold.named("a.qcow2"), gold.named("b.qcow2")]),
        "golden.qcow2",
    ]


def test_a_clone_that_is_made_anew_keeps_its_address(golden: MakeGolden) -> None:
    gold = golden()
    first = gold.made("a", "b")
    gold.clone("a", state="absent")
    again = gold.made("a")[0]
    assert again["macs"] == first[0]["macs"] != first[1]["macs"]
    assert again["uuid"] != first[0]["uuid"]


def test_a_clone_that_fails_leaves_nothing_and_the_others_are_made(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    other = gold.made({"name": gold.named("other"), "mac": "52:54:00:00:00:0f"})[0]
    (images / gold.named("file.qcow2")).write_text("somebody's")
    foreign = gold.named("foreign")
    gold.hv.define(gold.hv.domain_xml(foreign, [Disk(make_image(images / "foreign.raw"))], kernel=False))
    wish: list[Any] = [
        "first",
        "file",
        {"name": gold.named("uuid"), "uuid": other["uuid"]},
        {"name": gold.named("mac"), "mac": "52:54:00:00:00:0f"},
        "foreign",
        {"name": gold.named("vcpus"), "vcpus": 5000},
        "last",
    ]
    predicted = gold.clone(*wish, check=True)
    result = gold.clone(*wish)
    assert result["failed"]
    assert result["changed"]
    assert "5 of 7 clones failed" in result["msg"]
    failed = {clone["name"].removeprefix(gold.name + "-"): clone for clone in result["failed_clones"]}
    assert [*failed] == ["file", "uuid", "mac", "foreign", "vcpus"]
    assert "exists already: it was left alone" in failed["file"]["msg"]
    assert "is that of the domain" in failed["uuid"]["msg"]
    assert failed["mac"]["mac"] == "52:54:00:00:00:0f"
    assert "reads no backing file, asked for" in failed["foreign"]["differences"][0]
    assert "cannot define the domain" in failed["vcpus"]["msg"]
    assert [clone["msg"] for clone in predicted["failed_clones"]] == [failed[name]["msg"] for name in [*failed][:4]]
    assert [clone["name"] for clone in result["clones"]] == [gold.named("first"), gold.named("last")]
    assert gold.domains() == sorted(gold.named(name) for name in ("other", "foreign", "first", "last"))
    assert gold.named("vcpus.qcow2") not in gold.files()
    assert not [name for name in gold.files() if name.endswith(".kvmops")]
    assert (images / gold.named("file.qcow2")).read_text() == "somebody's"
    again = gold.clone("first", "last")
    assert not again["changed"]


def test_a_clone_that_does_not_start_is_removed_again(golden: MakeGolden, images: Path) -> None:
    gold = golden(extra_devices="<hostdev mode='subsystem' type='pci'><source><address bus='0xee'/></source></hostdev>")
    result = gold.clone("a", start=True)
    assert "cannot start the domain" in result["msg"]
    assert gold.domains() == []
    assert gold.files() == [".golden.qcow2.kvmops-base", "golden.qcow2"]
    assert mode_of(images / "golden.qcow2") == 0o644, "nothing depends on it, so it is as it was"
    assert "while it runs: host device 0" in json.dumps(gold.clone("a")["warnings"])


def test_a_domain_with_another_base_says_what_differs(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    gold.made("a")
    other = make_image(images / "newer.qcow2", "qcow2")
    xml = definition(gold.hv, gold.name)
    gold.hv.define(xml.replace("golden.qcow2", "newer.qcow2"))
    result = gold.clone("a")
    assert f"reads {images}/golden.qcow2, asked for {other}" in result["msg"]
    assert result["differences"] == result["failed_clones"][0]["differences"]
    assert gold.domains() == [gold.named("a")]


def test_a_clone_by_hand_with_the_right_base_is_left_alone(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    name = gold.named("hand")
    overlay = images / "hand.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", images / "golden.qcow2", "-F", "qcow2", overlay)
    gold.hv.define(gold.hv.domain_xml(name, [Disk(overlay, "qcow2")], kernel=False))
    before = definition(gold.hv, name)
    result = gold.clone("hand")
    assert result["actions"] == [f"protect {images}/golden.qcow2"]
    assert definition(gold.hv, name) == before
    refused = gold.clone("hand", state="absent")
    assert "nothing in its definition says that this module made it" in refused["msg"]
    assert overlay.exists()


def test_a_clone_over_which_a_snapshot_was_taken_is_still_right(golden: MakeGolden) -> None:
    gold = golden()
    name = gold.made("a")[0]["name"]
    with contextlib.closing(gold.hv.connect()) as connection:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        connection.lookupByName(name).snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>", flags)
    assert not gold.clone("a")["changed"]
    refused = gold.clone("a", state="absent")
    assert len(refused["dependents"]) == 1
    assert gold.domains() == [name]


def test_a_hundred_clones_are_made_listed_and_removed(golden: MakeGolden) -> None:
    gold = golden()
    names = [f"pc-{number:03}" for number in range(100)]
    made = gold.made(*names)
    assert len({clone["uuid"] for clone in made}) == len({clone["macs"][0] for clone in made}) == 100
    disks = run_module("vm_disk_info", {"uri": gold.hv.uri, "names": [clone["name"] for clone in made]})["disks"]
    assert len(disks) == 100
    assert {len(disk["backing_chain"]) for disk in disks} == {2}
    assert not gold.clone(*names)["changed"]
    removed = gold.clone(*names, state="absent")
    assert len(removed["clones"]) == 100
    assert gold.domains() == []
    assert gold.files() == [".golden.qcow2.kvmops-base", "golden.qcow2"]


# What a clone that is there lacks


def seeds_of(gold: Golden, short: str) -> dict[str, str]:
    """The files in the drives of a clone that nobody can write, by their targets."""
    disks = ET.fromstring(definition(gold.hv, gold.named(short))).iterfind("./devices/disk[readonly]")
    return {disk.find("target").get("dev"): disk.find("source").get("file") for disk in disks}  # type: ignore[union-attr, misc]


def test_clones_get_their_seeds_and_those_that_are_there_too(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    first, second = make_image(images / "-s e,e:d.iso"), make_image(images / "other.iso")
    gold.made("there")
    wish = [{"name": gold.named(name), "seed": str(first)} for name in ("there", "new")]
    state, before = tree_state(images), definition(gold.hv, gold.named("there"))
    predicted = gold.clone(*wish, check=True, diff=True)
    assert (tree_state(images), definition(gold.hv, gold.named("there"))) == (state, before)
    made = gold.clone(*wish, diff=True)
    assert made["actions"] == predicted["actions"], made
    assert f"give {gold.named('there')} the seed {first}" in made["actions"]
    assert [clone["seed"] for clone in made["clones"]] == [str(first)] * 2
    assert made["clones"][0] == predicted["clones"][0]
    assert made["diff"][-1] == predicted["diff"][-1]
    assert f'+      <source file="{first}"/>' in made["diff"][-1]["prepared"]
    assert {"what": "seed", "before": None, "after": str(first)} in made["clones"][1]["identity"]
    for name in ("there", "new"):
        assert seeds_of(gold, name) == {"sda": str(first)}
    again = gold.clone(*wish)
    assert (again["changed"], [clone["seed"] for clone in again["clones"]]) == (False, [str(first)] * 2)
    changed = gold.clone({"name": gold.named("new"), "seed": str(second)}, "there")
    assert [clone["changed"] for clone in changed["clones"]] == [True, False]
    assert (seeds_of(gold, "new"), seeds_of(gold, "there")) == ({"sda": str(second)}, {"sda": str(first)})
    nested = Golden(gold.hv, images, gold.named("new"))
    child = nested.made({"name": nested.named("child"), "seed": str(first)}, "plain", seed_bus="virtio")
    assert [clone["seed"] for clone in child] == [str(first), str(second)]
    assert seeds_of(nested, "child") == {"sda": str(first)}, "it took the place of its source's"
    nested.clone("child", "plain", state="absent")
    assert gold.clone("new", "there", state="absent")["changed"]
    assert first.exists(), "nobody said that it is the clone's alone"


def test_a_seed_that_is_missing_costs_its_clone_and_is_no_obstacle_to_a_prediction(
    golden: MakeGolden, images: Path
) -> None:
    gold = golden()
    seed = str(images / "later.iso")
    wish = {"name": gold.named("a"), "seed": seed}
    predicted = gold.clone(wish, "b", check=True)
    assert f"seed: {seed}: does not exist yet" in json.dumps(predicted["warnings"])
    failed = gold.clone(wish, "b")
    assert f"seed: {seed}: there is no such file" in failed["failed_clones"][0]["msg"]
    assert gold.domains() == [gold.named("b")]
    make_image(Path(seed))
    assert gold.clone(wish, "b")["actions"] == predicted["actions"][:3]
    Path(seed).unlink()
    assert not gold.clone(wish)["changed"], "it has its seed; whether that is needed any more is its own matter"
    relative = gold.clone({"name": gold.named("c"), "seed": "c.iso"})
    assert "c.iso' is relative" in relative["msg"]


def test_clones_that_are_off_are_started_and_what_is_paused_stays(golden: MakeGolden) -> None:
    gold = golden()
    gold.made("off", "paused", start=False)
    with contextlib.closing(gold.hv.connect()) as connection:
        connection.lookupByName(gold.named("paused")).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        predicted = gold.clone("off", "paused", "new", start=True, check=True)
        assert not is_running(gold.hv, gold.named("off"))
        done = gold.clone("off", "paused", "new", start=True)
        assert done["actions"] == predicted["actions"]
        assert f"start {gold.named('off')}" in done["actions"]
        assert [clone["changed"] for clone in done["clones"]] == [True, False, True]
        assert connection.lookupByName(gold.named("paused")).state()[0] == libvirt.VIR_DOMAIN_PAUSED
    assert not gold.clone("off", "paused", "new", start=True)["changed"]
    assert not gold.clone("off", "new", start=False)["changed"]
    assert is_running(gold.hv, gold.named("off")), "start=false stops nothing"


def test_a_clone_that_is_there_and_does_not_start_is_as_it_was(golden: MakeGolden, images: Path) -> None:
    gold = golden(extra_devices="<hostdev mode='subsystem' type='pci'><source><address bus='0xee'/></source></hostdev>")
    seed = make_image(images / "seed.iso")
    gold.made("a")
    before = definition(gold.hv, gold.named("a"))
    result = gold.clone({"name": gold.named("a"), "seed": str(seed)}, start=True)
    assert "cannot start the domain" in result["msg"]
    assert definition(gold.hv, gold.named("a")) == before


def test_a_machine_that_runs_gets_its_seed_for_its_next_start(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    seed = make_image(images / "seed.iso")
    gold.made("a", start=True)
    assert gold.clone({"name": gold.named("a"), "seed": str(seed)}, start=True)["changed"]
    assert seeds_of(gold, "a") == {"sda": str(seed)}
    with contextlib.closing(gold.hv.connect()) as connection:
        running = connection.lookupByName(gold.named("a"))
        assert str(seed) not in running.XMLDesc()
        running.destroy()
        assert gold.clone({"name": gold.named("a"), "seed": str(seed)}, start=True)["changed"]
        assert str(seed) in running.XMLDesc()


# Removed


def test_a_running_clone_is_only_removed_by_force(golden: MakeGolden) -> None:
    gold = golden()
    name = gold.made("a", start=True)[0]["name"]
    refused = gold.clone("a", state="absent")
    assert "runs: asked to remove it" in refused["msg"]
    assert is_running(gold.hv, name)
    predicted = gold.clone("a", state="absent", force=True, check=True)
    assert is_running(gold.hv, name)
    removed = gold.clone("a", state="absent", force=True)
    assert removed["actions"] == predicted["actions"]
    assert removed["actions"][0] == f"pull the plug of {name}"
    assert gold.domains() == []
    assert not gold.clone("a", state="absent")["changed"]


def test_what_other_machines_read_or_another_module_made_is_not_removed(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    clones = gold.made("template", "converted")
    nested = Golden(gold.hv, images, clones[0]["name"])
    nested.made("child")
    done = run_module(
        "vm_disk_convert", {"name": clones[1]["name"], "disk": "vda", "format": "raw", "uri": gold.hv.uri}
    )
    assert done["changed"], done
    result = gold.clone("template", "converted", state="absent")
    assert result["failed_clones"][0]["dependents"] == [str(images / f"{clones[0]['name']}-child.qcow2")]
    assert [clone["name"] for clone in result["clones"]] == [clones[1]["name"]]
    kept = result["clones"][0]["kept"]
    assert kept == [done["disks"][0]["path"]]
    assert Path(kept[0]).exists()
    assert not Path(clones[1]["disks"][0]["path"]).exists()
    assert "left where it is" in json.dumps(result["warnings"])


def test_clones_of_a_source_that_is_gone_can_be_removed(golden: MakeGolden, images: Path) -> None:
    gold = golden()
    gold.made("a")
    assert "is a clone of" in gold.clone("a", state="absent", source="another")["msg"]
    gold.hv.remove(gold.name)
    assert gold.clone("a", state="absent")["changed"]
    assert gold.domains() == []
    assert mode_of(images / "golden.qcow2") == 0o644
