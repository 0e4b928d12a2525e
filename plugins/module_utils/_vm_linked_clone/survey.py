# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The domains: the one that is cloned, and all others, each looked at once."""

from __future__ import annotations

import os
import stat
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._domain import domain as _domain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import is_missing_domain
from ansible_collections.kvmops.disk.plugins.module_utils._usage import sources as _sources
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_source as _decision_source
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import (
    Neighbour,
    NeighbourDisk,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import Source, SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._domain.domain import DomainDisk, DomainState
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneWish


def look_at_source(hypervisor: Hypervisor, qemu_img: QemuImg, wish: CloneWish) -> Source:
    """The domain that is cloned. Raises DiskError where it cannot be."""
    state = _domain.observe(hypervisor, hypervisor.domain(wish.source))
    _decision_source.require_clonable(state, wish)
    disks = tuple(_disk(state, disk, qemu_img, wish.trusted) for disk in _decision_source.own_disks(state, wish))
    return Source(state, _identity.looks(state.definition), disks)


def look_around(hypervisor: Hypervisor) -> list[Neighbour]:
    """All domains that libvirt knows, each asked once."""
    found = []
    for domain in hypervisor.domains():
        try:
            found.append(look_at(hypervisor, domain))
        except DiskError as error:
            if not is_missing_domain(error):
                raise
    return found


def look_at(hypervisor: Hypervisor, domain: Domain) -> Neighbour:
    """One domain. Raises LibvirtFailed where it is gone."""
    active = domain.run_number() is not None
    xml = domain.xml(inactive=True)
    found = _identity.looks(xml)
    live = _identity.looks(domain.xml(inactive=False)).macs if active else ()
    disks = []
    for element in _disks.disks(xml):
        path = _sources.source(element, hypervisor).path
        if path:
            disks.append(NeighbourDisk(element.target, path, element.format))
    return Neighbour(found, frozenset([*found.macs, *live]), active, tuple(disks), xml)


def _disk(state: DomainState, disk: DomainDisk, qemu_img: QemuImg, trusted: bool) -> SourceDisk:
    path = t.cast(str, disk.path)
    _image.require_format(path, disk.format)
    image = _image.inspect(qemu_img, path, disk.format)
    images = _disk_chain.followed(qemu_img, state, disk, image, trusted=trusted)
    block = tuple(stat.S_ISBLK(os.stat(one.path).st_mode) for one in images)
    element = _disk_changes.find_disk(_document.parse(state.definition), disk.target)
    note = None if block[0] else _base_note.look(path)
    mode = stat.S_IMODE(os.stat(path).st_mode) if note is None or note.mode is None else note.mode
    return SourceDisk(disk.target, images, block, mode, element.find("wwn") is not None)
