# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a disk, and when it is worth a warning."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info import result as _result
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_info.survey import Observed, SeenImages
from unit import samples

CLONES = ("/images/a.qcow2", "/images/b.qcow2")


def described(
    *, active: bool = True, clones: tuple[str, ...] = CLONES, silence: str | None = None, **element: Any
) -> tuple[dict[str, Any], str | None]:
    """The facts of a disk of a domain that runs, unless it is not ACTIVE, and the warning about it."""
    found = samples.element("/images/vm.raw", **element)
    disk = samples.disk(found, found if active else None)
    state = samples.domain(disk, active=active, state="running" if active else "shut off")
    observed = Observed(state, silence=silence)
    facts = _result.facts(observed, disk, SeenImages((samples.raw("/images/vm.raw"),)), (), clones)
    return facts, _result.warning(observed, facts)


def test_a_guest_that_writes_what_clones_read_is_warned_of() -> None:
    _facts, warning = described()
    assert warning is not None
    assert "vm is running on /images/vm.raw (vda), which 2 image(s) read" in warning
    assert "/images/a.qcow2, /images/b.qcow2" in warning


@pytest.mark.parametrize("harmless", [{"active": False}, {"clones": ()}, {"readonly": True}, {"device": "cdrom"}])
def test_there_is_no_warning_where_nothing_can_be_written_or_nothing_reads_it(harmless: dict[str, Any]) -> None:
    assert described(**harmless)[1] is None


def test_a_domain_that_does_not_answer_is_the_problem_of_its_live_disks() -> None:
    live, _warning = described(silence="no answer")
    off, _warning = described(silence="no answer", active=False)
    assert (live["problem"], live["job"]) == ("no answer", None)
    assert (off["problem"], off["job"]) == (None, False)


def test_sizes_are_those_of_the_image_of_the_disk_itself() -> None:
    facts, _warning = described()
    assert facts["virtual_size"] == 10 * samples.MIB
    assert [image["path"] for image in facts["backing_chain"]] == ["/images/vm.raw"]
