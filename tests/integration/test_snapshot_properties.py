# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from the tables of an image agrees with what a guest reads, and with what qemu-img says."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._formats import mapping as _mapping
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._formats import snapshots as _snapshots
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.image_tools import KIB, content, create, info, qemu_img, qemu_io

KINDS = ("cluster_size=512,compat=0.10", "cluster_size=4k", "extended_l2=on,cluster_size=16k", "cluster_size=64k")
DISK = 256 * KIB
PIECE = 16 * KIB
place = st.integers(0, DISK // PIECE - 1)
writing = st.tuples(st.sampled_from(["write -P 1", "write -P 2", "write -z", "discard"]), place)
step = st.one_of(
    writing,
    writing,
    st.tuples(st.just("take"), st.just(0)),
    st.tuples(st.sampled_from(["revert", "delete"]), st.integers(0, 3)),
    st.tuples(st.just("resize"), st.sampled_from([128, 256, 384])),
)


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kvmops-properties-") as name:
        yield Path(name)


def at_snapshots(path: Path) -> dict[str, bool]:
    """Which snapshots the active layer is, by the tables."""
    with path.open("rb", buffering=0) as stream:
        header = _qcow2.read_header(stream, str(path))
        table = _snapshots.read_snapshot_table(stream, header, str(path))
        return {entry.snapshot.name: _snapshots.is_at_snapshot(stream, header, entry, str(path)) for entry in table}


def mapping(path: Path) -> _mapping.Mapping:
    with path.open("rb", buffering=0) as stream:
        return _mapping.read_mapping(stream, os.fstat(stream.fileno()).st_size, str(path))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.lists(step, min_size=3, max_size=10))
def test_a_disk_that_counts_as_reverted_reads_as_its_snapshot(
    directory: Path, kind: str, steps: list[tuple[str, int]]
) -> None:
    path = directory / "disk"
    path.unlink(missing_ok=True)
    create(path, "qcow2", DISK, "-o", kind)
    qemu_io(path, f"write -P 9 0 {DISK // 2}")
    taken: dict[str, str] = {}
    for number, (verb, argument) in enumerate(steps):
        before = mapping(path)
        name = sorted(taken)[argument] if verb in ("revert", "delete") and argument < len(taken) else None
        if verb == "take":
            qemu_img("snapshot", "-c", f"s{number}", path)
            taken[f"s{number}"] = content(path)
        elif verb == "revert" and name:
            qemu_img("snapshot", "-a", name, path)
            assert content(path) == taken[name]
            assert at_snapshots(path)[name], "what was reverted counts as reverted"
        elif verb == "delete" and name:
            qemu_img("snapshot", "-d", name, path)
            del taken[name]
        elif verb == "resize" and "compat" not in kind:
            qemu_img("resize", "-q", "-f", "qcow2", "--shrink", path, str(argument * KIB))
        elif verb.startswith(("write", "discard")) and (argument + 1) * PIECE <= info(path)["virtual-size"]:
            qemu_io(path, f"{verb} {argument * PIECE} {PIECE}")
        after, seen = mapping(path), content(path)
        assert after.separate
        assert verb not in ("take", "delete") or after.layers[0] == before.layers[0]
        for name, is_at in at_snapshots(path).items():
            assert not is_at or seen == taken[name], f"{name} counts as reverted and is not"
    qemu_img("check", "-q", "-f", "qcow2", path)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(names, st.binary(min_size=1, max_size=255)), min_size=1, max_size=4))
def test_the_snapshot_table_says_what_qemu_img_says(directory: Path, taken: list[str | bytes]) -> None:
    path = directory / "disk"
    path.unlink(missing_ok=True)
    create(path)
    raw = [(name.encode() if isinstance(name, str) else name).replace(b"\0", b"_") for name in taken]
    for name in raw:
        subprocess.run(["qemu-img", "snapshot", "-c", name, path], check=True)
    with path.open("rb", buffering=0) as stream:
        entries = _snapshots.read_snapshot_table(stream, _qcow2.read_header(stream, str(path)), str(path))
    assert [entry.name for entry in entries] == raw
    for entry, said in zip(entries, info(path)["snapshots"], strict=True):
        assert (entry.snapshot.id, entry.snapshot.vm_state_size) == (said["id"], said["vm-state-size"])
        date = datetime.fromtimestamp(said["date-sec"], timezone.utc).replace(microsecond=said["date-nsec"] // 1000)
        assert entry.snapshot.date == date.isoformat()
        if entry.name.isascii():
            assert entry.snapshot.name == said["name"]
