# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two runs at once with max_overcommit: one is counted after the other, whatever modules they are of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module, start_module
from lab.fixtures import MakeDomain
from support.file_systems import in_memory
from support.image_tools import MIB, create, info, names
from support.injection import paused_at, wait_in
from support.processes import waits_for_a_lock

Asked = tuple[str, dict[str, Any], str]


class Place:
    """A file system of 64 MiB, and what is to promise 40 MiB there, by the name of one of two images."""

    def __init__(self, hv: Hypervisor, small: Path, make_domain: MakeDomain) -> None:
        self.hv, self.small, self.elsewhere, self.make_domain = hv, small, small.parent, make_domain

    def domain(self, path: Path, mib: int = 40) -> str:
        return self.make_domain([Disk(create(path, "qcow2", mib * MIB), "qcow2")], kernel=False).name

    def created(self, name: str) -> Asked:
        return "qcow2_image", {"path": str(self.small / name), "size": "40M"}, "qemu-img-create 1"

    def image_converted(self, name: str) -> Asked:
        source = create(self.elsewhere / name, "qcow2", 40 * MIB)
        params = {"src": str(source), "src_format": "qcow2", "dest": str(self.small / name), "format": "raw"}
        return "qcow2_convert", {**params, "progress": False}, "qemu-img-convert 1"

    def disk_converted(self, name: str) -> Asked:
        params = {"name": self.domain(self.elsewhere / name), "disk": "vda", "dest": str(self.small / name)}
        return "vm_disk_convert", {**params, "format": "raw", "progress": False}, "qemu-img-convert 1"

    def grown(self, name: str) -> Asked:
        params = {"name": self.domain(self.small / name, 20), "disk": "vda", "size": "40M"}
        return "vm_disk_resize", params, "qemu-img-resize 1"

    def cloned(self, name: str) -> Asked:
        source = self.domain(self.elsewhere / name)
        params = {"source": source, "clones": [{"name": f"promised-{name}"}], "disk_dir": str(self.small)}
        return "vm_linked_clone", params, "qemu-img-create 1"

    def copied(self, name: str) -> Asked:
        module, params, _point = self.cloned(name)
        return module, {**params, "mode": "full"}, "qemu-img-convert 1"


@pytest.fixture
def place(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Place]:
    with in_memory(images / "small", 64) as small:
        yield Place(hv, small, make_domain)
        for name in ("one", "two"):
            hv.remove(f"promised-{name}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Place.image_converted, Place.image_converted),
        (Place.disk_converted, Place.created),
        (Place.created, Place.disk_converted),
        (Place.grown, Place.grown),
        (Place.cloned, Place.cloned),
        (Place.copied, Place.cloned),
    ],
)
def test_what_they_promise_together_is_within_the_limit(
    place: Place, first: Callable[[Place, str], Asked], second: Callable[[Place, str], Asked]
) -> None:
    (module, params, point), (other_module, others, _point) = first(place, "one"), second(place, "two")
    common = {"uri": place.hv.uri, "max_overcommit": 1}
    with paused_at(point, {**params, **common}, module=module) as run:
        other = start_module(other_module, {**others, **common})
        wait_in(other, lambda: waits_for_a_lock(other.pid), "the other run waits")
        predicted = run_module(other_module, {**others, **common}, check=True)
        assert predicted["changed"], "who only looks does not wait"
    result, refused = run.result(), other.result()
    assert result.get("changed"), result
    assert "max_overcommit is 1: ask for" in refused["msg"], refused
    made = [name for name in names(place.small) if "two" in name]
    assert made == (["two"] if second is Place.grown else [])
    if second is Place.grown:
        assert info(place.small / "two")["virtual-size"] == 20 * MIB
