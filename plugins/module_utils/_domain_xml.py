# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only door to XML: the disks of a domain, a change of a disk's source and driver, the record of an operation."""

from __future__ import annotations

import re
import traceback
import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, InvalidRequest, MissingLibrary

#: lxml's etree; loaded with the first XML, since most runs of an image module need none.
etree: t.Any = None

RECORD_URI = "urn:kvmops:disk:1"
_SECRET = re.compile(r"""(\spasswd=)(?:'[^']*'|"[^"]*")""")


@dataclass(frozen=True)
class ChainLink:
    """One ``<backingStore>``: the source of a backing file and its format; *index* is libvirt's name for it in the XML
    of a running domain, the 3 of ``vda[3]``."""

    path: str | None
    format: str | None
    index: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DiskElement:
    """A ``<disk>`` as the XML has it.

    *source* is the path of a file or block device, None for other source types and for an empty drive. *format* is
    the driver type; libvirt takes raw where the XML says nothing. *chain* is what the XML says of the backing files:
    None where it says nothing, an empty tuple where it says that there is none. *mirror* is the destination of a block
    job, and *mirror_ready* is ``yes`` once it holds the same as the disk. *sliced*: the disk is a part of its source.
    *index* is libvirt's number of the image in a running domain.
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


@dataclass(frozen=True)
class DiskChange:
    """What a disk's definition is to become: the file, or the *block* device, at *path*, read as *format*.

    *keeps_chain*: the new one has the backing files of the one before it.
    """

    target: str
    path: str
    format: str
    keeps_chain: bool = False
    block: bool = False


@dataclass(frozen=True)
class RecordedDisk:
    """One disk in the record of an operation; all paths absolute.

    An image that is flattened stays where it is, so *source* and *dest* are the same; *below* is its backing file, and
    *base* the one of those further down that it is to have, if any.
    """

    target: str
    source: str
    source_format: str
    dest: str
    format: str
    base: str | None = None
    below: str | None = None
    below_format: str | None = None


@dataclass(frozen=True)
class Record:
    """An operation in flight, as it stands in the domain's metadata. *mode*: offline or live.

    *run* is libvirt's number of the domain's run, where the operation is bound to it: another run is another guest.
    """

    verb: str
    mode: str
    started: str
    was_running: bool
    remove_source: bool
    disks: tuple[RecordedDisk, ...]
    run: str | None = None


def disks(xml: str) -> tuple[DiskElement, ...]:
    """The disks of a domain's XML, in its order, cdroms and floppies included."""
    return tuple(_disk(element) for element in _parse(xml).iterfind("./devices/disk"))


def snapshot_disks(xml: str) -> tuple[DiskElement, ...]:
    """The disks of the domain that a snapshot's XML carries: what a revert would bring back."""
    return tuple(_disk(element) for element in _parse(xml).iterfind("./domain/devices/disk"))


def internal_snapshot(xml: str) -> str | None:
    """The name of a snapshot whose XML says that it is inside of an image; None for one that is not."""
    root = _parse(xml)
    inside = root.find("./disks/disk[@snapshot='internal']") is not None
    return t.cast("str | None", root.findtext("./name")) if inside else None


def pool_path(xml: str) -> str | None:
    """The directory of a storage pool; None for pools that have none."""
    return t.cast("str | None", _parse(xml).findtext("./target/path"))


def with_changes(xml: str, changes: t.Iterable[DiskChange]) -> str:
    """The domain's XML with other sources and driver types for some disks, and nothing else changed.

    A ``<backingStore>`` goes with the source that it described, unless the new one has the same. Raises DiskError
    where a disk is not in the XML.
    """
    domain = _parse(xml)
    for change in changes:
        element = _find(domain, change.target)
        driver = element.find("driver")
        if driver is None:
            driver = etree.SubElement(element, "driver", name="qemu")
            element.insert(0, driver)
        driver.set("type", change.format)
        source = element.find("source")
        if source is None:
            raise DiskError(f"{change.target}: the disk has no source in the domain's XML")
        _point_to(element, source, change)
        for stale in element.findall("backingStore") if not change.keeps_chain else ():
            _remove(stale)
    return _text(domain)


def with_shorter_chain(xml: str, target: str, base: str | None) -> str:
    """The domain's XML whose disk *target* names *base*, and what is below it, as the backing files of its image; none
    where *base* is None.

    The same text where it says nothing of backing files, which libvirt then reads in the image. Raises DiskError where
    the disk, or *base*, is not in the XML.
    """
    domain = _parse(xml)
    top = _find(domain, target).find("backingStore")
    if top is None or (base is None and not top.get("type")):
        return xml
    kept = top
    while base is not None and _path(kept.find("source")) != base:
        kept = kept.find("backingStore")
        if kept is None:
            raise DiskError(f"{target}: the domain's XML does not name the backing file {base}")
    if kept is top and base is not None:
        return xml
    kept = kept if base is not None else etree.Element("backingStore")
    kept.tail = top.tail
    top.getparent().replace(top, kept)
    return _text(domain)


def with_chain(xml: str, target: str, links: t.Sequence[ChainLink]) -> str:
    """The domain's XML whose disk *target* names *links* as the backing files of its image, the upper ones first.

    The same text where it says nothing of backing files. Raises DiskError where the disk is not in the XML.
    """
    domain = _parse(xml)
    old = _find(domain, target).find("backingStore")
    if old is None:
        return xml
    chain = etree.Element("backingStore")
    for link in reversed(links):
        below, chain = chain, etree.Element("backingStore", type="file")
        etree.SubElement(chain, "format", type=link.format or "raw")
        etree.SubElement(chain, "source", file=link.path or "")
        chain.append(below)
    chain.tail = old.tail
    old.getparent().replace(old, chain)
    return _text(domain)


def copy_destination(path: str, image_format: str, *, block: bool = False) -> str:
    """The ``<disk>`` that a block copy is given: the file, or the block device, at *path*."""
    require_lxml()
    kind, attribute = ("block", "dev") if block else ("file", "file")
    disk = etree.Element("disk", type=kind, device="disk")
    etree.SubElement(disk, "driver", name="qemu", type=image_format)
    etree.SubElement(disk, "source", {attribute: path})
    return _text(disk)


def without_empty_metadata(xml: str) -> str:
    """The domain's XML without a ``<metadata>`` that holds nothing; the same text where there is none."""
    domain = _parse(xml)
    metadata = domain.find("./metadata")
    if metadata is None or len(metadata) or (metadata.text or "").strip():
        return xml
    _remove(metadata)
    return _text(domain)


def unexpected_difference(wanted: str, found: str) -> str | None:
    """The unified diff from *wanted* to *found* where they say different things; None where they say the same.

    Quoting, attribute order and white space between elements say nothing; nor does the order of the controllers,
    which libvirt sorts anew (HAZARDS G1).
    """
    if _canonical(_with_sorted_controllers(wanted)) == _canonical(_with_sorted_controllers(found)):
        return None
    return unified_diff(_pretty(wanted), _pretty(found), "wanted", "found")


def definition_diff(before: str, after: str) -> str:
    """The unified diff of two domain definitions, alike in quoting and indentation, passwords hidden."""
    return unified_diff(_pretty(before), _pretty(after))


def unified_diff(before: str, after: str, before_name: str = "before", after_name: str = "after") -> str:
    """The unified diff of two XML texts, passwords hidden."""
    import difflib  # loaded where there is a difference

    lines = difflib.unified_diff(
        _SECRET.sub(r"\1'********'", before).splitlines(),
        _SECRET.sub(r"\1'********'", after).splitlines(),
        before_name,
        after_name,
        lineterm="",
    )
    return "".join(line + "\n" for line in lines)


def record_to_xml(record: Record) -> str:
    """The record as the element that goes into the domain's metadata."""
    require_lxml()
    root = etree.Element(
        "operation",
        verb=record.verb,
        mode=record.mode,
        started=record.started,
        was_running="yes" if record.was_running else "no",
        remove_source="yes" if record.remove_source else "no",
        **({"run": record.run} if record.run is not None else {}),
    )
    for disk in record.disks:
        etree.SubElement(root, "disk", **{name: value for name, value in asdict(disk).items() if value is not None})
    return t.cast(str, etree.tostring(root, encoding="unicode"))


def record_from_xml(xml: str) -> Record:
    """The record that the element in a domain's metadata holds. Raises DiskError where it is none of ours."""
    root = _parse(xml)
    try:
        return Record(
            verb=root.attrib["verb"],
            mode=root.attrib["mode"],
            started=root.attrib["started"],
            was_running=root.attrib["was_running"] == "yes",
            remove_source=root.attrib["remove_source"] == "yes",
            disks=tuple(
                RecordedDisk(**{_local(key): value for key, value in disk.attrib.items()})
                for disk in root
                if _local(disk.tag) == "disk"
            ),
            run=root.get("run"),
        )
    except (KeyError, TypeError) as error:
        raise DiskError(
            f"the domain's metadata holds a record of an operation in {RECORD_URI} that this version cannot read: "
            f"{xml}: "
            "finish what it describes by hand, then remove it with virsh metadata --remove"
        ) from error


def require_expressible(text: str, what: str) -> None:
    """Raises InvalidRequest where XML 1.0 has no way to say *text*: control characters, undecodable bytes."""
    require_lxml()
    try:
        etree.Element("x").set("x", text)
    except ValueError as error:
        raise InvalidRequest(f"{what}: {text!r} cannot stand in a domain's XML: {error}") from error
    if re.search(r"[\t\n\r]", text):
        raise InvalidRequest(f"{what}: {text!r} has a line break or a tab: libvirt does not keep those in a path")


def require_lxml() -> None:
    """Imports lxml, once. Raises MissingLibrary where it is not installed."""
    global etree  # pylint: disable=global-statement
    if etree is not None:
        return
    try:
        from lxml import etree as library
    except ImportError as error:
        raise MissingLibrary("lxml", "to read and edit the XML of a domain", traceback.format_exc()) from error
    etree = library


def _parse(xml: str) -> t.Any:
    require_lxml()
    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    return etree.fromstring(xml.encode(), parser)


def _text(root: t.Any) -> str:
    return t.cast(str, etree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _disk(element: t.Any) -> DiskElement:
    source = element.find("source")
    driver = element.find("driver")
    target = element.find("target")
    mirror = element.find("mirror")
    return DiskElement(
        target=target.get("dev", "") if target is not None else "",
        bus=target.get("bus") if target is not None else None,
        device=element.get("device", "disk"),
        type=element.get("type", "file"),
        source=_path(source),
        format=(driver.get("type") if driver is not None else None) or "raw",
        pool=source.get("pool") if source is not None else None,
        volume=source.get("volume") if source is not None else None,
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        transient=element.find("transient") is not None,
        encrypted=element.find("encryption") is not None or element.find("source/encryption") is not None,
        chain=_chain(element),
        mirror=_path(mirror.find("source")) or mirror.get("file", "") if mirror is not None else None,
        mirror_ready=mirror.get("ready") if mirror is not None else None,
        sliced=element.find("source/slices") is not None,
        index=source.get("index") if source is not None else None,
    )


def _path(source: t.Any) -> str | None:
    if source is None:
        return None
    path = source.get("file") or source.get("dev")
    return t.cast("str | None", path)


def _chain(element: t.Any) -> tuple[ChainLink, ...] | None:
    links = []
    store = element.find("backingStore")
    if store is None:
        return None
    while store is not None and store.get("type"):
        form = store.find("format")
        image_format = form.get("type") if form is not None else None
        links.append(ChainLink(_path(store.find("source")), image_format, store.get("index")))
        store = store.find("backingStore")
    return tuple(links)


def _find(domain: t.Any, target: str) -> t.Any:
    for element in domain.iterfind("./devices/disk"):
        dev = element.find("target")
        if dev is not None and dev.get("dev") == target:
            return element
    raise DiskError(f"{target}: the domain has no such disk")


def _point_to(disk: t.Any, source: t.Any, change: DiskChange) -> None:
    """Changes what names the source, in place, so that its children (seclabel, slices, ...) stay."""
    kind, attribute = ("block", "dev") if change.block else ("file", "file")
    if disk.get("type") != kind:
        disk.set("type", kind)
        for name in ("file", "dev", "pool", "volume", "mode", "index"):
            source.attrib.pop(name, None)
    source.set(attribute, change.path)


def _remove(element: t.Any) -> None:
    """Takes *element* out, with the white space that leads to it rather than what follows it."""
    before = element.getprevious()
    if before is not None:
        before.tail = element.tail
    element.getparent().remove(element)


def _with_sorted_controllers(xml: str) -> t.Any:
    root = _parse(xml)
    controllers = root.findall("./devices/controller")
    if controllers:
        devices = root.find("./devices")
        place = devices.index(controllers[0])
        for controller in controllers:
            devices.remove(controller)
        devices[place:place] = sorted(controllers, key=lambda one: (one.get("type", ""), int(one.get("index", 0))))
    return root


def _canonical(root: t.Any) -> bytes:
    """The XML with everything that says nothing made equal: attribute order, quoting, indentation."""
    for element in root.iter():
        if len(element) and not (element.text or "").strip():
            element.text = None
        if not (element.tail or "").strip():
            element.tail = None
    return t.cast(bytes, etree.tostring(root, method="c14n"))


def _pretty(xml: str) -> str:
    root = _parse(xml)
    _canonical(root)
    etree.indent(root)
    return _text(root)
