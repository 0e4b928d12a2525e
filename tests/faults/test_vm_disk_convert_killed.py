# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""vm_disk_convert killed (SIGKILL) at every point that changes the world: nothing is lost, a rerun converges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.fixtures import MakeDomain
from support.injection import Share, in_shares, killed_at, points
from support.scene import content, definition, disk_of, is_running, leftovers, make_image

MODULE = "vm_disk_convert"


class Victim:
    """A domain on raw disks that is converted, killed, looked at and converted again, over and over."""

    def __init__(self, hv: Hypervisor, images: Path, name: str, targets: Sequence[str], params: dict[str, Any]) -> None:
        self.hv, self.images, self.name, self.targets = hv, images, name, targets
        self.params = {"name": name, "disks": list(targets), "uri": hv.uri, **params}
        self.was_running = is_running(hv, name)
        self.definition = definition(hv, name)
        self.content = {target: content(self.source(target), "raw") for target in targets}

    def source(self, target: str) -> Path:
        return self.images / f"{target}.raw"

    def reset(self) -> None:
        """The world as it was in the beginning."""
        if is_running(self.hv, self.name):
            self.hv.remove(self.name)
        self.hv.define(self.definition)
        for path in self.images.iterdir():
            path.unlink()
        for target in self.targets:
            make_image(self.source(target), seed=target)
        if self.was_running:
            self.hv.start(self.name)

    def assert_complete(self) -> None:
        """The definition names complete images, whatever happened."""
        for target in self.targets:
            path, image_format = disk_of(self.hv, self.name, target)
            assert content(path, image_format) == self.content[target], (path, image_format)

    def assert_converted(self) -> None:
        """The job is done, the domain as it was, and nothing is left of the run that died."""
        self.assert_complete()
        for target in self.targets:
            assert disk_of(self.hv, self.name, target)[1] == "qcow2"
        assert is_running(self.hv, self.name) == self.was_running
        assert leftovers(self.hv, self.name, self.images) == []
        kept = [f"{target}.raw" for target in self.targets] if self.params.get("keep_source", True) else []
        assert sorted(os.listdir(self.images)) == sorted([*kept, *(f"{target}.qcow2" for target in self.targets)])
        assert "kvmops" not in definition(self.hv, self.name, 0)


#: Whether the domain runs, its disks, what is asked, and the point from which on it is killed.
SCENARIOS: dict[str, tuple[bool, list[str], dict[str, Any], str]] = {
    "running, the source is to go": (
        True,
        ["vda"],
        {"mode": "offline", "shutdown": "force", "keep_source": False},
        "pwrite 1",
    ),
    "off, two disks": (False, ["vda", "vdb"], {}, "link 1"),
}


@in_shares(3)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_point_the_next_run_finishes_the_job(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, scenario: str, share: Share
) -> None:
    running, targets, options, first = SCENARIOS[scenario]
    disks = [Disk(make_image(images / f"{target}.raw", seed=target), target=target) for target in targets]
    name = make_domain(disks, kernel=False).name
    if running:
        hv.start(name)
    victim = Victim(hv, images, name, targets, options)
    log = images.parent / f"{name}.points"
    every_point = points(victim.params, log)
    log.unlink()
    victim.assert_converted()
    assert {"virDomainSetMetadata 1", "qemu-img-convert 1", "link 1", "virDomainDefineXMLFlags 1"} <= set(every_point)
    for number, point in share.take(every_point[every_point.index(first) :]):
        victim.reset()
        killed_at(point, victim.params, children=bool(number % 2))
        victim.assert_complete()
        again = run_module(MODULE, victim.params)
        assert not again.get("failed"), (point, again)
        try:
            victim.assert_converted()
            if number % 5 == 0:
                assert not run_module(MODULE, victim.params)["changed"]
        except AssertionError as error:
            raise AssertionError(f"after a kill before {point}, then {again['actions']}: {error}") from error
