# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw images that may not be what they are taken for, and sizes that are rounded up: it is said (HAZARDS P10)."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.image_tools import KIB, MIB, NOBODY, create, done, overlay, qemu_img, qemu_io

DISK = random.Random("disk").randbytes(32 * KIB)


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.raw", data)
    return stream.getvalue()


#: Frames whose beginnings are those of the format's description; nothing here writes zstd and lz4.
WAYS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zip": zipped,
    "zstd": lambda data: b"\x28\xb5\x2f\xfd" + data,
    "lz4": lambda data: b"\x04\x22\x4d\x18" + data,
}


def compressed(path: Path, program: str = "gzip") -> Path:
    """Whole sectors, as a guest would have them."""
    data = WAYS[program](DISK)
    path.write_bytes(data.ljust(-(-len(data) // 4096) * 4096, b"\0"))
    return path


def warned(result: dict[str, Any], path: Path, program: str = "gzip") -> None:
    assert not result.get("failed"), result
    (warning,) = result["warnings"]
    assert f"{path}: is read as a raw disk, but looks compressed ({program})" in str(warning)


@pytest.mark.parametrize("program", WAYS)
def test_a_conversion_says_that_its_raw_source_looks_compressed(images: Path, program: str) -> None:
    source = compressed(images / "disk", program)
    asked = {"src": str(source), "src_format": "raw", "dest": str(images / "disk.qcow2"), "uri": NOBODY}
    warned(run_module("qcow2_convert", asked, check=True), source, program)
    warned(run_module("qcow2_convert", asked), source, program)
    assert "warnings" not in run_module("qcow2_convert", asked), "nothing is read"


def test_it_says_so_of_what_lies_below_an_overlay(images: Path) -> None:
    base = compressed(images / "base.img.gz")
    top = overlay(images / "top.qcow2", base, "raw")
    asked = {"src": str(top), "src_format": "qcow2", "dest": str(images / "flat.qcow2"), "trusted": True}
    warned(run_module("qcow2_convert", {**asked, "uri": NOBODY}), base)


def test_a_linked_clone_of_a_compressed_file_is_warned_of(images: Path) -> None:
    base = compressed(images / "base.img.gz")
    asked = {"backing_file": str(base), "backing_format": "raw"}
    warned(done(images / "clone.qcow2", **asked), base)
    other = create(images / "other.qcow2", size=base.stat().st_size)
    warned(done(other, rebase="unsafe", **asked), base)


def test_a_comparison_and_a_merge_say_so(images: Path) -> None:
    base = compressed(images / "base.img.gz")
    plain = create(images / "plain.raw", "raw", base.stat().st_size)
    asked = {"path": str(base), "format": "raw", "other": str(plain), "other_format": "raw", "uri": NOBODY}
    warned(run_module("qcow2_compare", asked), base)
    top = overlay(images / "top.qcow2", base, "raw")
    warned(done_merge(top), base)


def done_merge(top: Path) -> dict[str, Any]:
    result = run_module("qcow2_commit", {"path": str(top), "overlay": "remove", "trusted": True, "uri": NOBODY})
    assert result.get("changed"), result
    return result


def test_the_disk_of_a_domain_is_warned_of(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    path = compressed(images / "disk.img.gz")
    name = make_domain([Disk(path)], kernel=False).name
    clones = {"source": name, "clones": [{"name": f"{name}-copy"}], "mode": "full", "disk_dir": str(images)}
    warned(run_module("vm_linked_clone", {**clones, "uri": hv.uri}, check=True), path)
    warned(run_module("vm_disk_convert", {"name": name, "disk": "vda", "uri": hv.uri}), path)


def test_other_content_is_not_warned_of(images: Path) -> None:
    for number, start in enumerate((b"\0" * 16, b"\xeb\x63\x90", b"BZh is no block", b"PK", DISK[:16])):
        source = images / str(number)
        source.write_bytes(start.ljust(4096, b"\0"))
        asked = {"src": str(source), "src_format": "raw", "dest": str(images / f"{number}.qcow2"), "uri": NOBODY}
        assert "warnings" not in run_module("qcow2_convert", asked)
    inside = create(images / "inside.qcow2")
    asked = {"src": str(inside), "src_format": "qcow2", "dest": str(images / "copy.qcow2"), "uri": NOBODY}
    assert "warnings" not in run_module("qcow2_convert", asked)


# --- sizes that are rounded up ----------------------------------------------------------------------------------------

PARTIAL = 1 * MIB + 100
ROUNDED = 1 * MIB + 512


def partial(path: Path) -> Path:
    path.write_bytes(b"\1" * PARTIAL)
    return path


def said_rounded(result: dict[str, Any], path: Path) -> None:
    assert not result.get("failed"), result
    assert f"{path}: its file has {PARTIAL} bytes" in str(result["warnings"])
    assert f"rounded up to {ROUNDED} bytes" in str(result["warnings"])


def test_a_merge_says_that_it_rounds_its_base_up(images: Path) -> None:
    base = partial(images / "base.raw")
    top = images / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    qemu_io(top, f"write -P 2 {MIB} 512")
    said_rounded(run_module("qcow2_commit", {"path": str(top), "trusted": True, "uri": NOBODY}), base)
    assert base.stat().st_size == ROUNDED


def test_a_growth_says_that_it_rounds_up_before(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    path = partial(images / "disk.raw")
    said_rounded(done(path, format="raw", size="2M", check=True), path)
    name = make_domain([Disk(path)], kernel=False).name
    said_rounded(run_module("vm_disk_resize", {"name": name, "disk": "vda", "size": "2M", "uri": hv.uri}), path)
    again = run_module("vm_disk_resize", {"name": name, "disk": "vda", "size": "4M", "uri": hv.uri})
    assert (again.get("changed"), "warnings" in again) == (True, False)
