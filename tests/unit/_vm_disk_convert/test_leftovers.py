# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a conversion that died has left: who owes what, and what may be removed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import OperationInFlight
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import shutdown as _shutdown
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.traces import NEW_FILE
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import (
    decision_conversion as _decision_conversion,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink, DiskElement
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk, Shutdown
from unit import samples

Note = dict[str, Any]


def nothing_to_end(disk: RecordedDisk) -> None:
    raise AssertionError(f"no copy of {disk.target} was going on")


class World:
    """A domain with one disk whose conversion from vm.raw to vm.qcow2 is recorded, and what stands beside them."""

    def __init__(self, directory: Path) -> None:
        self.source, self.dest = str(directory / "vm.raw"), str(directory / "vm.qcow2")
        self.notes: dict[str, Note] = {}

    def state(self, *, defined: bool = False, active: bool = False, record: bool = True, **fields: Any) -> DomainState:
        source, image_format = (self.dest, "qcow2") if defined else (self.source, "raw")
        element = samples.element(source, image_format)
        disk = samples.disk(element, element if active else None)
        recorded = RecordedDisk("vda", self.source, "raw", self.dest, "qcow2")
        found = Record("convert", "offline", samples.YESTERDAY, True, True, (recorded,))
        found = replace(found, **fields)
        state = "running" if active else "shut off"
        return samples.domain(disk, state=state, active=active, record=found if record else None)

    def find(self, state: DomainState, *images: str) -> _leftovers.Unfinished:
        return _leftovers.find(state, images, samples.noted(state, self.notes))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_without_a_record_nothing_is_unfinished(world: World) -> None:
    found = world.find(world.state(record=False), world.source, world.dest)
    assert not found
    assert found.paths == set()
    assert _leftovers.clean_up(found, nothing_to_end) == ()


ASKED = Shutdown("7", "2026-01-01T12:00:00+00:00")


@pytest.mark.parametrize(
    ("run", "minutes", "pending"),
    [("7", 59, True), ("7", 61, False), ("8", 1, False), (None, 1, False)],
    ids=["still the same run", "long ago", "started anew", "off"],
)
def test_a_guest_that_was_asked_to_shut_down_may_do_so_for_an_hour(
    run: str | None, minutes: int, pending: bool
) -> None:
    now = datetime.fromisoformat(ASKED.asked) + timedelta(minutes=minutes)
    assert _shutdown.is_pending(ASKED, run, now) == pending


def test_a_domain_whose_guest_was_asked_to_shut_down_is_owed_its_start_once_it_is_off(world: World) -> None:
    just_now = replace(ASKED, asked=datetime.now(timezone.utc).isoformat(timespec="seconds"))
    on, off = world.state(active=True, record=False), world.state(record=False)
    pending = _leftovers.find(on, (), world.notes.get, just_now, "7")
    assert (bool(pending), pending.pending, pending.owed) == (False, just_now, False)
    late = _leftovers.find(off, (), world.notes.get, just_now, None)
    assert (bool(late), late.pending, late.owed, late.answered) == (True, None, True, True)
    again = _leftovers.find(on, (), world.notes.get, just_now, "8")
    assert (bool(again), again.owed, again.answered) == (True, False, True)


def test_a_domain_that_ran_and_is_off_is_owed_its_start(world: World) -> None:
    assert world.find(world.state()).owed
    assert not world.find(world.state(active=True)).owed
    assert not world.find(world.state(was_running=False)).owed


def test_the_images_of_the_record_are_to_be_held(world: World) -> None:
    assert world.find(world.state()).paths == {world.source, world.dest}


def test_a_run_that_lives_is_not_touched(world: World) -> None:
    world.notes[world.dest] = {"alive": True, "pid": 4711, "started": "now"}
    with pytest.raises(OperationInFlight, match=r"another run converts vda .* \(process 4711\)"):
        world.find(world.state())


def test_a_new_image_that_the_definition_does_not_name_is_removed(world: World) -> None:
    Path(world.dest).touch()
    world.notes[world.dest] = {"verb": "convert", NEW_FILE: _same_file.file_identity(world.dest)}
    found = world.find(world.state())
    assert found.stale == (world.dest,)
    (step,) = _leftovers.clean_up(found, nothing_to_end)
    step.do()
    assert not Path(world.dest).exists()


def test_a_new_image_that_the_definition_names_stays(world: World) -> None:
    Path(world.dest).touch()
    world.notes[world.dest] = {"verb": "convert", NEW_FILE: _same_file.file_identity(world.dest)}
    assert world.find(world.state(defined=True)).stale == ()


@pytest.mark.parametrize("note", [None, {}, {"new_file": [1, 2]}, {"new_file": None}])
def test_a_file_that_is_not_the_one_the_dead_run_made_stays(world: World, note: Note | None) -> None:
    Path(world.dest).touch()
    if note is not None:
        world.notes[world.dest] = {"verb": "convert", **note}
    found = world.find(world.state())
    assert found.stale == ()


def test_half_made_files_are_discarded(world: World) -> None:
    staged = _staging.NewFile(world.dest)
    staged.begin()
    Path(staged.name).touch()
    found = world.find(world.state(record=False), world.dest)
    assert found
    assert found.staging == (world.dest,)
    (step,) = _leftovers.clean_up(found, nothing_to_end)
    step.do()
    assert list(Path(world.dest).parent.iterdir()) == []


def test_half_made_files_of_a_run_that_lives_stay(world: World) -> None:
    _staging.NewFile(world.dest).begin()
    world.notes[world.dest] = {"verb": "convert", "alive": True}
    found = world.find(world.state(record=False), world.dest)
    assert not found


def test_the_source_goes_only_once_the_definition_names_the_new_image(world: World) -> None:
    assert world.find(world.state()).sources == ()
    assert world.find(world.state(defined=True)).sources == (world.source,)
    assert world.find(world.state(defined=True, remove_source=False)).sources == ()


def test_a_record_beside_an_image_is_found_without_one_in_the_domain(world: World) -> None:
    world.notes[world.dest] = {"verb": "convert"}
    found = world.find(world.state(defined=True, record=False), world.dest)
    assert found
    assert found.noted == (world.dest,)
    assert found.paths == {world.dest}


SOURCE, DEST = "/images/vm.raw", "/images/vm.qcow2"
WISH = ConvertWish(("vda",), Layout("qcow2"))


def conversion(**fields: Any) -> Conversion:
    element = DiskElement(
        "vda", "virtio", "disk", "file", SOURCE, "raw", None, None, False, False, False, False, None, None
    )
    return replace(Conversion(DomainDisk("vda", SOURCE, element, element), SOURCE, DEST), **fields)


@pytest.mark.parametrize(
    ("wish", "item"),
    [
        (replace(WISH, layout=Layout("qcow2", cluster_size=2 << 20)), conversion()),
        (replace(WISH, layout=Layout("qcow2", preallocation="falloc")), conversion()),
        (replace(WISH, layout=Layout("qcow2", compat="0.10")), conversion()),
        (replace(WISH, layout=Layout("raw")), conversion()),
        (replace(WISH, shallow=True), conversion(backing=ChainLink("/images/base.raw", "raw"))),
        (replace(WISH, block_device=True), conversion()),
        (WISH, conversion(dest="/images/other.qcow2")),
    ],
    ids=["cluster_size", "preallocation", "compat", "format", "shallow", "block_device", "dest"],
)
def test_a_copy_is_gone_on_with_only_where_all_is_wanted_that_it_was_begun_with(
    wish: ConvertWish, item: Conversion
) -> None:
    for begun, now, same in (
        ((conversion(), WISH), (item, wish), False),
        ((item, wish), (conversion(), WISH), False),
        ((item, wish), (item, wish), True),
    ):
        going_on = _leftovers.Unfinished(copied=(_decision_conversion.recorded(*begun),))
        assert _leftovers.adoptable(going_on, [now[0]], now[1]) == ({"vda"} if same else set())


def test_how_fast_a_copy_is_and_what_is_the_default_anyway_do_not_matter() -> None:
    going_on = _leftovers.Unfinished(copied=(_decision_conversion.recorded(conversion(), WISH),))
    other = replace(WISH, bandwidth=1, keep_source=False, copy_timeout=1, layout=Layout("qcow2", preallocation="off"))
    assert _leftovers.adoptable(going_on, [conversion()], other) == {"vda"}


def test_the_record_of_another_verb_is_left_to_that(world: World) -> None:
    world.notes[world.source] = {"verb": "reconcile"}
    assert not world.find(world.state(record=False), world.source)
