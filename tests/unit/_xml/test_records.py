# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a run in the metadata of a domain."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk

MERGED = RecordedDisk("vda", "/images/vm.s1.qcow2", "qcow2", "/images/vm.raw", "raw", base="/images/vm.s2.qcow2")
RECORD = Record("disk-snapshot", "live", "2024-01-01T00:00:00+00:00", True, False, (MERGED,), "7", "s1", "merge")


def test_a_record_comes_back_as_it_was_written() -> None:
    assert _records.record_from_xml(_records.record_to_xml(RECORD)) == RECORD


def test_a_definition_is_freed_of_a_record_and_of_nothing_else() -> None:
    ours = _records.record_to_xml(RECORD).replace("<operation", "<k:operation xmlns:k='urn:kvmops:disk:1'")
    ours = ours.replace("</operation>", "</k:operation>")
    plain = "<domain><metadata><x:note xmlns:x='urn:test'>kept</x:note>%s</metadata></domain>"
    assert "kvmops" not in _records.without_record(plain % ours)
    assert "kept" in _records.without_record(plain % ours)
    assert _records.without_record(plain % "") == plain % ""
