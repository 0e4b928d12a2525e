# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of an operation on a domain's disks, as the element of ours in the domain's metadata."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

RECORD_URI = "urn:kvmops:disk:1"
SHUTDOWN_URI = "urn:kvmops:shutdown:1"
#: What only the records of some operations say.
_OPTIONAL = ("run", "snapshot", "change")
_WORD = r"[A-Za-z0-9_-]+"


@dataclass(frozen=True)
class RecordedDisk:
    """One disk in the record of an operation; all paths absolute.

    An image that is flattened stays where it is, so *source* and *dest* are the same; *below* is its backing file, and
    *base* the one of those further down that it is to have, if any. A new image has *base* as its backing file, if it
    is to have one, *options* are those that it is made with, and *block* is yes where it is a block device. Of an
    overlay that is merged into its backing file, *source* is that overlay, *dest* the file, *base* what is above it.
    """

    target: str
    source: str
    source_format: str
    dest: str
    format: str
    base: str | None = None
    below: str | None = None
    below_format: str | None = None
    options: str | None = None
    block: str | None = None


@dataclass(frozen=True)
class Record:
    """An operation in flight, as it stands in the domain's metadata. *mode*: offline or live.

    *run* is libvirt's number of the domain's run, where the operation is bound to it: another run is another guest.
    *snapshot* is the snapshot that it is about, and *change* what becomes of that: take, merge or revert.
    """

    verb: str
    mode: str
    started: str
    was_running: bool
    remove_source: bool
    disks: tuple[RecordedDisk, ...]
    run: str | None = None
    snapshot: str | None = None
    change: str | None = None


@dataclass(frozen=True)
class Shutdown:
    """A request to shut down: libvirt's number of the run whose guest was asked, and when (ISO 8601)."""

    run: str
    asked: str


def shutdown_to_xml(request: Shutdown) -> str:
    """The request as the element that goes into the domain's metadata."""
    return _document.text(_document.element("shutdown", asdict(request)))


def shutdown_in(definition: str) -> Shutdown | None:
    """The request in the metadata of a domain's XML; None where there is none, or somebody made it unreadable."""
    if SHUTDOWN_URI not in definition:  # which saves hardly ever needed work
        return None
    node = _document.parse(definition).find(f"./metadata/{{{SHUTDOWN_URI}}}shutdown")
    try:
        datetime.fromisoformat(node.attrib["asked"])
        return Shutdown(node.attrib["run"], node.attrib["asked"])
    except (AttributeError, KeyError, ValueError):
        return None


def now() -> str:
    """When an operation begins, as its record says it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def record_to_xml(record: Record) -> str:
    """The record as the element that goes into the domain's metadata."""
    root = _document.element(
        "operation",
        {
            "verb": record.verb,
            "mode": record.mode,
            "started": record.started,
            "was_running": "yes" if record.was_running else "no",
            "remove_source": "yes" if record.remove_source else "no",
            **{name: value for name in _OPTIONAL if (value := getattr(record, name)) is not None},
        },
    )
    for disk in record.disks:
        _document.child(root, "disk", {name: value for name, value in asdict(disk).items() if value is not None})
    return _document.text(root)


def without_record(definition: str) -> str:
    """A domain's XML without what is in its metadata of operations; the same text where that is nothing."""
    domain = _document.parse(definition)
    found = domain.iterfind("./metadata/*")
    ours = [element for element in found if _document.namespace(element) in (RECORD_URI, SHUTDOWN_URI)]
    for element in ours:
        _document.remove(element)
    return _document.text(domain) if ours else definition


def record_from_xml(xml: str) -> Record:
    """The record that the element in a domain's metadata holds. Raises DiskError where it is none of ours."""
    root = _document.parse(xml)
    try:
        record = Record(
            verb=root.attrib["verb"],
            mode=root.attrib["mode"],
            started=root.attrib["started"],
            was_running=root.attrib["was_running"] == "yes",
            remove_source=root.attrib["remove_source"] == "yes",
            disks=tuple(
                RecordedDisk(**{_document.local_name(key): value for key, value in disk.attrib.items()})
                for disk in root
                if _document.local_name(disk.tag) == "disk"
            ),
            **{name: root.get(name) for name in _OPTIONAL},
        )
        _require_sound(record)
        return record
    except (KeyError, TypeError, ValueError) as error:
        raise DiskError(
            f"the domain's metadata holds a record of an operation in {RECORD_URI} that this version cannot read: "
            f"look at it with virsh metadata DOMAIN {RECORD_URI}, finish what it describes by hand, then remove it "
            "with virsh metadata DOMAIN --remove"
        ) from error


def _require_sound(record: Record) -> None:
    """Raises ValueError where the record says what none of ours does: anybody may write into a domain's metadata."""
    words = [record.verb, *(disk.target for disk in record.disks)]
    words += [one for disk in record.disks for one in (disk.source_format, disk.format, disk.below_format) if one]
    places = [
        one for disk in record.disks for one in (disk.source, disk.dest, disk.base, disk.below) if one is not None
    ]
    if not all(re.fullmatch(_WORD, one) for one in words) or not all(one.startswith("/") for one in places):
        raise ValueError("it has words or paths that are none")
    if record.mode not in ("offline", "live") or record.change not in (None, "take", "merge", "revert"):
        raise ValueError("it has a mode or a change that is none")
    if (
        not record.disks and record.change != "merge"
    ):  # of a snapshot that others have merged only libvirt's record is left
        raise ValueError("it names no disk")
    datetime.fromisoformat(record.started)
