# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of other programs that say more than QEMU reads: refused by every module, with the task that helps."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
from lab import run_module, tree_state
from support.cut_images import MIB, qemu_img, qemu_io
from support.image_tools import NOBODY

SIZE = 4 * MIB
VHDX_HEADERS = (64 << 10, 128 << 10)


def made(path: Path, image_format: str, *options: str) -> Path:
    plain = path.with_name("plain")
    plain.write_bytes(b"\x5a" * SIZE)
    qemu_img("convert", "-f", "raw", "-O", image_format, *options, plain, path)
    plain.unlink()
    return path


def patched(path: Path, at: int, new: bytes) -> Path:
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(new)
    return path


def differencing_vhd(path: Path) -> Path:
    made(path, "vpc", "-o", "force_size=on")
    footer = path.stat().st_size - 512
    for at in (0, footer):
        patched(path, at + 60, struct.pack(">I", 4))
    return path


def larger_vhd(path: Path) -> Path:
    """Like those that Azure makes: QEMU reads the size that the geometry gives."""
    made(path, "vpc")
    footer = path.stat().st_size - 512
    content = bytearray(path.read_bytes())
    for at in (0, footer):
        (size,) = struct.unpack_from(">Q", content, at + 48)
        struct.pack_into(">Q", content, at + 48, size + MIB)
        struct.pack_into(">I", content, at + 64, 0)
        checksum = ~sum(content[at : at + 512]) & 0xFFFF_FFFF
        struct.pack_into(">I", content, at + 64, checksum)
    path.write_bytes(content)
    return path


def differencing_vdi(path: Path) -> Path:
    return patched(made(path, "vdi"), 0x4C, struct.pack("<I", 4))


IMAGES = {"vpc-differencing": differencing_vhd, "vpc-larger": larger_vhd, "vdi-differencing": differencing_vdi}
SAID = {
    "vpc-differencing": "is a differencing VHD",
    "vpc-larger": "the end would be lost",
    "vdi-differencing": "is a differencing VDI",
}


def tasks(path: Path, image_format: str) -> dict[str, dict[str, Any]]:
    """Every image module on the image."""
    return {
        "qcow2_convert": {"src": str(path), "src_format": image_format, "dest": f"{path}.new", "format": "raw"},
        "qcow2_compare": {"path": str(path), "format": image_format, "other": str(path), "other_format": image_format},
        "qcow2_image": {"path": f"{path}.new", "backing_file": str(path), "backing_format": image_format},
        "qcow2_image_info": {"paths": [str(path)]},
    }


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("module", tasks(Path("/x"), "vpc"))
def test_content_that_qemu_does_not_see_is_refused_by_every_module(module: str, name: str, tmp_path: Path) -> None:
    path = IMAGES[name](tmp_path / "disk")
    before = tree_state(tmp_path)
    result = run_module(module, {**tasks(path, name.split("-")[0])[module], "uri": NOBODY})
    assert result.get("failed"), result
    assert f"{path}: " in result["msg"]
    assert SAID[name] in result["msg"]
    assert tree_state(tmp_path) == before


def vmdk_with_zeros(path: Path) -> Path:
    """In three extents, as VMware writes them: the second is all zeros and has no file, and QEMU joins the others."""
    names = [path.with_name(f"{path.name}-f00{number}") for number in (1, 2)]
    for name in names:
        name.write_bytes(b"\x5a" * MIB)
    first, last = (f'RW 2048 FLAT "{name.name}" 0' for name in names)
    path.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n'
        f'{first}\nRW 2048 ZERO\n{last}\nddb.adapterType = "ide"\n'
    )
    return path


@pytest.mark.parametrize("module", ["qcow2_convert", "qcow2_compare"])
def test_extents_that_qemu_passes_over_are_refused_also_where_the_others_are_trusted(
    module: str, tmp_path: Path
) -> None:
    path = vmdk_with_zeros(tmp_path / "disk")
    before = tree_state(tmp_path)
    result = run_module(module, {**tasks(path, "vmdk")[module], "trusted": True, "uri": NOBODY})
    assert result.get("failed"), result
    assert "has the extent 'RW 2048 ZERO'" in result["msg"]
    assert tree_state(tmp_path) == before


def with_pending_log(path: Path) -> Path:
    """A VHDX whose writer died after it had logged that the first 4 KiB of the disk's data become zeros."""
    content = bytearray(made(path, "vhdx").read_bytes())
    place = content.index(b"\x5a" * 4096)
    log, guid = 0, b"\x07" * 16
    for at in VHDX_HEADERS:
        (log,) = struct.unpack_from("<Q", content, at + 72)
        content[at + 48 : at + 64] = guid
        seal(content, at, 4096)
    struct.pack_into("<4sIIIQII16sQQ", content, log, b"loge", 0, 4096, 0, 1, 1, 0, guid, len(content), len(content))
    struct.pack_into("<4sIQQQ", content, log + 64, b"zero", 0, 4096, place, 1)
    seal(content, log, 4096)
    path.write_bytes(content)
    return path


def seal(content: bytearray, at: int, length: int) -> None:
    """Writes the checksum (CRC-32C) of a structure of a VHDX into it."""
    struct.pack_into("<I", content, at + 4, 0)
    found = 0xFFFF_FFFF
    for byte in content[at : at + length]:
        found ^= byte
        for _bit in range(8):
            found = found >> 1 ^ (0x82F6_3B78 if found & 1 else 0)
    struct.pack_into("<I", content, at + 4, found ^ 0xFFFF_FFFF)


def test_an_image_that_was_not_closed_is_refused_and_the_task_is_named_that_replays_its_log(tmp_path: Path) -> None:
    path = with_pending_log(tmp_path / "disk")
    before = tree_state(tmp_path)
    for module, params in tasks(path, "vhdx").items():
        result = run_module(module, {**params, "uri": NOBODY})
        assert result.get("failed"), result
        assert "kvmops.disk.qcow2_check and repair=all" in result["msg"]
        assert "qemu-img" not in result["msg"], "a command of QEMU is not the way"
        assert "being undone" not in result["msg"]
    params = {"path": str(path), "format": "vhdx", "uri": NOBODY}
    for repair in ("none", "leaks"):
        assert "repair=all" in run_module("qcow2_check", {**params, "repair": repair})["msg"]
    predicted = run_module("qcow2_check", {**params, "repair": "all"}, check=True)
    assert tree_state(tmp_path) == before
    replayed = run_module("qcow2_check", {**params, "repair": "all"})
    assert replayed["actions"] == predicted["actions"] == [f"repair {path}: replay its log"]
    assert replayed["check"]["result"] == "good"
    qemu_io(path, "vhdx", "read -P 0 0 4k", "read -P 0x5a 4k 1M")
    assert not run_module("qcow2_check", {**params, "repair": "all"})["changed"]


def test_an_image_whose_log_is_empty_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "disk", "vhdx")
    qemu_io(path, "vhdx", "write -P 3 1M 64k")
    for module, params in tasks(path, "vhdx").items():
        if module != "qcow2_image":
            assert not run_module(module, {**params, "uri": NOBODY}).get("failed")


def extended_parallels(path: Path) -> Path:
    """Its extension lies behind its data, where a repair finds a leak (docs/interop/parallels of QEMU)."""
    made(path, "parallels")
    end = -(-path.stat().st_size // MIB) * MIB
    features = bytes(MIB - 24)
    checksum = hashlib.md5(features, usedforsecurity=False).digest()
    patched(path, end, struct.pack("<Q16s", 0xAB234CEF23DCEA87, checksum) + features)
    return patched(path, 56, struct.pack("<Q", end // 512))


@pytest.mark.parametrize("repair", ["leaks", "all"])
def test_an_extension_of_parallels_is_never_repaired_away(repair: str, tmp_path: Path) -> None:
    path = extended_parallels(tmp_path / "disk")
    before = tree_state(tmp_path)
    params = {"path": str(path), "format": "parallels", "repair": repair, "uri": NOBODY}
    result = run_module("qcow2_check", params)
    assert result.get("failed"), result
    assert "and an extension" in result["msg"]
    assert result["check"]["leaks"] > 0
    assert tree_state(tmp_path) == before
    assert not run_module("qcow2_check", {**params, "repair": "none"}).get("failed")
    qemu_io(path, "parallels", "read 0 1M")
