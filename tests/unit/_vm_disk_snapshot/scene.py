# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain with one disk on two overlays over an image, and the snapshots of these."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk_snapshot.decision_found import Chains, Observed
from ansible_collections.kvmops.disk.plugins.module_utils._xml import snapshots as _snapshots
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import Record, RecordedDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml.snapshots import DomainSnapshot
from unit import samples

BASE, ONE, TWO = "/images/vm.raw", "/images/vm.s1.qcow2", "/images/vm.s2.qcow2"
LINKS = (ChainLink(TWO, "qcow2"), ChainLink(ONE, "qcow2"), ChainLink(BASE, "raw"))
CHAINS: Chains = MappingProxyType({"vda": LINKS})
ELEMENT = samples.element(TWO, "qcow2")


def disk(**element: Any) -> DomainDisk:
    return samples.disk(replace(ELEMENT, **element))


def state(*disks: DomainDisk, **fields: Any) -> DomainState:
    return samples.domain(*(disks or (disk(),)), **fields)


def domain_xml(source: str, image_format: str, backing: str = "") -> str:
    return (
        "<domain type='qemu'><name>vm</name><devices><disk type='file' device='disk'>"
        f"<driver name='qemu' type='{image_format}'/><source file='{source}'/>{backing}<target dev='vda' bus='virtio'/>"
        "</disk></devices></domain>"
    )


def snapshot(
    name: str,
    overlay: str,
    image: str,
    image_format: str = "qcow2",
    *,
    parent: str = "",
    date: int = 0,
    backing: str = "",
) -> DomainSnapshot:
    return _snapshots.snapshot(
        f"<domainsnapshot><name>{name}</name>"
        + (f"<parent><name>{parent}</name></parent>" if parent else "")
        + f"<creationTime>{date}</creationTime><state>shutoff</state><memory snapshot='no'/><disks>"
        f"<disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='{overlay}'/></disk>"
        f"</disks>{domain_xml(image, image_format, backing)}</domainsnapshot>"
    )


FIRST = snapshot("s1", ONE, BASE, "raw")
SECOND = snapshot("s2", TWO, ONE, parent="s1", date=1)


def observed(
    *disks: DomainDisk, chains: Chains = CHAINS, snapshots: tuple[DomainSnapshot, ...] = (FIRST, SECOND), **fields: Any
) -> Observed:
    """What is found of the domain with DISKS, or the usual one."""
    return Observed(**{"state": state(*disks), "chains": chains, "snapshots": snapshots, **fields})


def record(change: str, *disks: RecordedDisk, **fields: Any) -> Record:
    usual = Record("disk-snapshot", "live", "2024-01-01T00:00:00+00:00", True, False, disks, "7", "s1", change)
    return replace(usual, **fields)
