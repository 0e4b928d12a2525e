# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which images are merged below a disk, by the answers of QEMU 7.2 and 11.1 as they were recorded."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.nodes import (
    CommitNodes,
    MadeForBackup,
    commit_nodes,
    forgetting,
)

JOB = {"device": "commit-vda-libvirt-3-format", "type": "commit"}


def nodes(**read_only: bool) -> list[dict[str, object]]:
    return [{"node-name": name.replace("_", "-"), "ro": ro} for name, ro in read_only.items()]


#: vda on 1 over 2 over 3 over 4, with a commit of 3 into 4.
OLD = nodes(
    libvirt_1_format=False,
    libvirt_1_storage=False,
    libvirt_2_format=True,
    libvirt_2_storage=False,
    libvirt_3_format=True,
    libvirt_3_storage=False,
    libvirt_4_storage=False,
    libvirt_4_format=False,
)
#: The same where a raw image has no node for its format.
NEW = OLD[:-1]
FILTER = {"node-name": "#block017", "ro": True}


def test_the_top_and_the_base_of_a_commit_are_known() -> None:
    for found in (OLD, NEW):
        assert commit_nodes("vda", [JOB], [FILTER, *found]) == CommitNodes("3", frozenset({"1", "4"}))


def test_an_image_between_the_top_and_the_base_is_not_written() -> None:
    job = {"device": "commit-vda-libvirt-2-format"}
    found = commit_nodes("vda", [job], OLD)
    assert found is not None
    assert found.top == "2"
    assert "3" not in found.writing


def test_other_jobs_are_no_commits_of_the_disk() -> None:
    others = ("commit-vdb-libvirt-3-format", "stream-vda-libvirt-3-format", "copy-vda", "commit-vda-mine")
    assert commit_nodes("vda", [{"device": name} for name in others], OLD) is None
    assert commit_nodes("vda", [], OLD) is None


FILLED = ["/backup/vda.qcow2"]


def test_of_a_forgotten_backup_nothing_is_taken_that_is_not_known_to_be_its_own() -> None:
    def node(name: str, file: str, *bitmaps: str) -> dict[str, object]:
        return {"node-name": name, "file": file, "dirty-bitmaps": [{"name": bitmap} for bitmap in bitmaps] or [{}]}

    found = [
        node("#block123", "/backup/vda.qcow2", "backup-vda"),
        node("libvirt-1-format", "/images/a.qcow2", "backup-vda", "theirs", "kvmops-1", "backup-vdb"),
        node("libvirt-1-storage", "/images/a.qcow2"),
        node("libvirt-3-storage", "/backup/vda.qcow2"),
        node("libvirt-3-format", 'json:{"file": {"filename": "/backup/vda.qcow2"}}'),
        node("libvirt-4-format", "/backup/other.qcow2"),
    ]
    jobs = [
        {"id": "backup-vda-libvirt-1-format", "status": "concluded"},
        {"id": "backup-vdb-libvirt-2-format", "status": "running"},
        {"id": "copy-vda-libvirt-1-format", "status": "running"},
    ]
    made = MadeForBackup(("backup-vda-", "backup-vdb-"), frozenset({"backup-vda", "kvmops-1"}), frozenset(FILLED))
    assert forgetting(made, jobs, found) == [
        ("job-dismiss", {"id": "backup-vda-libvirt-1-format"}),
        ("job-cancel", {"id": "backup-vdb-libvirt-2-format"}),
        ("block-dirty-bitmap-remove", {"node": "libvirt-1-format", "name": "backup-vda"}),
        ("block-dirty-bitmap-remove", {"node": "libvirt-1-format", "name": "kvmops-1"}),
        ("blockdev-del", {"node-name": "libvirt-3-format"}),
        ("blockdev-del", {"node-name": "libvirt-3-storage"}),
    ]
    assert forgetting(made, jobs[2:], found[5:]) == []
