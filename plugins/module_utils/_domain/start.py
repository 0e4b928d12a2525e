# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The start of a domain: whether all is there that it needs, looked at before the domain goes off, and the start."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, DomainIsOff, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._host import devices as _devices
from ansible_collections.kvmops.disk.plugins.module_utils._image.links import Links
from ansible_collections.kvmops.disk.plugins.module_utils._usage.sources import source
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import needs as _needs

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.needs import Needs


def require_startable(hypervisor: Hypervisor, name: str, definition: str, exchanged: t.Container[str] = ()) -> None:
    """Raises DiskError where the domain called *name* could not be started with its *definition* once it is off
    (HAZARDS G23).

    *exchanged* are the targets of disks that get other images meanwhile. Facts: ``missing``, in words.
    """
    missing = lacking(hypervisor, definition, exchanged)
    if missing:
        raise DiskError(
            f"{name}: could not be started again, as its definition needs what is not there: {'; '.join(missing)}: "
            "put that back, or take it out of the definition (virsh edit): the domain was left as it is",
            missing=missing,
        )


def lacking(hypervisor: Hypervisor, definition: str, exchanged: t.Container[str] = ()) -> list[str]:
    """What a start with that *definition* needs and is known to be missing, in words."""
    optional = _needs.optional_disks(definition)
    disks = [disk for disk in _disks.disks(definition) if disk.target not in optional and disk.target not in exchanged]
    found = [one for disk in disks for one in _lacking_of_disk(hypervisor, disk)]
    needs = _needs.needs(definition)
    return list(dict.fromkeys([*found, *_lacking_of_host(needs), *_lacking_of_libvirt(hypervisor, needs)]))


def start(domain: ActingDomain) -> None:
    """Starts a domain, unless somebody was faster. Raises LibvirtFailed, also where it goes off again at once."""
    if not domain.is_active():
        domain.start()
    if not domain.is_active():
        raise LibvirtFailed(f"{domain.name}: went off right after its start: see QEMU's log of the domain")


def start_again(hypervisor: Hypervisor, domain: ActingDomain) -> None:
    """Starts a domain that ran before this task, or one that died, unless somebody was faster.

    Raises DomainIsOff where it cannot be started, or goes off again at once.
    """
    try:
        start(domain)
    except LibvirtFailed as error:
        missing = lacking(hypervisor, domain.xml(inactive=True))
        reason = f": it needs what is not there: {'; '.join(missing)}" if missing else ""
        raise DomainIsOff(
            f"the domain is off: {error}{reason}: put right what keeps it from its start, then run this task again, "
            f"or start it (virsh start {domain.name})",
            missing=missing,
            **error.facts,
        ) from error


def _lacking_of_disk(hypervisor: Hypervisor, disk: DiskElement) -> t.Iterator[str]:
    """Those files of a disk that are missing: its image, those below it, and those that hold their data."""
    path = source(disk, hypervisor).path
    if path is None and disk.volume is not None and hypervisor.lack("storage pool", str(disk.pool)) is None:
        yield f"the storage volume {disk.pool}/{disk.volume} of {disk.target}"
    if path is None or not os.path.isabs(path):
        return
    chain = disk.chain
    below = Links().of(path, disk.format) if chain is None else ((link.path, link.format) for link in chain)
    for file, image_format in ((path, disk.format), *below):
        if file is None or not os.path.isabs(file):
            continue
        part = f"the image of {disk.target}" if file == path else f"the backing file of {disk.target}"
        if _devices.is_missing(file):
            yield f"{part} {file}" if disk.device == "disk" else f"the medium of the {disk.device} {disk.target} {file}"
            return
        for data in _data_files(file, image_format):
            if _devices.is_missing(data):
                yield f"the data file of {disk.target} {data}"


def _data_files(path: str, image_format: str | None) -> list[str]:
    """The files that hold the data of an image; none where it cannot be read."""
    if image_format in (None, "raw"):
        return []
    try:
        with _headers.open_image(path) as stream:
            names = _headers.references(stream, str(image_format), path).data_files
    except (DiskError, OSError):
        return []
    return [resolved for name in names if (resolved := _headers.resolve(name, path)) is not None]


def _lacking_of_host(needs: Needs) -> t.Iterator[str]:
    """What the host does not have."""
    yield from (f"{what} {path}" for path, what in needs.files if os.path.isabs(path) and _devices.is_missing(path))
    for path, template in needs.templates:
        if _devices.is_missing(path) and _devices.is_missing(template):
            yield f"the template {template} of the firmware's variables {path}"
    yield from (f"the PCI device {name}" for name in needs.pci if _devices.lacks_device("pci", name))
    yield from (f"the mediated device {name}" for name in needs.mediated if _devices.lacks_device("mdev", name))
    yield from (
        f"the USB device {vendor}:{product}"
        for vendor, product in needs.usb
        if _devices.lacks_usb_device(vendor, product)
    )


def _lacking_of_libvirt(hypervisor: Hypervisor, needs: Needs) -> t.Iterator[str]:
    """What libvirt does not have, or not ready; of interfaces it may only know those that somebody has configured."""
    for kind, name in needs.offered:
        lack = hypervisor.lack(kind, name)
        if lack is not None and (kind != "interface" or _devices.lacks_interface(name)):
            yield f"the {kind} {name} ({lack})"
