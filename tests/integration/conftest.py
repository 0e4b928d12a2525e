# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the tests of live progress and of refusals play, and a hypervisor of another kind."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from support.arranged import Scene
from support.block_devices import MakeDevice
from support.held_qemu_img import HeldQemuImg
from support.playground import LARGE_MIB, MakeWeb, Playground
from support.scene import MIB, make_image

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def static_hv() -> Iterator[Hypervisor]:
    """A hypervisor that leaves the owners of images alone."""
    with Hypervisor(Path(tempfile.gettempdir()), f"static-{os.getpid()}", dynamic_ownership=False) as hypervisor:
        yield hypervisor


@pytest.fixture
def scene(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> Iterator[Scene]:
    """Where an arranger of a refusal works."""
    with contextlib.ExitStack() as stack:
        yield Scene(hv, images, make_domain, stack)


@pytest.fixture
def device(images: Path) -> Iterator[MakeDevice]:
    """Makes loop devices of so many MiB."""
    made: list[str] = []

    def make(mib: int) -> str:
        backing = images / f"device-{len(made)}"
        with backing.open("wb") as file:
            file.truncate(mib * MIB)
        losetup = ["losetup", "--find", "--show", str(backing)]
        made.append(subprocess.run(losetup, check=True, capture_output=True, text=True).stdout.strip())
        return made[-1]

    yield make
    for name in made:
        subprocess.run(["losetup", "--detach", name], check=True)


@pytest.fixture
def base(hv: Hypervisor) -> Path:
    """A directory with a path short enough for the sockets of ssh, which every user may traverse."""
    directory = hv.directory / f"p{next(_numbers)}"
    directory.mkdir()
    directory.chmod(0o711)
    return directory


@pytest.fixture
def ground(hv: Hypervisor, base: Path) -> Playground:
    return Playground(hv, base)


@pytest.fixture
def held(base: Path) -> HeldQemuImg:
    """The qemu-img of `held_ground`, which stands still twice in the middle of a conversion."""
    return HeldQemuImg(base, "convert", 25, 60)


@pytest.fixture
def held_ground(hv: Hypervisor, base: Path, held: HeldQemuImg) -> Playground:
    return Playground(hv, base, held.prefix())


@pytest.fixture
def make_web(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> MakeWeb:
    def make(*, large: bool = False, running: bool = False) -> str:
        number = len(list(images.iterdir()))
        mib = LARGE_MIB if large else 2
        image = make_image(images / f"{number}.raw", mib=mib, size_mib=mib + 8, seed=str(number))
        name = make_domain([Disk(image)], name="web", kernel=False).name
        if running:
            hv.start(name)
        return name

    return make
