# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disks of a clone get another base, and what stands in the way."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_rebase as _decision_rebase
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_rebase import Move
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark, MarkedDisk
from unit import samples
from unit._vm_linked_clone.scene import SOURCE
from unit.samples import MIB, Recorder

OLD, NEW, OWN = "/images/v1.qcow2", "/images/v2.qcow2", "/clones/pc-1.qcow2"
MARKED = MarkedDisk("vda", OWN, OLD)
TARGET = replace(SOURCE, disks=(SourceDisk("vda", (samples.qcow2(NEW),), (False,)),))


def clone(path: str = OWN, **element: Any) -> DomainState:
    return samples.domain(samples.disk(samples.element(path, "qcow2", **element)), name="pc-1")


def image(backing_file: str | None = OLD, **facts: Any) -> Image:
    return samples.qcow2(OWN, backing_file=backing_file, backing_format="qcow2", **facts)


def moved(
    *images: Image, state: DomainState | None = None, target: Source = TARGET, names: Names | None = None
) -> Move:
    found, known = state or clone(), names or Names()
    disk, base = _decision_rebase.base_of(found, MARKED, target, known)
    chain = images or (image(), samples.qcow2(OLD))
    return _decision_rebase.move("pc-1", disk, base, MARKED.base, chain, known)


def test_an_image_that_reads_another_base_gets_the_new_one() -> None:
    found = moved()
    assert (found.path, found.before, found.base.path) == (OWN, OLD, NEW)
    assert found.rebase is not None
    assert [one.path for one in found.rebase.below] == [OLD]


def test_one_that_reads_the_new_base_by_whatever_name_stays() -> None:
    assert moved(image(NEW)).rebase is None
    assert moved(image("/link"), names=Names({"/link": NEW})).rebase is None


def test_a_definition_that_names_neither_base_is_not_believed() -> None:
    strange = clone(chain=(ChainLink("/images/v0.qcow2", "qcow2"),))
    with pytest.raises(DiskError, match=f"reads /images/v0.qcow2, expected {NEW} or {OLD}"):
        moved(image(NEW), state=strange)
    assert moved(image(NEW), state=clone(chain=(ChainLink(OLD, "qcow2"),))).rebase is None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (clone("/elsewhere"), "vda: is /elsewhere, and was made as /clones/pc-1.qcow2"),
        (samples.domain(name="pc-1"), "vda: is gone, and was made as"),
    ],
)
def test_a_clone_whose_disk_is_another_one_by_now_is_left_alone(state: DomainState, said: str) -> None:
    with pytest.raises(DiskError, match=said):
        moved(state=state)


def test_a_disk_may_have_got_another_name_for_the_same_file() -> None:
    assert moved(state=clone("/link/pc-1.qcow2"), names=Names({"/link/pc-1.qcow2": OWN})).path == "/link/pc-1.qcow2"


def test_the_new_source_has_a_disk_of_that_name_in_files_and_no_larger() -> None:
    with pytest.raises(DiskError, match="golden has no disk of that name"):
        moved(target=replace(TARGET, disks=()))
    with pytest.raises(InvalidRequest, match="is a block device"):
        moved(target=replace(TARGET, disks=(replace(TARGET.disks[0], block=(True,)),)))
    with pytest.raises(InvalidRequest, match="grow the disk first"):
        moved(image(virtual_size=5 * MIB))


def test_only_linked_clones_of_the_source_are_moved() -> None:
    mark = Mark("golden", "u", "linked", (MARKED,))
    assert _decision_rebase.require_clone(clone(), mark, {"golden"}) == mark
    assert _decision_rebase.require_clone(clone(), mark, {"u"}) == mark
    for wrong, said in (
        (None, "nothing in its definition says that it is a clone"),
        (replace(mark, mode="full"), "it is a full clone"),
        (replace(mark, source="other", source_uuid="o"), "is a clone of other, asked to move clones of golden"),
    ):
        with pytest.raises(DiskError, match=said):
            _decision_rebase.require_clone(clone(), wrong, {"golden"})


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"active": True, "state": "running"}, "is running"),
        ({"managed_save": True}, "managed-save"),
        ({"snapshots": ("s",)}, "has snapshots or checkpoints"),
        ({"checkpoints": ("c",)}, "has snapshots or checkpoints"),
    ],
)
def test_a_clone_that_is_not_at_rest_stays(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        _decision_rebase.require_at_rest(replace(clone(), **facts))
    _decision_rebase.require_at_rest(clone())


class Work(Recorder):
    def rebase(self, one: Move) -> tuple[Step, ...]:
        return (Step(f"rebase {one.path}", lambda: None),)


def test_what_was_left_goes_first_and_the_definition_comes_last() -> None:
    steps = _decision_rebase.steps("pc-1", [moved()], [OWN], "golden", Work())
    assert [step.summary for step in steps] == [
        f"remove what an interrupted run left of {OWN}",
        f"rebase {OWN}",
        "define pc-1 as a clone of golden",
    ]
    assert _decision_rebase.steps("pc-1", [moved(image(NEW))], [], None, Work()) == ()
