# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""backup.json is read as what anybody may have written, and chains are believed only as far as they are whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains, manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk, BackupFile, Manifest

UUID = "11111111-2222-3333-4444-555555555555"
CHECKPOINT = f"kvmops-{32 * 'a'}"
HASH = 64 * "0"


def made(name: str = "one", parent: str | None = None, taken: str = "2026-01-01T00:00:00+00:00") -> Manifest:
    disk = BackupDisk("vda", "incremental" if parent else "full", "qcow2", 1 << 20, True)
    files = {"domain.xml": BackupFile(1, HASH), "vda.qcow2": BackupFile(2, HASH)}
    tools = {"libvirt": "9.0"}
    return Manifest(name, "web", UUID, taken, True, False, parent, CHECKPOINT, (disk,), files, tools)


def found(name: str, parent: str | None = None, *, hour: int = 0, problems: tuple[str, ...] = ()) -> Backup:
    return Backup(f"/b/{name}", UUID, name, made(name, parent, f"2026-01-01T{hour:02}:00:00+00:00"), problems)


def changed(**facts: Any) -> bytes:
    return json.dumps({**json.loads(manifest.written(made())), **facts}).encode()


def test_what_is_written_is_read() -> None:
    for one in (made(), made("two", "one")):
        assert manifest.read(manifest.written(one)) == one


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100000,
        b" " * (manifest.LONGEST + 1),
        changed(version=2),
        changed(version=True),
        changed(more=1),
        changed(backup="../up"),
        changed(backup=".hidden"),
        changed(backup="-x"),
        changed(backup="a/b"),
        changed(backup=""),
        changed(backup="a\n"),
        changed(backup=1),
        changed(uuid=UUID.upper()[:-1]),
        changed(uuid="../../../../etc/passwd"),
        changed(taken="yesterday"),
        changed(taken="2026-01-01T00:00:00"),
        changed(taken=0),
        changed(parent="one"),
        changed(parent="../../etc"),
        changed(parent="two"),
        changed(checkpoint="theirs"),
        changed(checkpoint=None),
        changed(disks=[]),
        changed(disks={}),
        changed(disks=[{"target": "vda"}]),
        changed(disks=[{"target": "../vda", "kind": "full", "format": "qcow2", "virtual_size": 1, "tracked": True}]),
        changed(disks=[{"target": "vda", "kind": "full", "format": "qcow2", "virtual_size": -1, "tracked": True}]),
        changed(disks=[{"target": "vda", "kind": "full", "format": "a b", "virtual_size": 1, "tracked": True}]),
        changed(disks=[{"target": "vda", "kind": "other", "format": "raw", "virtual_size": 1, "tracked": True}]),
        changed(disks=2 * json.loads(changed())["disks"]),
        changed(files={}),
        changed(files={"../x": {"size": 1, "sha256": HASH}}),
        changed(files={**json.loads(changed())["files"], "/etc/passwd": {"size": 1, "sha256": HASH}}),
        changed(files={**json.loads(changed())["files"], "nvram": {"size": 1 << 63, "sha256": HASH}}),
        changed(files={**json.loads(changed())["files"], "nvram": {"size": 1, "sha256": "x"}}),
        changed(tools={"qemu": "rm -rf /"}),
        changed(domain=5000 * "x"),
        changed(online=1),
    ],
)
def test_what_no_backup_says_is_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|holds|names) ") as refused:
        manifest.read(content)
    assert len(str(refused.value)) < 300


def test_a_chain_is_whole_as_far_as_all_that_it_needs_is() -> None:
    backups = chains.with_chain_problems(
        [found("c", "b", hour=3), found("a", hour=1), found("b", "a", hour=2), found("alone", "gone", hour=4)]
    )
    assert [one.name for one in backups] == ["a", "b", "c", "alone"]
    assert [one.whole for one in backups] == [True, True, True, False]
    assert backups[3].problems == ("needs the backup gone, which is missing",)
    assert [one.name for one in chains.chain(backups[2], backups)] == ["c", "b", "a"]


def test_what_stands_on_a_damaged_backup_is_not_whole() -> None:
    broken = found("a", hour=1, problems=("vda.qcow2 is missing",))
    backups = chains.with_chain_problems([broken, found("b", "a", hour=2), found("c", "b", hour=3)])
    assert [one.problems for one in backups[1:]] == 2 * [("needs the backup a, which vda.qcow2 is missing",)]


def test_a_circle_ends() -> None:
    backups = chains.with_chain_problems([found("a", "b"), found("b", "a"), found("c", "a")])
    assert not any(one.whole for one in backups)
    assert len(chains.chain(backups[0], backups)) <= chains.DEEPEST + 1


def test_only_a_whole_backup_is_a_base() -> None:
    whole, broken = found("a", hour=1), found("b", hour=2, problems=("vda.qcow2 is missing",))
    assert chains.newest_tracked([whole, broken]) == whole
    assert chains.newest_tracked([broken]) is None
