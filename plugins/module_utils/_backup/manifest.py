# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a backup says of itself: its file backup.json, written and read. Pure.

Whoever can write in a backup directory can write such a file. So no path stands in it: each file has a fixed name, or
that of its disk. What has another shape than this is refused as a whole.
"""

from __future__ import annotations

import json
import re
import typing as t
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass

#: The version of the format that this file reads and writes.
VERSION = 1
#: The names of the files of a backup that are no disks.
MANIFEST, DEFINITION, NVRAM = "backup.json", "domain.xml", "nvram"
FULL, INCREMENTAL = "full", "incremental"

#: Bytes that backup.json has at most: that of a thousand disks has a quarter of it.
LONGEST = 1 << 20
#: Disks that a domain has at most.
_MOST_DISKS = 1024
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,127}")
_TARGET = re.compile(r"[a-z][a-z0-9]{0,31}")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"kvmops-[0-9a-f]{32}")
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
#: The longest name of a domain, in characters, that is shown.
_LONGEST_TEXT = 4096


@dataclass(frozen=True)
class BackupDisk:
    """A disk of a backup.

    *kind*: full, or incremental over the same disk of the parent. *format*: that of the image that the domain had.
    *virtual_size*: the bytes that its guest saw. *tracked*: the checkpoint knows what changes in it.
    """

    target: str
    kind: str
    format: str
    virtual_size: int
    tracked: bool

    @property
    def file(self) -> str:
        """The name of its file in the directory of the backup."""
        return disk_file(self.target)


@dataclass(frozen=True)
class BackupFile:
    """A file of a backup: its length in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What backup.json says.

    *taken*: the point in time, in ISO 8601. *online*: the domain ran. *quiesced*: its file systems were frozen; None
    where it was off. *parent*: the backup below the incremental disks. *checkpoint*: from which the next backup may go
    on. *tools*: the versions of what made it.
    """

    backup: str
    domain: str
    uuid: str
    taken: str
    online: bool
    quiesced: bool | None
    parent: str | None
    checkpoint: str | None
    disks: tuple[BackupDisk, ...]
    files: t.Mapping[str, BackupFile]
    tools: t.Mapping[str, str]

    @property
    def kind(self) -> str:
        return FULL if self.parent is None else INCREMENTAL

    @property
    def bytes(self) -> int:
        """The length of all its files but backup.json."""
        return sum(file.size for file in self.files.values())

    def disk(self, target: str) -> BackupDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


def disk_file(target: str) -> str:
    """The name of the file with the disk *target*."""
    return f"{target}.qcow2"


def reference(parent: str, target: str) -> str:
    """How an incremental disk names its backing file, so that the whole directory can be moved."""
    return f"../{parent}/{disk_file(target)}"


def is_name(value: object) -> bool:
    """Whether *value* can be the name of a backup."""
    return _fits(_NAME, value)


def is_uuid(value: object) -> bool:
    """Whether *value* is the UUID of a domain as libvirt writes it."""
    return _fits(_UUID, value)


def is_target(value: object) -> bool:
    """Whether *value* can be the target of a disk, and a part of a file's name."""
    return _fits(_TARGET, value)


def is_checkpoint(value: object) -> bool:
    """Whether *value* is the name of a checkpoint that a backup of ours has made."""
    return _fits(_CHECKPOINT, value)


def now() -> str:
    """This moment, as a point in time of a backup."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def written(manifest: Manifest) -> bytes:
    """The content of backup.json."""
    facts = {
        "version": VERSION,
        **{name: getattr(manifest, name) for name in _FACTS if name not in ("version", "disks", "files", "tools")},
        "disks": [asdict(disk) for disk in manifest.disks],
        "files": {name: asdict(file) for name, file in manifest.files.items()},
        "tools": dict(manifest.tools),
    }
    return json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"


def read(content: bytes) -> Manifest:
    """What the *content* of backup.json says. Raises ValueError, with the reason in words, where it cannot be right."""
    if len(content) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} bytes")
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    if not isinstance(facts, dict):
        raise ValueError("holds no object")
    if facts.get("version") != VERSION:
        raise ValueError(f"has the version {facts.get('version')!r}, known is {VERSION}"[:200])
    if set(facts) != set(_FACTS):
        raise ValueError(f"has other keys than a backup has: {', '.join(sorted(set(facts) ^ set(_FACTS)))}"[:200])
    for name, is_right in _FACTS.items():
        if not is_right(facts[name]):
            raise ValueError(f"has an impossible {name}")
    manifest = _made(facts)
    _require_consistent(manifest)
    return manifest


def _made(facts: dict[str, t.Any]) -> Manifest:
    values = {name: facts[name] for name in _FACTS if name not in ("version", "disks", "files")}
    disks = tuple(BackupDisk(**disk) for disk in facts["disks"])
    return Manifest(**values, disks=disks, files={name: BackupFile(**one) for name, one in facts["files"].items()})


def _require_consistent(manifest: Manifest) -> None:
    """Raises ValueError where one fact contradicts another."""
    targets = [disk.target for disk in manifest.disks]
    if len({*targets}) < len(targets):
        raise ValueError("names a disk twice")
    wanted = {DEFINITION, *(disk.file for disk in manifest.disks)}
    if not wanted <= set(manifest.files) <= {*wanted, NVRAM}:
        raise ValueError("has other files than its disks and the definition")
    if (manifest.parent is not None) != any(disk.kind == INCREMENTAL for disk in manifest.disks):
        raise ValueError("has a parent without an incremental disk, or such a disk without a parent")
    if manifest.parent == manifest.backup:
        raise ValueError("is its own parent")
    if manifest.checkpoint is None and any(disk.tracked for disk in manifest.disks):
        raise ValueError("has a tracked disk without a checkpoint")


def _fits(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_bytes(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_date(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _has_shape(value: object, shape: t.Mapping[str, t.Callable[[t.Any], bool]]) -> bool:
    return isinstance(value, dict) and set(value) == set(shape) and all(shape[key](value[key]) for key in shape)


def _are_disks(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MOST_DISKS and all(_has_shape(disk, _DISK) for disk in value)


def _are_files(value: object) -> bool:
    return isinstance(value, dict) and all(_has_shape(file, _FILE) for file in value.values())


def _are_tools(value: object) -> bool:
    return isinstance(value, dict) and len(value) < 16 and all(_fits(_WORD, x) for pair in value.items() for x in pair)


def _or_none(is_right: t.Callable[[t.Any], bool]) -> t.Callable[[t.Any], bool]:
    return lambda value: value is None or is_right(value)


_DISK: t.Mapping[str, t.Callable[[t.Any], bool]] = {
    "target": is_target,
    "kind": lambda value: value in (FULL, INCREMENTAL),
    "format": lambda value: _fits(_WORD, value),
    "virtual_size": _is_bytes,
    "tracked": _is_bool,
}
_FILE: t.Mapping[str, t.Callable[[t.Any], bool]] = {
    "size": _is_bytes,
    "sha256": lambda value: _fits(_SHA256, value),
}
#: The facts of a backup, and what each looks like.
_FACTS: t.Mapping[str, t.Callable[[t.Any], bool]] = {
    "version": _is_bytes,
    "backup": is_name,
    "domain": _is_text,
    "uuid": is_uuid,
    "taken": _is_date,
    "online": _is_bool,
    "quiesced": _or_none(_is_bool),
    "parent": _or_none(is_name),
    "checkpoint": _or_none(is_checkpoint),
    "disks": _are_disks,
    "files": _are_files,
    "tools": _are_tools,
}
