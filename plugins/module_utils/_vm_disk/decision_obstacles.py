# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What forbids to attach, to tune or to detach a disk. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain.ready import require_quiet
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import difference_in_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import require_whole_limits
from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import limited

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.decision import Spot
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_disk.wish import DiskWish
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.machine import Machine
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import Tuning

#: The buses to and from which disks come and go while the machine runs.
_PLUGGABLE = ("virtio", "scsi", "usb")
_DIRECT = ("none", "directsync")


def require_changeable(state: DomainState) -> None:
    """Raises DiskError where the domain has no definition that counts, or is on the move."""
    require_quiet(
        replace(state, checkpoints=()), (), "a change of its disks", "which would resume with the disks that it had"
    )


def require_pluggable(state: DomainState, target: str, bus: str, *, to_do: str) -> None:
    """Raises DiskError where no disk comes to, or goes from, that bus while the machine runs (HAZARDS L8)."""
    if bus not in _PLUGGABLE:
        raise DiskError(
            f"{state.name}: {target}: asked to {to_do} it while the machine runs, which a disk on bus {bus} does not "
            "know: set live=false to have it so at the next start, or choose bus virtio or scsi"
        )


def require_port(state: DomainState, target: str, machine: Machine, taken: int) -> None:
    """Raises DiskError where the running machine has no port for one more device; *taken* are those that other disks
    of the task get."""
    if machine.free_ports is None or machine.free_ports > taken:
        return
    missing = taken + 1 - machine.free_ports
    raise DiskError(
        f"{state.name}: {target}: the running machine has no free PCIe port for it ({machine.free_ports} free, "
        f"{taken + 1} needed): add {missing} of <controller type='pci' model='pcie-root-port'/> to its definition "
        "(virsh edit) and restart it, set live=false to have the disk at the next start, or use bus scsi on a "
        "controller that is there",
        missing_ports=missing,
    )


def require_tunable(state: DomainState, spot: Spot, machine: Machine, tuning: Tuning, wanted: Tuning) -> None:
    """Raises DiskError where libvirt or QEMU could not use the disk as *wanted*; *tuning* is what comes of that."""
    what = f"{state.name}: {spot.target}"
    if tuning.io == "native" and tuning.cache not in _DIRECT:
        raise InvalidRequest(
            f"{what}: io=native works past the cache of the host, and cache is {tuning.cache}: set cache=none or "
            "directsync, too"
        )
    if tuning.shareable and spot.format != "raw":
        raise InvalidRequest(
            f"{what}: a {spot.format} image cannot be written by several guests, and shareable says so: use a raw one"
        )
    if tuning.iothread:
        if spot.bus != "virtio":
            raise InvalidRequest(
                f"{what}: iothread: a disk on bus {spot.bus} has none: use bus virtio, or leave it out"
            )
        if tuning.iothread not in machine.iothreads:
            known = ", ".join(str(one) for one in sorted(machine.iothreads)) or "none"
            raise DiskError(
                f"{what}: iothread: the domain has no thread {tuning.iothread} (it has {known}): add it first "
                f"(virsh iothreadadd {state.name} {tuning.iothread} --config)"
            )
    require_whole_limits(limited(tuning.throttle, {}))
    if wanted.boot_order:
        _require_bootable(what, spot, machine, wanted.boot_order)


def _require_bootable(what: str, spot: Spot, machine: Machine, order: int) -> None:
    if machine.boots_by_kind:
        raise DiskError(
            f"{what}: boot_order: the definition says by <boot dev='hd'/> from which kind of device it boots, which "
            "excludes an order of the devices: remove that first (virsh edit), and give all devices that it is to boot "
            "from an order"
        )
    other = machine.boot_orders.get(order)
    if other is not None and other != spot.target:
        raise DiskError(
            f"{what}: boot_order: {order} is that of {other}: give that another one first, or choose another"
        )


def require_encryption_known(what: str, path: str, secret: str | None, *, encrypted: bool) -> None:
    """Raises DiskError where the guest could not open the image, or would read its ciphers."""
    if encrypted and secret is None:
        raise DiskError(
            f"{what}: {path}: is encrypted, and libvirt needs the secret to open it: give libvirt_secret, the UUID "
            "of a secret of libvirt (virsh secret-define)",
            path=path,
        )
    if secret is not None and not encrypted:
        raise DiskError(
            f"{what}: {path}: is not encrypted, and the task gives libvirt_secret: leave that out", path=path
        )


def require_no_job(state: DomainState, target: str, jobs: t.Sequence[str]) -> None:
    """Raises DiskError where a block job runs on the disk."""
    if target in jobs:
        raise DiskError(
            f"{state.name}: a block job runs on {target}: wait until it is over, or end it with virsh blockjob --abort",
            block_jobs=[target],
        )


def require_leavable(state: DomainState, found: DomainDisk, wish: DiskWish, snapshots: t.Sequence[str]) -> None:
    """Raises DiskError where something else than the guest still needs the disk. *snapshots* are those that have it."""
    require_changeable(state)
    target = found.target
    if found.problem is not None:
        raise DiskError(f"{state.name}: {target}: {found.problem}")
    if snapshots:
        raise DiskError(
            f"{state.name}: {target}: is in {len(snapshots)} snapshot(s) of the domain ({', '.join(snapshots)}), which "
            "could not be reverted to without it: delete them first",
            snapshots=list(snapshots),
        )
    if state.checkpoints and found.element.device == "disk":
        raise DiskError(
            f"{state.name}: has checkpoints ({', '.join(state.checkpoints)}), whose bitmaps would stay in the image of "
            f"{target}: delete them first"
        )
    pair = difference_in_source(found)
    if pair is not None and wish.live and found.element.device == "disk":
        live, defined = pair
        raise DiskError(
            f"{state.name}: {target}: the guest has {live.source}, and the definition names {defined.source}: asked to "
            "detach one disk: bring the two together first, by a restart or with virsh"
        )
    if state.active and wish.live and found.live is not None:
        require_pluggable(state, target, found.element.bus or "", to_do="detach")


def require_unneeded(
    state: DomainState, found: DomainDisk, machine: Machine, mounted: t.Sequence[str], wish: DiskWish
) -> None:
    """Raises DiskError where the guest boots from the disk, or has it *mounted*, unless the task forces it."""
    if wish.force or found.element.device != "disk":
        return
    if mounted:
        raise DiskError(
            f"{state.name}: {found.target}: is mounted in the guest at {', '.join(mounted)}: unmount it there first, "
            "or set force=true",
            mounted=list(mounted),
        )
    if _boots_from(state, found.target, machine):
        raise DiskError(
            f"{state.name}: {found.target}: is what the domain boots from: name another disk, or set force=true"
        )


def _boots_from(state: DomainState, target: str, machine: Machine) -> bool:
    if machine.has_kernel:
        return False
    if machine.boot_orders:
        return machine.boot_orders[min(machine.boot_orders)] == target
    disks = [disk.target for disk in state.disks if disk.defined is not None and disk.element.device == "disk"]
    return machine.boots_by_kind and disks[:1] == [target]
