# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""pytest fixtures around the lab: `pytest_plugins = ["lab.fixtures"]` in the top conftest.py of a test tree."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from lab.domain import Disk
from lab.guest import Guest
from lab.hypervisor import Hypervisor
from lab.module import run_module

_numbers = itertools.count(1)


class MakeDomain(Protocol):
    """Defines a domain, with START boots it; options are those of lab.domain.domain_xml."""

    def __call__(self, disks: Sequence[Disk] = (), name: str = "vm", start: bool = False, **options: Any) -> Guest: ...


@pytest.fixture(scope="session")
def hv() -> Iterator[Hypervisor]:
    """One hypervisor for all tests of a run; it needs root."""
    if os.geteuid():
        pytest.fail("a private system libvirtd needs root: run these tests by make, which asks sudo")
    with Hypervisor(Path(tempfile.gettempdir()), f"lab-{os.getpid()}") as hypervisor:
        yield hypervisor


@pytest.fixture
def images(hv: Hypervisor) -> Iterator[Path]:
    """A directory of the test's own, which QEMU's user may traverse; removed afterwards."""
    directory = hv.images / f"t{next(_numbers)}"
    directory.mkdir()
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user may traverse. Each pytest that starts closes those of all pytests to others."""
    with tempfile.TemporaryDirectory(prefix="kvmops-open-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def make_domain(hv: Hypervisor, images: Path) -> Iterator[MakeDomain]:
    """A factory of domains with unique names, which are destroyed and undefined afterwards (before `images` goes)."""
    made: list[str] = []

    def make(disks: Sequence[Disk] = (), name: str = "vm", start: bool = False, **options: Any) -> Guest:
        unique = f"{name}-{next(_numbers)}"
        made.append(unique)
        hv.define(hv.domain_xml(unique, disks, **options))
        guest = Guest(hv, unique)
        if start:
            hv.wake(unique)
        return guest

    yield make
    for name in made:
        hv.remove(name)


@pytest.fixture
def module(hv: Hypervisor) -> Callable[..., dict[str, Any]]:
    """lab.run_module; modules that speak to libvirt get this hypervisor's URI unless the test gives one."""

    def run(name: str, params: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        return run_module(name, {**default_uri(hv, name, params), **params}, **options)

    return run


def default_uri(hv: Hypervisor, name: str, params: Mapping[str, Any]) -> dict[str, str]:
    """The `uri` parameter for module NAME, if it takes one."""
    speaks_to_libvirt = name.startswith("vm_") or (name == "storage_capacity_info" and "pools" in params)
    return {"uri": hv.uri} if speaks_to_libvirt else {}
