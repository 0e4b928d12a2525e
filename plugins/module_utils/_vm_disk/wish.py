# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of the disks of domains."""

from __future__ import annotations

import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import (
    absolute,
    overcommit_from,
    search_paths_from,
)
from ansible_collections.kvmops.disk.plugins.module_utils._xml.document import require_expressible
from ansible_collections.kvmops.disk.plugins.module_utils._xml.tuning import PROPERTIES, Tuning, rates

#: The letters that the targets of disks on a bus begin with.
PREFIXES = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
#: The bytes that a serial number has at most, by bus: QEMU cuts off the rest (virtio), or refuses it.
_LONGEST_SERIAL = {"virtio": 20, "ide": 20, "sata": 20}
_TARGET = r"(?P<prefix>vd|sd|hd)[a-z]{1,3}"
#: What says how an image is to be, besides its path and format.
IMAGE_OPTIONS = (
    *("size", "preallocation", "allocation", "cluster_size", "backing_file", "backing_format", "encryption"),
)
_COUNTED = ("total_iops", "read_iops", "write_iops")
_IN_BYTES = ("total_bytes", "read_bytes", "write_bytes")


@dataclass(frozen=True)
class DiskWish:
    """A disk that a task wants of the domain *name*, or wants gone.

    *disk* is its target, None where the task leaves that open. *path* is its image, empty for an empty drive, None
    where the task names a *volume* of a pool, or nothing. *format* is None where the task leaves that open, and *image*
    says the rest of the image. *secret* is the UUID of libvirt's secret that opens it.
    *live*: a running machine gets, or loses, it at once. *timeout*: seconds for the guest to let it go.
    """

    name: str
    present: bool = True
    disk: str | None = None
    bus: str | None = None
    device: str | None = None
    path: str | None = None
    volume: tuple[str, str] | None = None
    format: str | None = None
    image: t.Mapping[str, t.Any] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    secret: str | None = None
    live: bool = True
    force: bool = False
    timeout: float = 60.0
    remove_image: bool = False

    @property
    def names_source(self) -> bool:
        """Whether the task says what the image is."""
        return self.path is not None or self.volume is not None

    def __str__(self) -> str:
        what = self.disk or self.path or (self.volume and "/".join(self.volume)) or "a disk"
        return f"{what} of {self.name}"


def wishes_from(params: t.Mapping[str, t.Any]) -> tuple[DiskWish, ...]:
    """The wishes that the parameters express. Raises InvalidRequest where one of them contradicts itself, or two of
    them are about one disk."""
    search_paths_from(params)
    overcommit_from(params)
    shared = {name: params[name] for name in ("force", "timeout", "live")}
    if shared["timeout"] <= 0:
        raise InvalidRequest(f"timeout: {shared['timeout']:g} is not a time: give seconds")
    given = params["disks"] if params["disks"] is not None else [params]
    wishes = tuple(_wish(one, shared) for one in given)
    _require_different(wishes)
    return wishes


def image_params(wish: DiskWish, path: str, image_format: str, params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """What qcow2_image would be asked for the image of *wish*, at *path*."""
    shared = {name: params[name] for name in ("max_overcommit", "search_paths", "trusted")}
    fixed = {"shrink": False, "rebase": "safe", "align_size": False, "nocow": False}
    return {**wish.image, **shared, **fixed, "path": path, "format": image_format}


def _wish(given: t.Mapping[str, t.Any], shared: t.Mapping[str, t.Any]) -> DiskWish:
    path, pool, volume = given["path"], given["pool"], given["volume"]
    wish = DiskWish(
        name=given["name"],
        present=given["state"] == "present",
        disk=given["disk"],
        bus=given["bus"],
        device=given["device"],
        path=absolute(path, "path") if path else path,
        volume=(pool, volume) if pool is not None and volume is not None else None,
        format=given["format"],
        image={name: given[name] for name in IMAGE_OPTIONS},
        tuning=Tuning(**{name: given[name] for name in PROPERTIES}, throttle=throttle_from(given["throttle"])),
        secret=given["libvirt_secret"],
        remove_image=given["remove_image"],
        **shared,
    )
    _require_valid(wish)
    return wish


def throttle_from(given: t.Mapping[str, t.Any] | None) -> dict[str, int | str]:
    """The limits of a task in the names of libvirt's ``<iotune>``. Raises InvalidRequest where QEMU has no such."""
    limits: dict[str, int | str] = {}
    for name, value in (given or {}).items():
        if value is None:
            continue
        what = f"throttle: {name}"
        if name == "group":
            require_expressible(value, what)
            limits["group_name"] = value
        elif name == "size_iops":
            limits["size_iops_sec"] = _bytes(value, what)
        else:
            rate = next(one for one in (*_IN_BYTES, *_COUNTED) if name.startswith(one))
            in_bytes = rate in _IN_BYTES and not name.endswith("_length")
            limits[f"{rate}_sec{name[len(rate) :]}"] = _bytes(value, what) if in_bytes else _count(value, what)
    for kind in ("bytes", "iops"):
        apart = [way for way in ("read", "write") if limits.get(f"{way}_{kind}_sec")]
        if limits.get(f"total_{kind}_sec") and apart:
            raise InvalidRequest(
                f"throttle: total_{kind} and {apart[0]}_{kind} exclude each other: limit both directions together, or "
                "each of them"
            )
    return limits


def require_whole_limits(limits: t.Mapping[str, int | str]) -> None:
    """Raises InvalidRequest where a burst belongs to no limit, or is less than it, or a length to no burst."""
    for rate in rates():
        limit, burst, length = (int(limits.get(f"{rate}{end}", 0)) for end in ("", "_max", "_max_length"))
        name = f"throttle: {rate.replace('_sec', '')}"
        if burst and not limit:
            raise InvalidRequest(f"{name}_max: a burst goes beyond a limit, and there is none: give {name[10:]}, too")
        if burst and burst < limit:
            raise InvalidRequest(f"{name}_max: {burst} is less than the limit of {limit}: give more, or 0 for no burst")
        if length and not burst:
            raise InvalidRequest(f"{name}_max_length: belongs to a burst, and there is none: give {name[10:]}_max, too")


def _bytes(value: str, what: str) -> int:
    return int(value) if value.isdecimal() and value.isascii() else parse_size(value, what)


def _count(value: int, what: str) -> int:
    if value < 0:
        raise InvalidRequest(f"{what}: {value} is less than nothing: give a number, or 0 for no limit")
    return value


def _require_valid(wish: DiskWish) -> None:
    """Raises InvalidRequest where no world could grant the wish."""
    _require_target(wish)
    if wish.present:
        _require_consistent(wish)
    elif wish.disk is None and not (wish.path or wish.volume):
        raise InvalidRequest(
            f"state: absent: {wish.name}: says neither which disk nor which image: give disk, path, or pool and volume"
        )
    if wish.remove_image and wish.present:
        raise InvalidRequest("remove_image: goes with state=absent: leave it out")
    if wish.remove_image and not (wish.path or wish.volume):
        raise InvalidRequest("remove_image: says not which image: give path, or pool and volume, besides it")
    if wish.remove_image and not wish.live:
        raise InvalidRequest(
            "remove_image: excludes live=false: a running guest keeps its disk until it goes off: detach it live, or "
            "remove the image in a later task"
        )
    for name, value in (("path", wish.path), ("serial", wish.tuning.serial)):
        if value:
            require_expressible(value, name)


def _require_target(wish: DiskWish) -> None:
    if wish.disk is None:
        return
    match = re.fullmatch(_TARGET, wish.disk)
    if match is None:
        raise InvalidRequest(f"disk: {wish.disk!r} is not the target of a disk: give one such as vdb, sda or hdc")
    if wish.bus is not None and PREFIXES[wish.bus] != match["prefix"]:
        raise InvalidRequest(
            f"disk: {wish.disk} is not on bus {wish.bus}, whose targets begin with {PREFIXES[wish.bus]}: leave out bus "
            "or disk, or give another"
        )


def _require_consistent(wish: DiskWish) -> None:
    if wish.disk is None and not (wish.path or wish.volume):
        raise InvalidRequest(
            f"state: present: {wish.name}: says neither which disk nor which image: give disk, path, or pool and volume"
        )
    given = [name for name in IMAGE_OPTIONS if wish.image[name] is not None]
    if given and (wish.path == "" or wish.device == "cdrom"):
        raise InvalidRequest(f"{given[0]}: a cdrom has no image that is made or changed: leave {given[0]} out")
    if wish.path == "" and wish.device == "disk":
        raise InvalidRequest("path: only a cdrom can be empty: give the image, or device=cdrom")
    if wish.image["encryption"] is not None and wish.secret is None:
        raise InvalidRequest(
            "encryption: libvirt opens the image for the guest, by a secret of its own: give libvirt_secret, the UUID "
            "of that (virsh secret-define)"
        )
    bus, serial = wish.bus or "virtio", wish.tuning.serial or ""
    if len(serial.encode()) > _LONGEST_SERIAL.get(bus, 36):
        raise InvalidRequest(
            f"serial: {serial!r} has {len(serial.encode())} bytes, and a disk on bus {bus} has at most "
            f"{_LONGEST_SERIAL.get(bus, 36)}: choose a shorter one"
        )
    for name, least in (("boot_order", 0), ("iothread", 0)):
        value = getattr(wish.tuning, name)
        if value is not None and value < least:
            raise InvalidRequest(f"{name}: {value} is less than nothing: give a number, or 0 for none")


def _require_different(wishes: t.Sequence[DiskWish]) -> None:
    targets = [(wish.name, wish.disk) for wish in wishes if wish.disk is not None]
    sources = [(wish.name, wish.path or "/".join(wish.volume or ())) for wish in wishes if wish.path or wish.volume]
    for known in (targets, sources):
        twice = next((one for one in known if known.count(one) > 1), None)
        if twice is not None:
            raise InvalidRequest(f"disks: {twice[1]} of {twice[0]} is in the list twice: give each disk once")
