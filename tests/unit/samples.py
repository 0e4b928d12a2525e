# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and domains as plain facts, for tests of decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement

MIB = 1 << 20
# When the runs began of which records tell.
YESTERDAY = "2026-01-02T03:04:05+00:00"

#: A door that nobody may go through: a decision runs no command.
NO_QEMU_IMG = QemuImg("/nonexistent/qemu-img")


def qcow2(path: str = "/images/web.qcow2", **facts: Any) -> Image:
    """A plain qcow2 image of 10 MiB, but for FACTS."""
    usual: dict[str, Any] = {
        "format": "qcow2",
        "virtual_size": 10 * MIB,
        "actual_size": 196 * 1024,
        "cluster_size": 65536,
        "compat": "1.1",
        "lazy_refcounts": False,
        "refcount_bits": 16,
        "extended_l2": False,
        "compression_type": "zlib",
    }
    return Image(path=path, **{**usual, **facts})


def raw(path: str = "/images/web.raw", **facts: Any) -> Image:
    """A raw image of 10 MiB, but for FACTS."""
    return Image(path=path, **{"format": "raw", "virtual_size": 10 * MIB, "actual_size": 0, **facts})


def snapshot(name: str = "before", virtual_size: int = 10 * MIB) -> Snapshot:
    return Snapshot("1", name, "2024-01-01T00:00:00+00:00", 0, virtual_size)


def element(source: str | None = "/images/vm.raw", image_format: str = "raw", **facts: Any) -> DiskElement:
    """The disk vda of a domain's XML, on SOURCE, but for FACTS."""
    usual = DiskElement(
        target="vda",
        bus="virtio",
        device="disk",
        type="file",
        source=source,
        format=image_format,
        pool=None,
        volume=None,
        readonly=False,
        shareable=False,
        transient=False,
        encrypted=False,
        chain=None,
        mirror=None,
    )
    return replace(usual, **facts)


def disk(defined: DiskElement | None, live: DiskElement | None = None) -> DomainDisk:
    """A disk as the definition and the running domain have it; one of them has."""
    counts = live or defined
    assert counts is not None
    return DomainDisk(counts.target, counts.source, defined, live)


def domain(*disks: DomainDisk, **facts: Any) -> DomainState:
    """A domain that is off, with DISKS, but for FACTS."""
    usual = DomainState(
        name="vm",
        uuid="u",
        state="shut off",
        active=False,
        persistent=True,
        managed_save=False,
        snapshots=(),
        checkpoints=(),
        busy=False,
        definition="<domain/>",
        disks=disks,
        record=None,
    )
    return replace(usual, **facts)


class Recorder:
    """Hands of any kind that only note what they are asked to do; what FAILS raises DiskError."""

    def __init__(self, fails: str | None = None) -> None:
        self.calls: list[str] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def do(*_arguments: Any) -> None:
            self.calls.append(name)
            if name == self.fails:
                raise DiskError(name)

        return do


def noted(found: DomainState, notes: Mapping[str, dict[str, Any]]) -> Callable[[str], dict[str, Any] | None]:
    """What stands beside images, as NOTES say, and as the run noted it that wrote the record of FOUND."""
    record = found.record
    confirming = {
        path: {"verb": record and record.verb, "domain": found.uuid, "source": disk.source, "dest": disk.dest}
        for disk in (record.disks if record else ())
        for path in (disk.source, disk.dest)
    }
    return lambda path: {**confirming.get(path, {}), **notes.get(path, {})} or None
