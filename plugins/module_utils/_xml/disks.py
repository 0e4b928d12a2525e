# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What XML of libvirt's says of the disks of a domain."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document


@dataclass(frozen=True)
class ChainLink:
    """One ``<backingStore>``: the source of a backing file and its format; *index* is libvirt's name for it in the XML
    of a running domain, the 3 of ``vda[3]``. *block*: it is a block device. *volume*: the pool and the name of one."""

    path: str | None
    format: str | None
    index: str | None = field(default=None, compare=False)
    block: bool = field(default=False, compare=False)
    volume: tuple[str, str] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DiskElement:
    """A ``<disk>`` as the XML has it.

    *source* is the path of a file or block device, None for other source types and for an empty drive. *format* is
    the driver type; libvirt takes raw where the XML says nothing. *chain* is what the XML says of the backing files:
    None where it says nothing, an empty tuple where it says that there is none. *mirror* is the destination of a block
    job, and *mirror_ready* is ``yes`` once it holds the same as the disk. *sliced*: the disk is a part of its source.
    *index* is libvirt's number of the image in a running domain. *snapshot* is what the disk says of snapshots that do
    not name it: external, internal, manual or no; None where it says nothing. *cache* is how QEMU opens it, *discard*
    what it does with what the guest discards: unmap or ignore.
    """

    target: str
    bus: str | None
    device: str
    type: str
    source: str | None
    format: str
    pool: str | None
    volume: str | None
    readonly: bool
    shareable: bool
    transient: bool
    encrypted: bool
    chain: tuple[ChainLink, ...] | None
    mirror: str | None
    mirror_ready: str | None = None
    sliced: bool = False
    index: str | None = None
    snapshot: str | None = None
    cache: str | None = None
    discard: str | None = None


def disks(xml: str) -> tuple[DiskElement, ...]:
    """The disks of a domain's XML, in its order, cdroms and floppies included."""
    return tuple(disk(element) for element in _document.parse(xml).iterfind("./devices/disk"))


def snapshot_disks(xml: str) -> tuple[DiskElement, ...]:
    """The disks of the domain that a snapshot's XML carries: what a revert would bring back."""
    return tuple(disk(element) for element in _document.parse(xml).iterfind("./domain/devices/disk"))


def internal_snapshot(xml: str) -> str | None:
    """The name of a snapshot whose XML says that it is inside of an image; None for one that is not."""
    root = _document.parse(xml)
    inside = root.find("./disks/disk[@snapshot='internal']") is not None
    return t.cast("str | None", root.findtext("./name")) if inside else None


def has_own_user(xml: str) -> bool:
    """Whether the domain says itself as which user and group its QEMU runs."""
    return _document.parse(xml).find("./seclabel[@model='dac']") is not None


def disk(element: t.Any) -> DiskElement:
    """What a ``<disk>`` says."""
    source = element.find("source")
    driver = element.find("driver")
    target = element.find("target")
    mirror = element.find("mirror")
    return DiskElement(
        target=target.get("dev", "") if target is not None else "",
        bus=target.get("bus") if target is not None else None,
        device=element.get("device", "disk"),
        type=element.get("type", "file"),
        source=source_file(source),
        format=(driver.get("type") if driver is not None else None) or "raw",
        pool=source.get("pool") if source is not None else None,
        volume=source.get("volume") if source is not None else None,
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        transient=element.find("transient") is not None,
        encrypted=element.find("encryption") is not None or element.find("source/encryption") is not None,
        chain=_chain(element),
        mirror=source_file(mirror.find("source")) or mirror.get("file", "") if mirror is not None else None,
        mirror_ready=mirror.get("ready") if mirror is not None else None,
        sliced=element.find("source/slices") is not None,
        index=source.get("index") if source is not None else None,
        snapshot=element.get("snapshot"),
        cache=driver.get("cache") if driver is not None else None,
        discard=driver.get("discard") if driver is not None else None,
    )


def source_file(source: t.Any) -> str | None:
    """The file, or the block device, that a ``<source>`` names."""
    if source is None:
        return None
    path = source.get("file") or source.get("dev")
    return t.cast("str | None", path)


def source_volume(source: t.Any) -> tuple[str, str] | None:
    """The storage pool, and the volume in it, that a ``<source>`` names."""
    if source is None or not source.get("pool") or not source.get("volume"):
        return None
    return source.get("pool"), source.get("volume")


def _chain(element: t.Any) -> tuple[ChainLink, ...] | None:
    links = []
    store = element.find("backingStore")
    if store is None:
        return None
    while store is not None and store.get("type"):
        form = store.find("format")
        image_format = form.get("type") if form is not None else None
        is_block = store.get("type") == "block"
        source = store.find("source")
        volume = source_volume(source) if store.get("type") == "volume" else None
        links.append(ChainLink(source_file(source), image_format, store.get("index"), is_block, volume))
        store = store.find("backingStore")
    return tuple(links)
