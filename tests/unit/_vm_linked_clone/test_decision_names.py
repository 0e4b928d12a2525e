# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names and addresses that follow from that of a clone."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_names as _decision_names
from unit._vm_linked_clone.scene import spec


def test_an_address_stays_with_a_name_and_differs_between_names_and_interfaces() -> None:
    names = [f"pc-{number}" for number in range(100)]
    found = [_decision_names.derived_mac(name, number) for name in names for number in range(2)]
    assert found == [_decision_names.derived_mac(name, number) for name in names for number in range(2)]
    assert len(set(found)) == 200
    assert all(mac.startswith("52:54:00:") for mac in found)
    assert all(int(mac[:2], 16) & 3 == 2 for mac in found), "locally administered, no multicast"


def test_given_addresses_come_first() -> None:
    macs = _decision_names.macs_of(spec(mac="52:54:00:00:00:01"), 2)
    assert macs == ("52:54:00:00:00:01", _decision_names.derived_mac("pc-1", 1))
    with pytest.raises(InvalidRequest, match=r"2 MAC address\(es\) are given, and the source has 1"):
        _decision_names.macs_of(spec(macs=["52:54:00:00:00:01", "52:54:00:00:00:02"]), 1)


def test_serial_numbers_and_world_wide_names_have_their_shape() -> None:
    serials = {_decision_names.derived_serial(name, target) for name in ("a", "b") for target in ("vda", "vdb")}
    names = {_decision_names.derived_wwn(name, target) for name in ("a", "b") for target in ("sda", "sdb")}
    assert len(serials) == len(names) == 4
    assert {len(serial) for serial in serials} == {20}
    assert all(len(name) == 16 and name.startswith("3") for name in names)


def test_an_image_is_named_after_its_clone() -> None:
    assert _decision_names.image_path("/d", "pc-1", "vda", "qcow2", 1) == "/d/pc-1.qcow2"
    assert _decision_names.image_path("/d", "pc-1", "vdb", "raw", 2) == "/d/pc-1-vdb.raw"
