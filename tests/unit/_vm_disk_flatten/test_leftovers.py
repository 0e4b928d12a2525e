# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a flattening that died has left: what is ours, what goes on, and what may be removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import traces as _traces
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _convert_leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record
from unit import samples
from unit.noting import Noting, order

MIB = 1 << 20
TOP, MIDDLE, BASE = "/images/vm.qcow2", "/images/middle.qcow2", "/images/base.raw"
CHAIN = (ChainLink(MIDDLE, "qcow2", "3"), ChainLink(BASE, "raw", "4"))
IMAGES = (
    Image(TOP, "qcow2", 64 * MIB, MIB, cluster_size=65536, compat="1.1", refcount_bits=16, backing_file=MIDDLE),
    Image(MIDDLE, "qcow2", 64 * MIB, 2 * MIB, backing_file=BASE),
    Image(BASE, "raw", 64 * MIB, 40 * MIB),
)
ELEMENT = samples.element(TOP, "qcow2", chain=CHAIN)


def disk(element: DiskElement = ELEMENT, *, live: bool = False) -> DomainDisk:
    return samples.disk(element, element if live else None)


def state(*disks: DomainDisk, **fields: Any) -> DomainState:
    return samples.domain(*(disks or (disk(),)), **fields)


def item(keep: int = 3, images: Sequence[Image] = IMAGES, **element: Any) -> Flattening:
    return Flattening(disk(replace(ELEMENT, **element)), tuple(images), tuple(image.path for image in images), keep)


def record(mode: str = "live", run: str | None = "7", keep: int = 3) -> Record:
    return replace(_decision.record(state(), mode, run, [item(keep)]), started=samples.YESTERDAY)


def left(
    found: Record | None,
    run: str | None = "7",
    *,
    pulled: bool = True,
    notes: dict[str, Any] | None = None,
    live: bool = True,
    images: Sequence[str] = (),
) -> _leftovers.Left:
    where = state(disk(live=live), active=live, record=found)
    return _leftovers.find(where, run, images, samples.noted(where, notes or {}), lambda _target: pulled)


def test_only_a_pull_of_the_same_run_of_the_domain_is_ours() -> None:
    assert [one.target for one in left(record()).pulled] == ["vda"]
    assert left(record()).doubtful == ()
    for run, live in (("8", True), (None, False)):
        again = left(record(), run, live=live)
        assert again.pulled == again.unwritten == ()
        assert [one.target for one in again.doubtful] == ["vda"]
    assert left(record("offline", None), None, live=False).doubtful == ()
    assert not left(None)


def test_what_may_be_in_the_memory_of_qemu_is_written_out() -> None:
    found = left(record(), pulled=False)
    assert found.pulled == ()
    written: list[str] = []
    for step in _leftovers.settle(found, pytest.fail, written.append):
        step.do()
    assert written == ["vda"]


def test_a_pull_is_adopted_where_it_does_what_is_wanted_now() -> None:
    found = left(record(keep=2))
    assert _leftovers.adoptable(found, [item(2)]) == {"vda"}
    assert _leftovers.adoptable(found, [item(3)]) == frozenset()
    assert _leftovers.without(found, {"vda"}).pulled == ()
    ended: list[str] = []
    (step,) = _leftovers.settle(found, ended.append, pytest.fail)
    step.do()
    assert ended == ["vda"]


def test_a_record_beside_an_image_is_found_without_one_in_the_domain() -> None:
    notes = {TOP: {"verb": "flatten", "owners": {BASE: [1, 2]}}}
    found = left(None, notes=notes, images=[TOP])
    assert found.noted == (TOP,)
    assert found.owners == {BASE: (1, 2)}
    assert found.paths == {TOP}
    assert not left(None, notes={TOP: {"verb": "reconcile"}}, images=[TOP])
    assert not left(None, notes={TOP: {"verb": "flatten", "alive": True}}, images=[TOP])


def test_a_half_made_file_is_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "vm.qcow2")
    staged = _staging.NewFile(path)
    staged.begin()
    (step,) = _leftovers.settle(left(None, images=[path]), pytest.fail, pytest.fail)
    step.do()
    assert list(tmp_path.iterdir()) == []


def test_each_verb_leaves_what_the_other_left_to_it() -> None:
    recorded = state(record=record())
    with pytest.raises(DiskError, match=r"a run \(flatten vda\) was interrupted .* run vm_disk_flatten on vda again"):
        _convert_leftovers.find(recorded, [], samples.noted(recorded, {}))
    other = replace(record(), verb="convert")
    with pytest.raises(DiskError, match="run vm_disk_convert on vda again") as refused:
        left(other)
    assert refused.value.facts["interrupted"] == {"verb": "convert", "started": samples.YESTERDAY, "disks": ["vda"]}
    with pytest.raises(DiskError, match="finish that first"):
        left(replace(record(), verb="unheard-of"))


def test_a_run_that_lives_is_not_touched() -> None:
    alive = {TOP: {"alive": True, "pid": 4711, "started": "now"}}
    with pytest.raises(OperationInFlight, match=r"another run flattens vda \(/images/vm.qcow2\) .* \(process 4711\)"):
        left(record(), notes=alive)
    _traces.require_own("vm", "u", None, "flatten", alive.get)


def test_an_image_that_lost_something_gets_its_backing_file_back_before_all_else() -> None:
    found = left(record(), "8")
    work = Noting()
    steps = _leftovers.repair(state(), found, found.doubtful, "<domain>as it was</domain>", work)
    assert steps[0].summary == f"have {TOP} refer to {MIDDLE} again: vda went off before all of that was in it"
    assert order(steps, work) == ["refer_again", "name_again", "forget"]
    assert order(_leftovers.repair(state(), found, found.doubtful, "<domain/>", work), work) == [
        "refer_again",
        "forget",
    ]


def test_an_image_that_lost_something_is_not_mended_below_a_guest() -> None:
    found = left(record(), "8")
    with pytest.raises(DiskError, match=f"{TOP} lost a part of what was pulled into it"):
        _leftovers.require_off(state(active=True, state="running"), found.doubtful)
    _leftovers.require_off(state(), found.doubtful)
