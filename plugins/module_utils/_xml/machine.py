# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a machine offers to a disk, as its XML says: ports, controllers, threads; and what it boots from."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: PCI controllers that take one device each, which may come while the machine runs.
_PORTS = ("pcie-root-port", "pcie-switch-downstream-port")
#: Disks that a SCSI controller takes: sixteen units without its own (virDomainDiskDefAssignAddress in libvirt).
SCSI_UNITS = 15
_AGENT = "org.qemu.guest_agent.0"


@dataclass(frozen=True)
class Machine:
    """A machine. *free_ports* for one device each; None where it has slots enough, as a machine without PCIe has.

    *iothreads* are the numbers of its threads, *scsi_controllers* those of its SCSI controllers. *boot_orders* says
    which device has which place. *boots_by_kind*: it boots from the first of its disks, not from a device by place.
    *has_kernel*: it boots none of its disks. *agent*: a guest agent is there.
    """

    pcie: bool
    free_ports: int | None
    iothreads: frozenset[int]
    scsi_controllers: frozenset[int]
    boot_orders: t.Mapping[int, str]
    boots_by_kind: bool
    has_kernel: bool
    agent: bool


def machine(xml: str) -> Machine:
    """What the domain's XML says."""
    domain = _document.parse(xml)
    controllers = domain.findall("./devices/controller")
    pcie = any(one.get("model") == "pcie-root" for one in controllers)
    channels = domain.iterfind("./devices/channel/target")
    return Machine(
        pcie=pcie,
        free_ports=_free_ports(domain, controllers) if pcie else None,
        iothreads=_iothreads(domain),
        scsi_controllers=frozenset(int(one.get("index", 0)) for one in controllers if one.get("type") == "scsi"),
        boot_orders=_boot_orders(domain),
        boots_by_kind=domain.find("./os/boot[@dev='hd']") is not None,
        has_kernel=domain.find("./os/kernel") is not None,
        agent=any(one.get("name") == _AGENT and one.get("state") == "connected" for one in channels),
    )


def scsi_controller(index: int) -> str:
    """The SCSI controller of that number which guests know best."""
    return _document.text(
        _document.element("controller", {"type": "scsi", "index": str(index), "model": "virtio-scsi"})
    )


def controller_xml(xml: str, kind: str, index: int) -> str | None:
    """The ``<controller>`` of a kind and a number in the domain's XML; None where there is none."""
    found = _document.parse(xml).find(f"./devices/controller[@type='{kind}'][@index='{index}']")
    if found is None:
        return None
    found.tail = None
    for alias in found.findall("alias"):
        _document.remove(alias)
    return _document.text(found)


def _free_ports(domain: t.Any, controllers: t.Iterable[t.Any]) -> int:
    ports = {int(one.get("index", 0)) for one in controllers if one.get("model") in _PORTS}
    taken = {int(one.get("bus", "0"), 16) for one in domain.iterfind("./devices//address[@type='pci']")}
    return len(ports - taken)


def _iothreads(domain: t.Any) -> frozenset[int]:
    named = [int(one.get("id", 0)) for one in domain.iterfind("./iothreadids/iothread")]
    count = int(domain.findtext("./iothreads") or 0)
    return frozenset(named or range(1, count + 1))


def _boot_orders(domain: t.Any) -> dict[int, str]:
    found = {}
    for boot in domain.iterfind("./devices/*/boot[@order]"):
        target = boot.getparent().find("target")
        name = target.get("dev") if target is not None else None
        found[int(boot.get("order"))] = str(name or boot.getparent().tag)
    return found
