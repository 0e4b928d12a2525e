# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found where new images are to be, and the space that they need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import Carried
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import Measure
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision import Conversion
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.decision_obstacles import Place
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_convert.wish import ConvertWish
from unit import samples


def place(source: Path, dest: Path, *, doomed: tuple[str, ...] = ()) -> Place:
    disk = samples.disk(samples.element(str(source)))
    survey = Survey(
        cast(Any, None),
        cast(Any, None),
        samples.NO_QEMU_IMG,
        samples.domain(disk),
        ConvertWish(("vda",), Layout(format="qcow2")),
    )
    return survey.places([Conversion(disk, str(source), str(dest))], doomed)["vda"]


def test_nothing_stands_at_a_free_destination(tmp_path: Path) -> None:
    assert place(tmp_path / "vm.raw", tmp_path / "vm.qcow2") == Place(str(tmp_path / "vm.qcow2"))


def test_the_source_is_known_again_by_whatever_name(tmp_path: Path) -> None:
    source, link = tmp_path / "vm.raw", tmp_path / "link"
    source.touch()
    link.symlink_to(source)
    for dest in (link, tmp_path / "." / "vm.raw", tmp_path / ".." / tmp_path.name / "vm.raw"):
        assert place(source, dest).is_source


def test_a_link_that_leads_nowhere_stands_there_too(tmp_path: Path) -> None:
    dest = tmp_path / "vm.qcow2"
    dest.symlink_to(tmp_path / "elsewhere")
    assert place(tmp_path / "vm.raw", dest) == Place(str(tmp_path / "elsewhere"), exists=True)


def test_what_is_about_to_be_removed_does_not_stand_in_the_way(tmp_path: Path) -> None:
    dest = tmp_path / "vm.qcow2"
    dest.touch()
    assert place(tmp_path / "vm.raw", dest).exists
    assert not place(tmp_path / "vm.raw", dest, doomed=(str(dest),)).exists


def test_an_image_whose_holes_will_be_filled_needs_the_space_of_the_whole_disk(tmp_path: Path) -> None:
    class Measuring:
        def measure(self, *_asked: object) -> Measure:
            return Measure(required=1 << 20, fully_allocated=size)

    size = shutil.disk_usage(tmp_path).free + (1 << 30)
    disk = samples.disk(samples.element("/i/vm.qcow2", "qcow2"))
    wish = ConvertWish(("vda",), Layout(format="raw"))
    survey = Survey(cast(Any, None), cast(Any, None), cast(Any, Measuring()), samples.domain(disk), wish)
    survey.images["vda"] = samples.qcow2("/i/vm.qcow2", virtual_size=size)
    survey.bitmaps["vda"] = Carried("/i/vm.qcow2")
    conversions = [Conversion(disk, "/i/vm.qcow2", str(tmp_path / "vm.raw"))]
    survey.require_space(conversions)
    with pytest.raises(NotEnoughSpace) as refused:
        survey.require_space(conversions, {"vda"})
    assert refused.value.facts["required_bytes"] == size
