# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of a wish for a clone: images, a definition, numbers."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_blueprint as _decision_blueprint,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import (
    Blueprint,
    Numbers,
    Setting,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_definition import (
    Definition,
    IdentityChange,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_seed import Seed
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark, MarkedDisk
from unit._vm_linked_clone.scene import SOURCE, UUID, spec, state, wish
from unit.samples import MIB

NUMBERS = Numbers(UUID, UUID.replace("2", "3"))
DISK = (
    "<disk type='file' device='disk'><driver type='qcow2'/><source file='/images/web.qcow2'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
XML = f"<domain><name>golden</name><uuid>u</uuid><genid>g</genid><devices>{DISK}</devices></domain>"
GOLDEN = replace(SOURCE, state=state(definition=XML))
STORE = "/nvram/golden_VARS.fd"
WITH_STORE = Source(
    state(definition=XML.replace("<devices>", f"<os><nvram>{STORE}</nvram></os><devices>")),
    replace(GOLDEN.looks, nvram=STORE),
    GOLDEN.disks,
)


def made(asked: CloneSpec, setting: Setting, source: Source = GOLDEN, **fields: Any) -> Blueprint:
    own = _decision_blueprint.outline(asked, source, setting)
    return _decision_blueprint.blueprint(asked, wish(asked, **fields), source, setting, own, NUMBERS, None)


@pytest.mark.parametrize(
    ("mode", "image_format", "backing"),
    [("linked", "qcow2", "/images/web.qcow2"), ("full", "qcow2", None), ("reflink", "qcow2", None)],
)
def test_a_clone_has_an_image_of_its_own_and_a_mark_that_says_of_what(
    mode: str, image_format: str, backing: str | None
) -> None:
    plan = made(spec(), Setting("/clones", mode))
    (image,), (disk,) = plan.images, plan.identity.disks
    assert (image.path, image.format, image.size) == ("/clones/pc-1.qcow2", image_format, 10 * MIB)
    assert (disk.chain[0].path if disk.chain else None) == backing
    mark = _identity.looks(plan.definition.xml).mark
    assert mark == Mark("golden", "u", mode, (MarkedDisk("vda", "/clones/pc-1.qcow2", "/images/web.qcow2"),))


def test_what_is_random_is_told_apart_from_what_is_asked_for() -> None:
    assert made(spec(), Setting("/clones", "linked")).random == {NUMBERS.uuid, NUMBERS.genid}
    asked = made(spec(uuid=UUID), Setting("/clones", "linked"))
    assert asked.random == {NUMBERS.genid}
    assert _document.parse(asked.definition.xml).findtext("./uuid") == UUID


@pytest.mark.parametrize(("there", "copied"), [(True, (STORE, "/nvram/pc-1_VARS.fd")), (False, None)])
def test_a_variable_store_is_copied_where_there_is_one(there: bool, copied: tuple[str, str] | None) -> None:
    plan = made(spec(), Setting("/clones", "linked", has_store=there), WITH_STORE)
    assert plan.nvram == copied
    assert plan.identity.nvram == "/nvram/pc-1_VARS.fd", "libvirt makes it from the template then"
    assert plan.paths == ["/clones/pc-1.qcow2", *(copied[1:] if copied else ())]


def test_serial_numbers_are_new_only_where_that_is_asked_for() -> None:
    (same,) = made(spec(), Setting("/clones", "linked")).identity.disks
    (unique,) = made(spec(), Setting("/clones", "linked"), unique_serials=True).identity.disks
    assert (same.serial, same.wwn) == (None, None)
    assert unique.serial is not None
    assert unique.wwn is None, "the source's disk has none"


def test_a_disk_that_would_be_smaller_is_refused_before_anything_is_decided() -> None:
    with pytest.raises(InvalidRequest, match="a smaller disk cuts off its end"):
        _decision_blueprint.outline(spec(disk_sizes={"vda": "5M"}), GOLDEN, Setting("/clones", "linked"))


def test_the_seed_of_a_new_clone_is_told_of_with_that_of_its_source() -> None:
    clone = made(spec(), Setting("/clones", "linked")).definition.xml
    new = _decision_blueprint.seeded(Definition(clone, (), ()), Seed("/seeds/a.iso"), "sata")
    assert new.changes == (IdentityChange("seed", None, "/seeds/a.iso"),)
    nested = _decision_blueprint.seeded(new, Seed("/seeds/b.iso"), "sata")
    assert nested.changes[-1] == IdentityChange("seed", "/seeds/a.iso", "/seeds/b.iso")
    assert _decision_blueprint.seeded(nested, Seed("/seeds/b.iso"), "sata") == nested
