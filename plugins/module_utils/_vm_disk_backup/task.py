# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The walk of vm_disk_backup. What a run has no use for it does not load: most find the backup that they want."""

from __future__ import annotations

import os
import typing as t
import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._backup import chains as _chains
from ansible_collections.kvmops.disk.plugins.module_utils._backup import facts as _facts
from ansible_collections.kvmops.disk.plugins.module_utils._backup import manifest as _manifest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import removal as _removal
from ansible_collections.kvmops.disk.plugins.module_utils._backup import retention as _retention
from ansible_collections.kvmops.disk.plugins.module_utils._backup import store as _store
from ansible_collections.kvmops.disk.plugins.module_utils._backup.manifest import Manifest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.backups import backing_up
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import traces as _traces
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import BACKUP
from ansible_collections.kvmops.disk.plugins.module_utils._task.domain_task import DomainTask
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.decision import Course, Leftover, Observed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.wish import BackupWish, wish_from

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._backup.chains import Backup
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.work import Work


class VmBackupTask(DomainTask):
    """The backup that *wish* names. What is *observed*, and what dead runs *left*, is looked at anew for each decision;
    *course* is how the backup is made, None where it is there."""

    verb = BACKUP

    def __init__(self, module: AnsibleModule, wish: BackupWish) -> None:
        super().__init__(module)
        self.wish = wish
        self.place = _store.place_of(wish.dest_dir, self.domain.uuid)
        self.backing_up = backing_up(self.domain)
        self.survey = Survey(self.hypervisor, self.backing_up, self.qemu_img, wish, self.place)
        self.observed: Observed
        self.left: tuple[Leftover, ...] = ()
        self.retired: tuple[Backup, ...] = ()
        self.course: Course | None = None
        self.work: Work | None = None

    def paths(self) -> set[str]:
        """The directory of the backups, and the images that are read, whose records are held."""
        images = {disk.path for disk in self.observed.disks if disk.path is not None}
        return {self.place, *images}

    def _plan(self, operation: Operation | None) -> Plan:
        self.course, self.work = None, None
        state, note_of = self.state, _beside.notes(operation)
        _traces.require_own(state.name, state.uuid, state.record, self.verb, note_of)
        self.survey.require_place(state)
        backups = self.survey.backups()
        existing = next((one for one in backups if one.name == self.wish.backup), None)
        if existing is not None:
            _decision.require_whole(existing)
        self.observed = self._observed_disks((), backups)
        others = (note_of(self.place) or {}).get("alive", False)
        job = self.backing_up.backup_job() if state.busy else None
        self.left = () if others else _leftovers.find(self.place, job)
        if existing is not None:
            self.retired = self._retired(backups)
            work = self._work(operation, None)
            return _decision.plan_of_tidying(self.observed, self.left, work, self.retired)
        if others and state.busy:
            raise ImageInUse(f"{state.name}: another run backs it up: wait for it", in_use_by=[])
        return self._make(operation, backups)

    def _make(self, operation: Operation | None, backups: tuple[Backup, ...]) -> Plan:
        """The plan that makes the backup."""
        own = next((one for one in self.left if one.job), None)
        resumed = own is not None and own.name == self.wish.backup and own.draft is not None
        state = self.state if own is None else replace(self.state, busy=False)  # once that is over
        jobs = self.survey.jobs(state) if own is None else []
        _decision.require_quiet(state, jobs)
        disks = _decision.select(state, self.wish)
        self.observed = self._observed_disks(disks, backups)
        _decision.require_unencrypted(self.observed)
        self._require_agent()
        if resumed and own is not None and own.draft is not None:
            self.course = Course(own.draft, next((one for one in backups if one.name == own.draft.parent), None))
            self.left = tuple(one for one in self.left if one is not own)
        else:
            self.course = _decision.course(self.wish, self.observed, self._draft())
            self.survey.require_room(self.observed, self.course)
        work = self._work(operation, self.course)
        self.retired = self._retired((*backups, self._expected(self.course.manifest)))
        return _decision.plan(
            self.wish, self.observed, self.course, self.left, work, resumed=resumed, retired=self.retired
        )

    def _retired(self, backups: tuple[Backup, ...]) -> tuple[Backup, ...]:
        """Those of the *backups* that the task does not keep, and that nobody uses."""
        if self.wish.keep is None:
            return ()
        for one in _retention.unknown(backups):
            self.warn(f"{one.path}: {one.problems[0]}: no backup of the domain is removed while it is there")
        held = {self.wish.backup}
        retired = _retention.removable(backups, self.wish.keep, held)
        return _retention.removable(backups, self.wish.keep, held | self._held(retired)) if retired else ()

    def _held(self, backups: tuple[Backup, ...]) -> set[str]:
        """The names of those of the *backups* of which a domain, a program or an overlay has a disk, and of those
        beside whose files others stand. Warns of each."""
        files = {file: one for one in backups for file in _facts.disk_files(one)}
        readers = self.surroundings.readers(files)
        held: dict[str, DiskError] = {}
        for file, one in files.items():
            try:
                _removal.require_removable(one)
                self.surroundings.require_unused(file, "remove the backup")
                overlays = [overlay for overlay in readers.of(file) if overlay not in files]
                _dependents.require_none(file, overlays, "remove the backup", "remove them")
            except DiskError as error:
                held.setdefault(one.name, error)
        for reason in held.values():
            self.warn(f"{reason}: the backup is kept")
        return {*held}

    def _given_up(self, operation: Operation | None) -> tuple[Step, ...]:
        return ()

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again after a change."""
        course, done = self.course, bool(plan) and not self.check_mode
        if done:
            self.surroundings.refresh_pools([self.place])
        backups = self.survey.backups() if done else self.observed.backups
        found = next((one for one in backups if one.name == self.wish.backup), None)
        if found is None:
            found = self._expected(t.cast(Course, course).manifest)
        if self.work is not None and self.work.warning is not None:
            self.warn(self.work.warning)
        report = plan.full_report()
        return {
            **report,
            "diff": [report["diff"]],
            "backup": _facts.facts(found),
            "reason": course.reason if course is not None else None,
            "removed": [one.name for one in self.retired if not done or not os.path.lexists(one.path)],
        }

    def _expected(self, manifest: Manifest) -> Backup:
        """The backup as it would be."""
        return _chains.Backup(os.path.join(self.place, manifest.backup), manifest.uuid, manifest.backup, manifest)

    def _observed_disks(self, disks: tuple[DomainDisk, ...], backups: tuple[Backup, ...]) -> Observed:
        return self.survey.look(self.state, disks, backups)

    def _require_agent(self) -> None:
        """Raises DiskError where the task wants frozen file systems, and nobody could freeze them."""
        if self.wish.quiesce == "required" and self.state.active and not self.survey.has_agent(self.state):
            raise DiskError(
                f"{self.state.name}: no guest agent answers, which would freeze the file systems: install and start "
                "qemu-guest-agent in the guest, give the domain its channel (org.qemu.guest_agent.0), or set quiesce "
                "to auto or never",
            )

    def _draft(self) -> Manifest:
        """What is known of the backup before its disks are."""
        state = self.state
        libvirt = ".".join(map(str, self.hypervisor.version()))
        return Manifest(
            backup=self.wish.backup,
            domain=state.name,
            uuid=state.uuid,
            taken=_manifest.now(),
            online=state.active,
            quiesced=False if state.active else None,
            parent=None,
            checkpoint=f"kvmops-{uuid.uuid4().hex}",
            disks=(),
            files={},
            tools={"libvirt": libvirt},
        )

    def _work(self, operation: Operation | None, course: Course | None) -> Work:
        from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_backup.work import Work

        draft = course or Course(self._draft())
        parents = _chains.chain(draft.parent, self.observed.backups) if draft.parent is not None else ()
        self.work = Work(
            **self.tools(operation),
            wish=self.wish,
            observed=self.observed,
            course=draft,
            place=self.place,
            parents=parents,
            nvram=self.survey.nvram(self.state),
            has_agent=self.survey.has_agent(self.state),
        )
        return self.work


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    return VmBackupTask(module, wish_from(module.params)).walk()
