# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new image takes: creation options, space, and a base that is what it seems."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import (
    Estimate,
    bytes_needed,
    creation_options,
    file_length,
    require_usable_base,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from unit.samples import MIB, qcow2


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"encrypted": True}, "is encrypted"),
        ({"corrupt": True}, "is marked corrupt"),
        ({"data_file": "/etc/shadow"}, "keeps its data in another file, /etc/shadow"),
    ],
)
def test_a_base_that_is_not_what_it_seems_is_refused(facts: dict[str, Any], reason: str) -> None:
    require_usable_base(qcow2())
    with pytest.raises(UnsafeImage, match=reason):
        require_usable_base(qcow2(**facts))


def test_a_vhd_keeps_the_size_that_was_asked_for() -> None:
    assert creation_options(Layout("vpc")) == {"force_size": "on"}
    assert creation_options(Layout("qcow2", compat="1.1")) == {"compat": "1.1"}


@pytest.mark.parametrize(
    ("layout", "needed"),
    [
        (Layout("qcow2"), 1000),
        (Layout("raw"), 400),
        (Layout("raw", "off"), 400),
        (Layout("vmdk", subformat="monolithicFlat"), 400),
        (Layout("vmdk", subformat="monolithicSparse"), 1000),
        (Layout("raw", "falloc"), 5 * MIB),
        (Layout("raw", "full"), 5 * MIB),
    ],
    ids=str,
)
def test_the_space_needed_at_once_follows_the_allocation(layout: Layout, needed: int) -> None:
    assert bytes_needed(layout, 5 * MIB, Estimate(1000, 400)) == needed


@pytest.mark.parametrize(
    ("layout", "length"),
    [
        (Layout("raw"), 5 * MIB),
        (Layout("qcow2"), 0),
        (Layout("qcow2", "off"), 0),
        (Layout("qcow2", "metadata"), 5 * MIB),
        (Layout("vdi", subformat="fixed"), 5 * MIB),
        (Layout("vmdk", subformat="monolithicFlat"), 5 * MIB),
        (Layout("vmdk", subformat="twoGbMaxExtentFlat"), 0),
        (Layout("vmdk", subformat="monolithicSparse"), 0),
    ],
    ids=str,
)
def test_a_file_is_as_long_as_its_disk_where_it_holds_all_of_it(layout: Layout, length: int) -> None:
    assert file_length(layout, 5 * MIB) == length
