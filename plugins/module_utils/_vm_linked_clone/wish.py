# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of clones: their names and numbers, their images, how these are made."""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import ALLOCATIONS
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import (
    absolute,
    overcommit_from,
    search_paths_from,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

LINKED, FULL, REFLINK = "linked", "full", "reflink"

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: libvirt and QEMU write NAME.xml, NAME.log and the like.
_LONGEST_NAME = 255 - len(".snapshot-000.xml")


@dataclass(frozen=True)
class CloneSpec:
    """One clone of the list; None, or nothing, where the task leaves it. *memory* and *sizes* in bytes.

    *seed* is the path of a file for a drive of its own.
    """

    name: str
    uuid: str | None = None
    macs: tuple[str, ...] = ()
    memory: int | None = None
    vcpus: int | None = None
    description: str | None = None
    metadata: str | None = None
    sizes: t.Mapping[str, int] = field(default_factory=dict)
    seed: str | None = None

    @classmethod
    def parse(cls, given: t.Mapping[str, t.Any], sizes: t.Mapping[str, t.Any]) -> CloneSpec:
        """The clone that an entry of the list asks for; *sizes* are those of the task. Raises InvalidRequest."""
        name = given["name"]
        require_name(name)
        memory = given.get("memory")
        vcpus = given.get("vcpus")
        if vcpus is not None and vcpus < 1:
            raise InvalidRequest(f"{name}: vcpus: {vcpus} is not a number of virtual CPUs: give 1 or more")
        metadata = given.get("metadata")
        if metadata is not None:
            _document.fragment(metadata, f"{name}: metadata")
        macs = [given["mac"]] if given.get("mac") is not None else given.get("macs") or []
        asked = {**sizes, **(given.get("disk_sizes") or {})}
        return cls(
            name=name,
            uuid=_normal_uuid(given["uuid"], name) if given.get("uuid") is not None else None,
            macs=tuple(_normal_mac(mac, name) for mac in macs),
            memory=_whole_kib(parse_size(memory, f"{name}: memory"), name) if memory is not None else None,
            vcpus=vcpus,
            description=_expressible(given.get("description"), name),
            metadata=metadata,
            sizes={target: parse_size(size, f"{name}: disk_sizes: {target}") for target, size in asked.items()},
            seed=given.get("seed"),
        )


@dataclass(frozen=True)
class CloneWish:
    """What a task wants: clones of *source*. *fallback* is the mode where the file system knows no reflinks.

    *max_overcommit* is how many times its own size a file system may promise, None for no limit. *search_paths* are
    directories in which images may lie, too.
    """

    source: str
    clones: tuple[CloneSpec, ...]
    mode: str = LINKED
    fallback: str | None = None
    disk_dir: str | None = None
    start: bool = False
    protect_base: bool = True
    preallocation: str | None = None
    cluster_size: int | None = None
    unique_serials: bool = False
    vtpm: str = "refuse"
    seed_bus: str = "sata"
    trusted: bool = False
    verify: bool = True
    max_overcommit: float | None = None
    search_paths: tuple[str, ...] = ()

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        for what, values in (
            ("names", [spec.name for spec in self.clones]),
            ("UUIDs", [spec.uuid for spec in self.clones if spec.uuid]),
            ("MAC addresses", [mac for spec in self.clones for mac in spec.macs]),
        ):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise InvalidRequest(f"clones: two of them have the same {what}: {', '.join(twice)}: give each its own")
        if any(spec.name == self.source for spec in self.clones):
            raise InvalidRequest(f"clones: {self.source} is the source itself: choose another name for its clone")
        if self.mode != REFLINK and self.fallback is not None:
            raise InvalidRequest(f"fallback: is for kind=reflink, and kind is {self.mode}: leave it out")
        if self.preallocation not in (None, "off") and self.mode != FULL:
            raise InvalidRequest(
                f"preallocation: {self.preallocation} is for full copies: a {self.mode} clone begins by sharing what "
                "its source holds, and allocates what is written: set kind=full, or leave it out"
            )
        if self.cluster_size is not None:
            if self.mode == REFLINK:
                raise InvalidRequest("cluster_size: a reflink has the cluster size of its source: leave it out")
            self.layout("qcow2").require_valid(overlay=self.mode == LINKED)

    def layout(self, image_format: str) -> Layout:
        """How a new image in that format is laid out."""
        cluster_size = self.cluster_size if image_format == "qcow2" else None
        return Layout(image_format, self.preallocation if self.mode == FULL else None, cluster_size)


def require_name(name: str) -> None:
    """Raises InvalidRequest for a name that libvirt, or a file system, refuses."""
    _document.require_expressible(name, "name")
    if not name.strip():
        raise InvalidRequest("name: a clone needs one, and it is empty or blank")
    if "/" in name or name in (".", ".."):
        raise InvalidRequest(
            f"name: {name!r} has a slash or is a directory, and libvirt makes file names of it: choose another"
        )
    if name != name.strip():
        raise InvalidRequest(f"name: {name!r} begins or ends with a blank: choose another")
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise InvalidRequest(f"name: has {len(os.fsencode(name))} bytes, and at most {_LONGEST_NAME} fit: {name}")


def _normal_mac(mac: str, name: str) -> str:
    found = mac.lower().replace("-", ":")
    if not _MAC.fullmatch(found):
        raise InvalidRequest(f"{name}: mac: {mac!r} is not a MAC address: write six pairs of hexadecimal digits")
    if int(found[:2], 16) & 1:
        raise InvalidRequest(f"{name}: mac: {mac} is a multicast address, which no interface can have: choose another")
    if found == "00:00:00:00:00:00":
        raise InvalidRequest(f"{name}: mac: {mac} is the empty address: choose another")
    return found


def _normal_uuid(uuid: str, name: str) -> str:
    found = uuid.lower()
    if not _UUID.fullmatch(found) or set(found) <= {"0", "-"}:
        raise InvalidRequest(f"{name}: uuid: {uuid!r} is not a UUID: write it as uuidgen does")
    return found


def _whole_kib(memory: int, name: str) -> int:
    if memory % 1024:
        raise InvalidRequest(f"{name}: memory: {memory} bytes are not a whole number of KiB")
    return memory


def _expressible(description: str | None, name: str) -> str | None:
    if description is not None:
        _document.require_expressible(re.sub(r"[\t\n]", " ", description), f"{name}: description")
    return description


def wish_from(params: dict[str, t.Any]) -> CloneWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    search_paths = search_paths_from(params)
    directory, allocation, cluster_size = params["disk_dir"], params["allocation"], params["cluster_size"]
    wish = CloneWish(
        max_overcommit=overcommit_from(params),
        search_paths=search_paths,
        mode=params["kind"],
        clones=tuple(_spec(given, params["disk_sizes"]) for given in params["clones"]),
        disk_dir=absolute(directory.rstrip("/") or "/.", "disk_dir") if directory is not None else None,
        preallocation=ALLOCATIONS[allocation] if allocation else params["preallocation"],
        cluster_size=parse_size(cluster_size, "cluster_size") if cluster_size is not None else None,
        **{
            name: params[name]
            for name in (
                *("source", "fallback", "start", "protect_base", "unique_serials", "vtpm", "seed_bus"),
                *("trusted", "verify"),
            )
        },
    )
    wish.require_valid()
    return wish


def _spec(given: dict[str, t.Any], sizes: dict[str, t.Any]) -> CloneSpec:
    seed = given.get("seed")
    if seed is not None:
        absolute(seed, f"{given['name']}: seed")
        _document.require_expressible(seed, f"{given['name']}: seed")
    return CloneSpec.parse(given, sizes)
