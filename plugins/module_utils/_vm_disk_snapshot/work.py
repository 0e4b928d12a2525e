# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps of a run, each with the worker that does it."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.records import Records
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_merge as _decision_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_revert as _decision_revert
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_settle as _decision_settle
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import decision_take as _decision_take
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_merge as _work_merge
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_revert as _work_revert
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_settle as _work_settle
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot import work_take as _work_take

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_change import Change, Removal
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.wish import VmSnapshotWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record


@dataclass
class Works:
    """Who does *change*, as *wish* wants it of what was *observed*.

    *tools*: what each has who works on a domain's disks. *qemu_img* keeps no locks: those of an image end with it.
    """

    tools: t.Mapping[str, t.Any]
    qemu_img: QemuImg
    wish: VmSnapshotWish
    observed: Observed
    change: Change
    _taking: _work_take.Work | None = None

    @property
    def quiesced(self) -> bool | None:
        """Whether the guest's file systems were frozen for a snapshot; None where none of a running guest was taken."""
        return self._taking.quiesced if self._taking is not None else None

    def settle(self) -> tuple[Step, ...]:
        """The steps that settle what a dead run left."""
        if self.change.settlement is None:
            return ()
        state, settlement = self.observed.state, self.change.settlement
        tools = {**self.tools, "records": self._records(state.record)}
        work = _work_settle.Work(**tools, left=settlement.left, reused=self.change.overlays)
        first = _decision_settle.first_steps(settlement, work)
        if settlement.left.unfinished is not None:
            return (*first, *self._remove(settlement.finished, state.record))
        if settlement.left.owed and self.wish.state == "reverted":
            return first
        return (*first, *_decision_settle.last_steps(state, settlement.left, work))

    def take(self) -> tuple[Step, ...]:
        """The steps that take a snapshot."""
        if not self.change.takings:
            return ()
        state, name = self.observed.state, str(self.wish.name)
        self._taking = _work_take.Work(**self._tools(None), state=state, name=name, quiesce=self.wish.quiesce)
        return _decision_take.steps(state, name, self.change.takings, self._taking)

    def remove(self) -> tuple[Step, ...]:
        """The steps that remove snapshots."""
        return self._remove(self.change.removed, None)

    def go_back(self, *, is_there: bool, owed: bool) -> tuple[Step, ...]:
        """The steps that bring the domain back to a snapshot; *owed*: a dead run had begun with it, and stopped it."""
        state, snapshot = self.observed.state, self.change.reverted
        if snapshot is None:
            return ()
        runs, records = state.active or owed, self._records(state.record if owed else None)
        work = _work_revert.Work(self.tools["hypervisor"], self.tools["domain"], records, state, snapshot, runs)
        return _decision_revert.steps(state, snapshot, work, is_there=is_there, runs=runs)

    def _remove(self, removals: t.Sequence[Removal], found: Record | None) -> tuple[Step, ...]:
        """*found* is the record of a dead run that had begun with it."""
        steps: list[Step] = []
        state, settlement, resumed = self.observed.state, self.change.settlement, found is not None
        for removal in removals:
            work = _work_merge.Work(
                **self._tools(found),
                state=state,
                wish=self.wish,
                names=self.observed.names,
                working=settlement.left.working if settlement is not None and resumed else (),
                resumed=resumed,
                reused=self.change.overlays,
            )
            steps += _decision_merge.steps(state, removal, work, resumed=resumed)
        return tuple(steps)

    def _tools(self, found: Record | None) -> dict[str, t.Any]:
        """What each who does a change has; *found* is the record that it finds in the metadata."""
        return {**self.tools, "qemu_img": self.qemu_img, "records": self._records(found)}

    def _records(self, found: Record | None) -> Records:
        return replace(t.cast(Records, self.tools["records"]), found=found)
