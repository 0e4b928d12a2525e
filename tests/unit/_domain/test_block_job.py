# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each wait for a block job ends, though nothing happens: a storage that hangs, a libvirt that does not do its part."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._domain import block_job as _block_job
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain

XML = (
    "<domain><devices><disk type='file' device='disk'><driver type='raw'/><source file='/old'/><target dev='vda'/>"
    "<mirror type='file' job='copy'><source file='/new'/></mirror></disk></devices></domain>"
)


class Standstill:
    """A running domain in which nothing changes any more, whatever it is told."""

    name = "vm"

    def xml(self, *, inactive: bool) -> str:
        assert not inactive
        return XML

    def is_active(self) -> bool:
        return True

    def state(self) -> str:
        return "running"

    def block_job(self, _target: str) -> dict[str, int]:
        return {"type": 2, "cur": 1 << 20, "end": 1 << 23}

    def pivot(self, _target: str) -> None:
        """It says that it has done so."""

    def end_block_job(self, _target: str) -> None:
        """Likewise."""

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[float], None]]:
        yield lambda seconds: time.sleep(min(seconds, 0.01))


def nobody(_done: int, _total: int) -> None:
    """Nobody asked how far it is."""


WAITS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no progress": (
        lambda domain: _block_job.await_copy(domain, "vda", "/new", 60, nobody),
        "vm: waited 0.05 s without any progress for the copy of vda to /new to be complete: given up",
    ),
    "too long": (
        lambda domain: _block_job.await_copy(domain, "vda", "/new", 0.02, nobody),
        "vm: waited 0.02 s for the copy of vda to /new to be complete: given up",
    ),
    "no pull": (
        lambda domain: _block_job.await_pull(domain, "vda", None, 60, nobody),
        "without any progress for the backing files of vda to be in its image: given up",
    ),
    "no pivot": (
        lambda domain: _block_job.pivot(domain, "vda", "/new"),
        "vm: waited 0.04 s for vda to be on /new after the pivot: given up",
    ),
    "no end": (
        lambda domain: _block_job.end(domain, "vda"),
        "vm: waited 0.04 s for the block job on vda to end: given up",
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_ends_and_says_what_it_was_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(_block_job, "STALLED", 0.05)
    monkeypatch.setattr(_block_job, "PROMPT", 0.04)
    wait, said = WAITS[name]
    with pytest.raises(DiskError) as error:
        wait(cast(Domain, Standstill()))
    assert said in str(error.value)
    assert error.value.facts["state"] == "running"
