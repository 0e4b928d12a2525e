# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a clone must have for itself, and another domain has."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_taken import Taken
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec
from unit._vm_linked_clone.scene import NEIGHBOUR, UUID, spec


@pytest.mark.parametrize(
    ("asked", "macs", "paths", "said"),
    [
        (spec(name="b", uuid=UUID), [], [], "is that of the domain pc-1: choose another"),
        (spec(name="b", mac="52:54:00:00:00:01"), ["52:54:00:00:00:01"], [], "of the domain pc-1: choose another"),
        (spec(name="b"), ["52:54:00:00:00:01"], [], "it is derived from the name: give another one with mac"),
        (spec(name="b"), [], ["/d/pc-1.qcow2"], "is a disk of the domain pc-1"),
        (spec(name="b"), ["52:54:00:00:00:02"] * 2, [], "of the domain b: it is derived"),
    ],
)
def test_what_another_domain_has_is_taken(asked: CloneSpec, macs: list[str], paths: list[str], said: str) -> None:
    with pytest.raises(DiskError, match=said):
        Taken.by([NEIGHBOUR], {"/d/pc-1.qcow2": "pc-1"}).require_free(asked, macs, {path: path for path in paths})


def test_a_file_is_taken_by_whatever_name() -> None:
    taken = Taken.by([NEIGHBOUR], {"/d/pc-1.qcow2": "pc-1"})
    with pytest.raises(DiskError, match=r"/link/pc-1\.qcow2 is a disk of the domain pc-1"):
        taken.require_free(spec(name="b"), [], {"/link/pc-1.qcow2": "/d/pc-1.qcow2"})
    taken.require_free(spec(name="b"), [], {"/link/b.qcow2": "/d/b.qcow2"})
