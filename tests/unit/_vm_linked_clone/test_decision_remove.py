# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes with a clone: what was made for it, and nothing that it has in common with others."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
    Neighbour,
    NeighbourDisk,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_remove import (
    Removal,
    removal,
    require_clone,
    require_stoppable,
    steps,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.survey_absent import files_of
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Looks, Mark, MarkedDisk
from unit.samples import Recorder


def clone(name: str = "pc-1", source: str = "golden", mark: Mark | None = None) -> Neighbour:
    """A clone whose UUID is its name in capitals, and without disks."""
    own = mark or Mark(source, source.upper(), "linked", ())
    return Neighbour(Looks(name, name.upper(), (), 0, 1, None, None, own), frozenset(), False, (), "<domain/>")


def marks(*listed: Neighbour) -> dict[str, Mark | None]:
    return {one.looks.uuid: one.looks.mark for one in listed}


class Place:
    def __init__(self, directory: Path) -> None:
        self.base, self.image, self.store = (directory / name for name in ("golden", "pc-1", "pc-1_VARS"))
        for path in (self.base, self.image, self.store):
            path.write_bytes(b"")
        disks = (MarkedDisk("vda", str(self.image), str(self.base)),)
        self.mark = Mark("golden", "GOLDEN", "linked", disks, str(self.store))

    def there(self, *disks: NeighbourDisk, nvram: str | None = None) -> Neighbour:
        """The clone, as somebody may have changed it since it was made."""
        looks = replace(clone(mark=self.mark).looks, nvram=nvram or str(self.store))
        found = disks or (NeighbourDisk("vda", str(self.image), "qcow2"),)
        return Neighbour(looks, frozenset(), False, found, "<domain/>")


def gone(found: Neighbour, mark: Mark) -> Removal:
    """What goes with the clone, of the files as they are."""
    return removal(found, mark, files_of(found, mark))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_its_images_and_its_variables_go_and_the_base_stays(place: Place) -> None:
    found = gone(place.there(), place.mark)
    assert (found.files, found.kept, found.bases) == (
        (str(place.image), str(place.store)),
        (),
        (str(place.base),),
    )


def test_what_it_has_in_the_place_of_its_image_stays(place: Place) -> None:
    found = gone(place.there(NeighbourDisk("vda", "/images/converted.raw", "raw")), place.mark)
    assert found.kept == ("/images/converted.raw",)
    assert str(place.image) in found.files, "made for it, and used by nobody now"


def test_variables_that_are_not_those_that_were_made_for_it_stay(place: Place) -> None:
    assert gone(place.there(nvram="/images/golden_VARS"), place.mark).files == (str(place.image),)


@pytest.mark.parametrize("how", ["by its name", "by a link", "by a second name"])
def test_a_base_never_goes_whatever_the_mark_says(place: Place, how: str) -> None:
    path = place.base
    if how != "by its name":
        path = place.image
        path.unlink()
        path.symlink_to(place.base) if how == "by a link" else path.hardlink_to(place.base)
    mark = replace(place.mark, disks=(MarkedDisk("vda", str(path), str(place.base)),))
    with pytest.raises(UnsafeImage, match="is the one that it was made from: left alone"):
        gone(place.there(), mark)


def test_what_is_no_file_any_more_stays(place: Place) -> None:
    place.image.unlink()
    place.image.mkdir()
    with pytest.raises(UnsafeImage, match="is no longer a regular file: left alone"):
        gone(place.there(), place.mark)


def test_only_a_clone_of_the_source_goes_and_one_of_a_clone_that_is_listed_too() -> None:
    child, grandchild = clone("pc-2", "pc-1"), clone("pc-3", "pc-2")
    for source in ("golden", "GOLDEN"):
        assert require_clone(clone(), source, {}).source == "golden"
        assert require_clone(grandchild, source, marks(clone(), child, grandchild)).source == "pc-2"
    for listed in ([], [grandchild], [clone(), grandchild], [child, grandchild]):
        with pytest.raises(DiskError, match="pc-3: is a clone of pc-2, asked to remove one of golden"):
            require_clone(grandchild, "golden", marks(*listed))


def test_marks_that_run_in_a_circle_lead_nowhere() -> None:
    one, two = clone("one", "two"), clone("two", "one")
    with pytest.raises(DiskError, match="one: is a clone of two"):
        require_clone(one, "golden", marks(one, two))


def test_what_no_mark_speaks_of_is_left_alone() -> None:
    plain = replace(clone(), looks=replace(clone().looks, mark=None))
    with pytest.raises(DiskError, match="nothing in its definition says that this module made it"):
        require_clone(plain, "golden", marks(plain))


def test_what_runs_goes_only_by_force() -> None:
    running = replace(clone(), active=True)
    with pytest.raises(ImageInUse, match="shut it down first, or set force=true"):
        require_stoppable(running, force=False)
    require_stoppable(running, force=True)


@pytest.mark.parametrize(
    ("files", "stop", "calls"),
    [
        (("/d/pc-1.qcow2",), False, ["note", "undefine", "remove_files"]),
        (("/d/pc-1.qcow2",), True, ["note", "stop", "undefine", "remove_files"]),
        ((), False, ["note", "undefine"]),
    ],
)
def test_what_goes_is_noted_first_and_its_files_go_last(files: tuple[str, ...], stop: bool, calls: list[str]) -> None:
    work = Recorder()
    Plan({}, {}, steps(Removal("pc-1", "u", files, stop=stop), work)).apply()
    assert work.calls == calls


def test_where_it_cannot_be_undefined_it_is_defined_again() -> None:
    work = Recorder(fails="undefine")
    with pytest.raises(DiskError, match="undefine"):
        Plan({}, {}, steps(Removal("pc-1", "u", ("/d/pc-1.qcow2",)), work)).apply()
    assert work.calls == ["note", "undefine", "define_again"]
