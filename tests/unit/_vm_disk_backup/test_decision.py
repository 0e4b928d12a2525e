# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Over which earlier backup a new one is made, of which disks, and what stands in the way."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import BackupDisk, BackupFile, Manifest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.decision import Course, Observed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.wish import BackupWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.backups import Checkpoint
from unit import samples

UUID = "11111111-2222-3333-4444-555555555555"
FIRST, SECOND = f"kvmops-{32 * '1'}", f"kvmops-{32 * '2'}"
VDA = replace(samples.element("/images/a.qcow2", "qcow2"), target="vda")
VDB = replace(samples.element("/images/b.raw", "raw"), target="vdb")
DISKS = (samples.disk(VDA, VDA), samples.disk(VDB, VDB))
WISH = BackupWish("new", "/backup")


def manifest(name: str, checkpoint: str | None = FIRST, parent: str | None = None, *, tracked: bool = True) -> Manifest:
    disk = BackupDisk("vda", "incremental" if parent else "full", "qcow2", 1, tracked)
    files = {"domain.xml": BackupFile(1, 64 * "0"), "vda.qcow2": BackupFile(1, 64 * "0")}
    return Manifest(name, "vm", UUID, "2026-01-01T00:00:00+00:00", True, False, parent, checkpoint, (disk,), files, {})


def backup(name: str = "old", *problems: str, **facts: Any) -> Backup:
    return Backup(f"/backup/{UUID}/{name}", UUID, name, manifest(name, **facts), problems)


def observed(*backups: Backup, active: bool = True, **facts: Any) -> Observed:
    images = {"vda": (samples.qcow2("/images/a.qcow2"),), "vdb": (samples.raw("/images/b.raw"),)}
    usual: dict[str, Any] = {
        "images": images,
        "sizes": {"vda": 10, "vdb": 20},
        "checkpoints": {FIRST: Checkpoint(FIRST, "", {"vda": 65536})},
    }
    state = samples.domain(*DISKS, active=active, state="running" if active else "shut off")
    return Observed(state=state, disks=DISKS, backups=backups, **{**usual, **facts})


def course(found: Observed, mode: str = "auto") -> Course:
    return _decision.course(replace(WISH, mode=mode), found, manifest("new", SECOND))


def test_a_disk_is_copied_since_the_earlier_backup_where_it_is_tracked() -> None:
    found = course(observed(backup()))
    assert (found.manifest.parent, found.manifest.checkpoint, found.reason) == ("old", SECOND, None)
    kinds = [(disk.target, disk.kind, disk.tracked, disk.virtual_size) for disk in found.manifest.disks]
    assert kinds == [("vda", "incremental", True, 10), ("vdb", "full", False, 20)]
    assert found.bases == {"vda": FIRST}


NO_BASE: dict[str, tuple[Observed, str]] = {
    "none": (observed(), "no earlier whole backup has a checkpoint"),
    "damaged": (observed(backup("old", "is damaged")), "no earlier whole backup has a checkpoint"),
    "untracked": (observed(backup(checkpoint=None, tracked=False)), "no earlier whole backup has a checkpoint"),
    "off": (observed(backup(), active=False), "the domain is off"),
    "forgotten": (observed(backup(), checkpoints={}), "libvirt does not know the checkpoint"),
    "broken": (
        observed(backup(), checkpoints={FIRST: Checkpoint(FIRST, "", {"vda": None})}),
        "it is not known what has changed in vda since the backup old",
    ),
    "exchanged": (
        observed(backup(), checkpoints={FIRST: Checkpoint(FIRST, "", {})}),
        "it is not known what has changed in vda since the backup old",
    ),
}


@pytest.mark.parametrize("which", NO_BASE)
def test_without_a_base_a_backup_is_full_and_says_why_or_is_refused(which: str) -> None:
    found, why = NO_BASE[which]
    made = course(found)
    assert made.reason is not None
    assert made.reason.startswith(why)
    assert made.manifest.kind == "full"
    assert made.bases == {}
    with pytest.raises(DiskError, match="no incremental backup can be made, because"):
        course(found, "incremental")


def test_a_chain_that_is_long_enough_is_not_continued() -> None:
    found = observed(backup("full", checkpoint=None, tracked=False), backup("old", parent="full"))
    assert course(found).manifest.kind == "incremental"
    made = _decision.course(replace(WISH, max_chain=2), found, manifest("new", SECOND))
    assert (made.manifest.kind, made.reason) == ("full", "the chain of old has 2 backup(s) already")


def test_a_full_backup_that_was_asked_for_needs_no_reason() -> None:
    made = course(observed(backup()), "full")
    assert (made.manifest.kind, made.reason, made.bases) == ("full", None, {})


def test_the_old_qcow2_cannot_be_tracked() -> None:
    images = {"vda": (samples.qcow2("/images/a.qcow2", compat="0.10"),), "vdb": (samples.raw("/images/b.raw"),)}
    made = course(observed(images=images))
    assert [disk.tracked for disk in made.manifest.disks] == [False, False]
    assert made.manifest.checkpoint is None


def test_only_checkpoints_of_whole_backups_in_the_directory_are_superseded() -> None:
    checkpoints = {name: Checkpoint(name, "", {}) for name in (FIRST, "theirs", f"kvmops-{32 * '3'}")}
    found = observed(backup(), backup("broken", "is damaged", checkpoint=SECOND), checkpoints=checkpoints)
    assert _decision.superseded(found, manifest("new", SECOND)) == (FIRST,)
    assert _decision.superseded(found, manifest("new", None, tracked=False)) == ()


def test_a_backup_of_that_name_that_is_damaged_is_refused() -> None:
    with pytest.raises(DiskError, match=r"old: vda\.qcow2 is missing: it is no whole backup"):
        _decision.require_whole(backup("old", "vda.qcow2 is missing"))


def test_a_domain_in_another_job_is_refused() -> None:
    state = samples.domain(*DISKS, active=True, state="running")
    for changed, said in (
        ({"persistent": False}, "is transient"),
        ({"busy": True}, "backed up by another program"),
        ({"state": "crashed"}, "is crashed"),
    ):
        with pytest.raises(DiskError, match=said):
            _decision.require_quiet(replace(state, **changed), [])
    with pytest.raises(DiskError, match="a block job runs on vda"):
        _decision.require_quiet(state, ["vda"])
    _decision.require_quiet(state, [])


def test_an_unknown_disk_is_refused_and_a_cd_is_left_out() -> None:
    cdrom = replace(samples.element("/images/cd.iso", "raw"), target="sda", device="cdrom", readonly=True)
    state = samples.domain(*DISKS, samples.disk(cdrom, cdrom), active=True, state="running")
    assert [disk.target for disk in _decision.select(state, WISH)] == ["vda", "vdb"]
    with pytest.raises(InvalidRequest, match="has no disk vdz"):
        _decision.select(state, replace(WISH, disks=("vdz",)))
    with pytest.raises(DiskError, match="is a cdrom"):
        _decision.select(state, replace(WISH, disks=("sda",)))


def test_an_encrypted_image_is_refused() -> None:
    images = {"vda": (samples.qcow2("/images/a.qcow2", encrypted=True),)}
    with pytest.raises(DiskError, match="is encrypted, and its backup would hold the data unencrypted"):
        _decision.require_unencrypted(observed(images=images))
