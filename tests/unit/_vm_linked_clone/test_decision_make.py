# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order a clone is made, and what is undone where that fails."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_make as _decision_make
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import Blueprint, NewImage
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_definition import (
    Definition,
    Identity,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark
from unit._vm_linked_clone.scene import SOURCE, UUID, spec
from unit.samples import MIB, Recorder

IMAGE = NewImage(SOURCE.disks[0], "/clones/pc-1.qcow2", 10 * MIB, "qcow2")


def plan(mode: str = "linked", **fields: Any) -> Blueprint:
    identity = Identity("pc-1", UUID, UUID, (), (), Mark("golden", "u", mode, ()))
    return replace(Blueprint(spec(), identity, Definition("<domain/>", (), ()), (IMAGE,)), **fields)


def test_images_come_first_then_the_definition_and_the_start() -> None:
    work = Recorder()
    made = plan(nvram=("/nvram/golden", "/nvram/pc-1"))
    steps = _decision_make.steps("golden", made, work, start=True)
    Plan({}, {}, steps).apply()
    assert work.calls == ["clear", "make_image", "copy_nvram", "define", "start"]
    assert [step.summary for step in steps if step.summary] == [
        "make /clones/pc-1.qcow2 of 10 MiB over /images/web.qcow2",
        "copy /nvram/golden to /nvram/pc-1",
        "define pc-1 as a clone of golden",
        "start pc-1",
    ]


@pytest.mark.parametrize(("mode", "said"), [("full", "copy"), ("reflink", "reflink")])
def test_a_copy_is_called_what_it_is(mode: str, said: str) -> None:
    _clear, image, _define = _decision_make.steps("golden", plan(mode), Recorder(), start=False)
    assert image.summary == f"{said} /images/web.qcow2 to /clones/pc-1.qcow2"


def test_what_an_interrupted_run_left_goes_first() -> None:
    first, *_others = _decision_make.steps("golden", plan(debris=("/clones/old",)), Recorder(), start=False)
    assert first.summary == "remove /clones/old, which an interrupted run left"


def test_a_clone_that_cannot_start_leaves_nothing() -> None:
    work = Recorder(fails="start")
    with pytest.raises(DiskError, match="start"):
        Plan({}, {}, _decision_make.steps("golden", plan(), work, start=True)).apply()
    assert work.calls == ["clear", "make_image", "define", "start", "stop", "undefine", "withdraw"]
