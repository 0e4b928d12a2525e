# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the definition of a domain calls the backing files of its disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten import survey as _survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.decision import Flattening
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.survey import Survey
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_flatten.wish import FlattenWish
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from unit import samples

DEFINITION = """<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/i/top'/><backingStore type='file'><format type='qcow2'/><source file='/i/middle'/>
<backingStore type='file'><format type='raw'/><source file='{base}'/></backingStore></backingStore>
<target dev='vda'/></disk></devices></domain>"""


def flattening(base: str, keep: int) -> Flattening:
    """A disk whose chain the definition names with BASE at its end, KEPT from number KEEP on."""
    images = (
        samples.qcow2("/i/top", backing_file="/i/middle"),
        samples.qcow2("/i/middle", backing_file=base),
        samples.raw(base),
    )
    chain = (ChainLink("/i/middle", "qcow2"), ChainLink(base, "raw"))
    disk = samples.disk(samples.element("/i/top", "qcow2", chain=chain))
    return Flattening(disk, images, ("/i/top", "/i/middle", str(Path(base).resolve())), keep)


def test_what_was_merged_is_named_no_more() -> None:
    definition = DEFINITION.format(base="/i/base")
    assert "/i/middle" not in _survey.shortened(definition, [flattening("/i/base", 2)])
    assert "/i/base" in _survey.shortened(definition, [flattening("/i/base", 2)])
    assert "/i/base" not in _survey.shortened(definition, [flattening("/i/base", 3)])
    assert _survey.shortened(definition, [flattening("/i/base", 1)]) == definition


def test_the_base_keeps_the_name_that_the_definition_has_for_it(tmp_path: Path) -> None:
    base, link = tmp_path / "base", tmp_path / "link"
    base.touch()
    link.symlink_to(base)
    item = flattening(str(base), 2)
    shortened = _survey.shortened(DEFINITION.format(base=link), [item])
    assert str(link) in shortened
    assert "/i/middle" not in shortened


@pytest.mark.parametrize(("keep", "misnamed"), [(1, False), (2, True), (3, True)])
def test_a_definition_that_names_what_the_image_has_no_more_is_known(keep: int, misnamed: bool) -> None:
    item = flattening("/i/base", keep)
    state = samples.domain(item.disk, definition=DEFINITION.format(base="/i/base"))
    survey = Survey(samples.NO_QEMU_IMG, state, FlattenWish(("vda",)))
    assert survey.is_misnamed(item) == misnamed
    unnamed = replace(item, disk=samples.disk(samples.element("/i/top", "qcow2")))
    assert not survey.is_misnamed(unnamed)


def test_a_base_is_found_below_the_image_by_whatever_name(tmp_path: Path) -> None:
    base, link = tmp_path / "base", tmp_path / "link"
    base.touch()
    link.symlink_to(base)
    files = ("/i/top", "/i/middle", str(base))
    for name in (base, link, tmp_path / ".." / tmp_path.name / "base"):
        assert _survey.number_of(str(name), files) == 2
    assert _survey.number_of("/i/top", files) is None
    assert _survey.number_of("/elsewhere", files) is None


def test_the_file_below_an_image_is_where_its_reference_leads(tmp_path: Path) -> None:
    base, link = tmp_path / "base", tmp_path / "link"
    base.touch()
    link.symlink_to(base)
    assert _survey.file_below(samples.qcow2(backing_file=str(link))) == str(base)
    assert _survey.file_below(samples.qcow2()) is None
