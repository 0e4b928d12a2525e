# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be merged into what, and what the base may need for it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from unit.samples import MIB, qcow2, raw, snapshot

BASE = raw("/images/base")
MIDDLE = qcow2("/images/middle", backing_file="/images/base", backing_format="raw")
TOP = qcow2("/images/top", backing_file="/images/middle", backing_format="qcow2")
HELD = [(0, 65536), (MIB, 2 * MIB)]
LUKS = Encryption("luks", taken_slots=(0,))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ((qcow2(virtual_size=MIB), BASE), "less than its backing file /images/base"),
        ((TOP, qcow2(virtual_size=MIB), BASE), "less than its backing file /images/base"),
        ((TOP, raw(format="parallels")), "into a parallels image"),
        ((TOP, raw(format="vdi", virtual_size=MIB)), "vdi images cannot be grown"),
        ((TOP, qcow2(compat="0.10", virtual_size=MIB, snapshots=(snapshot(),))), "cannot be grown: bring it to compat"),
    ],
)
def test_a_merge_that_would_not_give_the_disk_is_refused(images: tuple[Image, ...], reason: str) -> None:
    with pytest.raises(DiskError, match=reason):
        _merge.require_mergeable(Observed(images, HELD))


@pytest.mark.parametrize("facts", [{"corrupt": True}, {"data_file": "/etc/shadow"}])
def test_what_cannot_be_read_as_it_is_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(DiskError, match=r"/images/web\.qcow2"):
        _merge.require_readable((TOP, qcow2(**facts), BASE))


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ((qcow2(encrypted=True, encryption=LUKS), BASE), "would hold its content unencrypted"),
        (
            (TOP, MIDDLE, replace(BASE, encrypted=True, encryption=LUKS)),
            "merge into the backing file, /images/middle, first",
        ),
        (
            (TOP, replace(MIDDLE, encrypted=True, encryption=LUKS), BASE),
            "/images/middle: is encrypted, and its base /images/base would hold its content unencrypted",
        ),
    ],
)
def test_nothing_encrypted_is_merged_into_the_clear_nor_past_an_image(images: tuple[Image, ...], reason: str) -> None:
    with pytest.raises(DiskError, match=reason):
        _merge.require_mergeable(Observed(images, HELD))


def test_space_is_needed_for_what_the_base_does_not_hold() -> None:
    size = TOP.virtual_size
    assert _merge.bytes_needed(BASE, size, HELD, []) == MIB + 65536
    assert _merge.bytes_needed(BASE, size, HELD, [(0, 65536)]) == MIB
    full = raw("/images/base", actual_size=10 * MIB)
    assert _merge.bytes_needed(full, size, HELD, []) == 0, "preallocated, though it holds no data"


def test_a_qcow2_base_needs_whole_clusters_and_tables() -> None:
    base, held, size = qcow2("/images/base"), [(1000, 2000), (MIB, 2 * MIB)], TOP.virtual_size
    assert _merge.bytes_needed(base, size, held, []) == 17 * 65536 + 4 * 65536
    assert _merge.bytes_needed(base, size, held, [(0, 10 * MIB)]) == 0
    with_snapshots = qcow2("/images/base", snapshots=(snapshot(),))
    shared = _merge.bytes_needed(with_snapshots, size, held, [(0, 10 * MIB)])
    assert shared == 21 * 65536, "it shares its clusters with them"
