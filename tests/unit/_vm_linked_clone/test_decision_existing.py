# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs in a domain that has the name of a clone."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import (
    decision_existing as _decision_existing,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Existing
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec
from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark
from unit._vm_linked_clone.scene import LOOKS, SOURCE, THERE, UUID, spec, wish
from unit.samples import MIB


def on(**facts: Any) -> Existing:
    """The clone whose disk has other FACTS."""
    return replace(THERE, disks=(replace(THERE.disks[0], **facts),))


def difference(asked: CloneSpec, found: Existing = THERE, **fields: Any) -> list[str]:
    wanted = wish(asked, **{"mode": "full", **fields})
    return _decision_existing.differences(asked, wanted, SOURCE, found)


def test_a_clone_that_is_as_asked_for_is_right() -> None:
    assert difference(spec()) == []
    asked = spec(uuid=UUID, mac="52:54:00:00:00:01", memory="256M", vcpus=2, description="a desk")
    assert difference(asked) == []
    assert difference(spec(), mode="reflink", fallback="full") == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (spec(uuid=UUID.replace("2", "3")), f"uuid is {UUID}, asked for "),
        (spec(mac="52:54:00:00:00:02"), "mac of interface 0 is 52:54:00:00:00:01, asked for 52:54:00:00:00:02"),
        (spec(macs=["52:54:00:00:00:01", "52:54:00:00:00:02"]), "mac of interface 1 is None"),
        (spec(memory="512M"), "memory is 268435456, asked for 536870912"),
        (spec(vcpus=4), "vcpus is 2, asked for 4"),
        (spec(description="another"), "description is a desk, asked for another"),
        (spec(metadata="<a:x xmlns:a='urn:a'/>"), "metadata of urn:a differs"),
    ],
)
def test_a_clone_that_is_not_as_asked_for_says_what_differs(asked: CloneSpec, said: str) -> None:
    (found,) = difference(asked)
    assert found.startswith(said)


def test_the_error_says_what_differs() -> None:
    with pytest.raises(DiskError, match="vcpus is 2, asked for 4: it was left alone") as caught:
        _decision_existing.require_right(spec(vcpus=4), wish(mode="full"), SOURCE, THERE)
    assert caught.value.facts["differences"] == ["vcpus is 2, asked for 4"]


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (None, "nothing in it says that it is a copy of golden"),
        (Mark("other", "o", "full", ()), "it is a clone of other, asked for one of golden"),
        (Mark("golden", "u", "linked", ()), "it is a linked clone, asked for a full one"),
    ],
)
def test_a_copy_is_known_by_its_mark(mark: Mark | None, said: str) -> None:
    assert difference(spec(), replace(THERE, looks=replace(LOOKS, mark=mark))) == [said]


def test_a_clone_without_a_disk_of_its_source_is_not_right() -> None:
    assert difference(spec(), replace(THERE, disks=())) == ["it has no disk vda"]
    assert difference(spec(), replace(THERE, disks=()), mode="linked") == ["it has no disk vda"]
    assert difference(spec(), on(there=False), mode="linked") == ["vda: its image /d/pc-1.qcow2 is missing"]


def test_a_linked_clone_reads_the_image_of_the_source_itself_or_through_others() -> None:
    assert difference(spec(), on(over="/d/pc-1.qcow2"), mode="linked") == []
    assert difference(spec(), on(over="/d/pc-1.s1.qcow2"), mode="linked") == []
    assert difference(spec(), on(chain=("/a", "/b")), mode="linked") == [
        "vda (/d/pc-1.qcow2) reads /a -> /b, asked for /images/web.qcow2"
    ]
    assert difference(spec(), mode="linked") == [
        "vda (/d/pc-1.qcow2) reads no backing file, asked for /images/web.qcow2"
    ]


def test_a_disk_may_have_grown_and_is_never_too_small() -> None:
    asked = spec(disk_sizes={"vda": "20M"})
    assert difference(asked, on(size=20 * MIB)) == []
    assert difference(asked, on(size=30 * MIB)) == []
    (said,) = difference(asked, on(size=10 * MIB))
    assert said == f"vda has {10 * MIB} bytes, asked for {20 * MIB} (kvmops.disk.vm_disk_resize grows it)"
    assert difference(asked, on(size=None)) == [], "its image is missing: that is told of elsewhere"
