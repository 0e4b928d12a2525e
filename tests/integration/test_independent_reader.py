# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader that shares no code with QEMU (dissect.hypervisor) finds in what was made what QEMU finds in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from dissect.hypervisor.disk import qcow2
from dissect.hypervisor.disk.qcow2 import QCow2
from dissect.hypervisor.disk.vdi import VDI
from dissect.hypervisor.disk.vhd import VHD
from dissect.hypervisor.disk.vhdx import VHDX
from dissect.hypervisor.disk.vmdk import VMDK
from lab.module import run_module
from lab.pattern import write_pattern
from lab.tree import BLOCK, content_digest
from support.damage import leak
from support.image_tools import MIB, NOBODY, content, done, qemu_img, qemu_io
from support.snapshot_tools import succeeded

SIZE = 16 * MIB  # the reader of VMDK knows whole megabytes only


@pytest.fixture
def subclusters_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader (3.21) takes an extended L2 entry for its own bitmap where it counts how many subclusters go together:
    so none do."""
    monkeypatch.setattr(qcow2, "count_contiguous_subclusters", lambda *_arguments: 1)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw disk: a pattern, what compresses well, a hole, and an end that is no hole."""
    path = tmp_path / "disk.raw"
    write_pattern(path, 2, "reader")
    qemu_img("resize", "-q", "-f", "raw", path, str(SIZE))
    qemu_io(path, "write -P 0x61 4M 3M", "raw")
    qemu_io(path, f"write -P 0x62 {SIZE - 512} 512", "raw")
    return path


@contextmanager
def opened(*chain: tuple[Path, str]) -> Iterator[QCow2]:
    """A qcow2 image on those below it, each with its format, top first."""
    with ExitStack() as files:
        below: BinaryIO | None = None
        for path, image_format in reversed(chain):
            stream = files.enter_context(path.open("rb"))
            image = None if image_format == "raw" else QCow2(stream, backing_file=below)
            below = stream if image is None else image.open()
        assert image is not None
        yield image


def read(*chain: tuple[Path, str]) -> str:
    """The digest (lab.tree) of what the independent reader reads."""
    with opened(*chain) as image:
        return hashed(image.open())


def hashed(stream: BinaryIO) -> str:
    return content_digest(((offset, stream.read(BLOCK)) for offset in range(0, SIZE, BLOCK)), SIZE)


def convert(src: Path, src_format: str, dest: Path, **params: Any) -> Path:
    wish = {"src": str(src), "src_format": src_format, "dest": str(dest), "uri": NOBODY, "trusted": True, **params}
    result = run_module("qcow2_convert", wish)
    assert result.get("changed"), result
    return dest


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"compat": "0.10", "compress": True},
        {"cluster_size": "4K", "compress": True, "compression_type": "zlib"},
        {"compress": True, "compression_type": "zstd"},
        {"cluster_size": "512", "refcount_bits": 1},
        {"preallocation": "metadata"},
    ],
    ids=lambda params: " ".join(f"{name}={value}" for name, value in params.items()) or "plain",
)
def test_a_converted_qcow2_image_reads_the_same(params: dict[str, Any], raw: Path, tmp_path: Path) -> None:
    assert read((convert(raw, "raw", tmp_path / "new", **params), "qcow2")) == content(raw, "raw")


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.usefixtures("subclusters_one_by_one")
def test_a_qcow2_image_with_subclusters_reads_the_same(compress: bool, raw: Path, tmp_path: Path) -> None:
    new = convert(raw, "raw", tmp_path / "new", extended_l2=True, cluster_size="16K", compress=compress)
    assert read((new, "qcow2")) == content(raw, "raw")


@pytest.mark.parametrize(
    ("reader", "image_format", "params"),
    [
        (VMDK, "vmdk", {}),
        (VMDK, "vmdk", {"subformat": "streamOptimized", "compress": True}),
        (VMDK, "vmdk", {"subformat": "monolithicFlat"}),
        (VMDK, "vmdk", {"subformat": "twoGbMaxExtentSparse"}),
        (VMDK, "vmdk", {"subformat": "twoGbMaxExtentFlat"}),
        (VDI, "vdi", {"subformat": "fixed"}),
        (VHD, "vpc", {"subformat": "fixed"}),
        (VHD, "vpc", {"subformat": "dynamic"}),
        (VHDX, "vhdx", {"subformat": "fixed"}),
        (VHDX, "vhdx", {"subformat": "dynamic"}),
    ],
    ids=str,
)
def test_an_image_of_another_format_reads_the_same(
    reader: Any, image_format: str, params: dict[str, Any], raw: Path, tmp_path: Path
) -> None:
    dest = convert(raw, "raw", tmp_path / "new", format=image_format, **params)
    with dest.open("rb") as stream:
        disk = reader(stream)
        assert hashed(disk.open() if hasattr(disk, "open") else disk) == content(raw, "raw")


@pytest.mark.usefixtures("subclusters_one_by_one")
def test_overlays_snapshots_and_what_was_merged_read_the_same(raw: Path, tmp_path: Path) -> None:
    """Created over a raw base, written, snapshotted, reverted, converted onto the base, and committed into it."""
    base = convert(raw, "raw", tmp_path / "base", extended_l2=True)
    top = tmp_path / "top"
    done(top, backing_file=str(base), backing_format="qcow2", extended_l2=True)
    chain = ((top, "qcow2"), (base, "qcow2"))
    assert read(*chain) == content(top) == content(raw, "raw")

    qemu_io(top, "write -P 3 1M 64k")
    at_first = content(top)
    succeeded("qcow2_snapshot", top, snapshot="first")
    qemu_io(top, "write -P 4 1M 1M")
    qemu_io(top, "write -z 4M 1M")
    later = content(top)
    assert read(*chain) == later
    with opened(*chain) as image:
        assert [snapshot.name for snapshot in image.snapshots] == ["first"]
        assert hashed(image.snapshots[0].open()) == at_first

    thin = convert(top, "qcow2", tmp_path / "thin", backing_file=str(base), backing_format="qcow2")
    assert read((thin, "qcow2"), (base, "qcow2")) == later
    succeeded("qcow2_snapshot", top, snapshot="first", state="reverted")
    assert read(*chain) == at_first
    succeeded("qcow2_snapshot", top, snapshot="first", state="absent")

    merged = succeeded("qcow2_commit", thin, allow_dependents=True)
    assert merged["changed"]
    assert read((base, "qcow2")) == content(base) == later


def test_a_disk_over_a_raw_base_reads_the_same(raw: Path, tmp_path: Path) -> None:
    top = tmp_path / "top"
    done(top, backing_file=str(raw), backing_format="raw", cluster_size="4K")
    qemu_io(top, "write -P 5 3M 6k")
    assert read((top, "qcow2"), (raw, "raw")) == content(top)


def test_what_is_changed_where_it_is_reads_the_same(raw: Path, tmp_path: Path) -> None:
    """Amended, marked with a bitmap, repaired, put onto another base, made independent, and grown."""
    old, new = (convert(raw, "raw", tmp_path / name) for name in ("old", "new"))
    qemu_io(new, "write -P 6 2M 1M")
    top = tmp_path / "top"
    done(top, backing_file=str(old), backing_format="qcow2", compat="0.10")
    qemu_io(top, "write -P 5 3M 6k")
    wanted = content(top)
    done(top, backing_file=str(old), backing_format="qcow2", compat="1.1", lazy_refcounts=True, trusted=True)
    succeeded("qcow2_bitmap", top, bitmap="since")
    leak(top)
    assert succeeded("qcow2_check", top, repair="all")["changed"]
    assert read((top, "qcow2"), (old, "qcow2")) == wanted
    done(top, backing_file=str(new), backing_format="qcow2", trusted=True)
    assert read((top, "qcow2"), (new, "qcow2")) == wanted
    done(top, backing_file="", trusted=True)
    assert read((top, "qcow2")) == wanted
    done(top, size=str(SIZE + MIB))
    with opened((top, "qcow2")) as image:
        assert image.size == SIZE + MIB
        assert hashed(image.open()) == wanted
