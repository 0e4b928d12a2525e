# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a domain uses a disk, in the words of its ``<disk>``: read, written, compared. What nothing is said of stays."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: What a ``<driver>`` says; the value *default* is the same as nothing.
_OF_DRIVER = ("cache", "io", "discard", "detect_zeroes", "error_policy", "iothread")
#: What an element without content says by being there.
_FLAGS = ("readonly", "shareable")
_KINDS, _DIRECTIONS = ("bytes", "iops"), ("read", "write")
#: The order in which libvirt writes the children of a ``<disk>`` (virDomainDiskDefFormat), so that it has nothing to
#: change in what we write.
_ORDER = (
    *("driver", "auth", "source", "backingStore", "mirror", "backenddomain", "geometry", "blockio", "target", "iotune"),
    *(
        "readonly",
        "shareable",
        "transient",
        "serial",
        "wwn",
        "vendor",
        "product",
        "encryption",
        "boot",
        "alias",
        "acpi",
    ),
    "address",
)


@dataclass(frozen=True)
class Tuning:
    """How a disk is used. None where nothing is said of it; *serial* is empty, *boot_order* and *iothread* are 0, and
    the others are ``default`` where there is to be none.

    *throttle* has the names of libvirt's ``<iotune>``: bytes and requests each second, lengths in seconds, and 0 where
    there is no limit; ``group_name`` is a text.
    """

    cache: str | None = None
    io: str | None = None
    discard: str | None = None
    detect_zeroes: str | None = None
    error_policy: str | None = None
    iothread: int | None = None
    serial: str | None = None
    boot_order: int | None = None
    readonly: bool | None = None
    shareable: bool | None = None
    throttle: t.Mapping[str, int | str] = field(default_factory=dict)


#: All but the limits.
PROPERTIES = (*_OF_DRIVER, "serial", "boot_order", *_FLAGS)


def tuning(element: t.Any) -> Tuning:
    """What a ``<disk>`` says: nothing is None in it."""
    driver, boot = element.find("driver"), element.find("boot")
    said: dict[str, t.Any] = {
        name: driver.get(name) or "default" if driver is not None else "default" for name in _OF_DRIVER[:-1]
    }
    iothread = driver.get("iothread") if driver is not None else None
    return Tuning(
        **said,
        iothread=int(iothread or 0),
        serial=element.findtext("serial") or "",
        boot_order=int(boot.get("order", 0)) if boot is not None else 0,
        readonly=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        throttle=_limits(element.find("iotune")),
    )


def differences(found: Tuning, wanted: Tuning) -> tuple[str, ...]:
    """The names of what *wanted* says otherwise than *found*; ``throttle`` for any of the limits."""
    named = [name for name in PROPERTIES if getattr(wanted, name) is not None]
    other = [name for name in named if getattr(wanted, name) != getattr(found, name)]
    limits = limited(found.throttle, wanted.throttle) != _without_zeros(found.throttle)
    return (*other, "throttle") if limits else tuple(other)


def tune(element: t.Any, wanted: Tuning) -> None:
    """Gives a ``<disk>`` what *wanted* says, in place, and leaves all else as it is (HAZARDS L6)."""
    for name in _OF_DRIVER:
        value = getattr(wanted, name)
        if value is not None:
            _set(_driver(element), name, str(value) if value not in ("default", 0) else None)
    if wanted.serial is not None:
        _replace(element, "serial", text=wanted.serial)
    if wanted.boot_order is not None:
        _replace(element, "boot", {"order": str(wanted.boot_order)} if wanted.boot_order else None)
    for name in _FLAGS:
        if getattr(wanted, name) is not None:
            _replace(element, name, {} if getattr(wanted, name) else None)
    if wanted.throttle:
        _limit(element, limited(_limits(element.find("iotune")), wanted.throttle))


def limited(found: t.Mapping[str, int | str], wanted: t.Mapping[str, int | str]) -> dict[str, int | str]:
    """The limits that *wanted* makes of those that are *found*, without those that are none.

    QEMU has a limit on both directions together, or one on each: a new one drops those of the other way (HAZARDS L7).
    """
    merged = {**found, **wanted}
    for kind in _KINDS:
        together, apart = _named("total", kind), [name for way in _DIRECTIONS for name in _named(way, kind)]
        if any(wanted.get(name) for name in together):
            merged.update(dict.fromkeys(apart, 0))
        elif any(wanted.get(name) for name in apart):
            merged.update(dict.fromkeys(together, 0))
    return _without_zeros(merged)


def rates() -> tuple[str, ...]:
    """The names of the limits themselves, without those of bursts."""
    return tuple(f"{way}_{kind}_sec" for kind in _KINDS for way in ("total", *_DIRECTIONS))


def _named(way: str, kind: str) -> list[str]:
    rate = f"{way}_{kind}_sec"
    return [rate, f"{rate}_max", f"{rate}_max_length"]


def _limits(iotune: t.Any) -> dict[str, int | str]:
    if iotune is None:
        return {}
    told = {one.tag: one.text or "" for one in iotune if isinstance(one.tag, str)}
    return {name: value if name == "group_name" else int(value) for name, value in told.items()}


def _without_zeros(limits: t.Mapping[str, int | str]) -> dict[str, int | str]:
    return {name: value for name, value in limits.items() if value}


def _limit(element: t.Any, limits: t.Mapping[str, int | str]) -> None:
    """Gives a ``<disk>`` these limits, in the place of those that it has."""
    _replace(element, "iotune", {} if limits else None)
    for name in sorted(limits, key=_place_of_limit):
        _document.child(element.find("iotune"), name).text = str(limits[name])


def _place_of_limit(name: str) -> int:
    """Where libvirt writes a limit in ``<iotune>``: limits, bursts, the size of a request, the group, lengths."""
    bursts = [f"{rate}_max" for rate in rates()]
    order = [*rates(), *bursts, "size_iops_sec", "group_name", *(f"{burst}_length" for burst in bursts)]
    return order.index(name) if name in order else len(order)


def _driver(element: t.Any) -> t.Any:
    driver = element.find("driver")
    if driver is None:
        driver = _document.element("driver", {"name": "qemu"})
        element.insert(0, driver)
    return driver


def _set(element: t.Any, name: str, value: str | None) -> None:
    if value is None:
        element.attrib.pop(name, None)
    else:
        element.set(name, value)


def _replace(element: t.Any, tag: str, attributes: t.Mapping[str, str] | None = None, text: str | None = None) -> None:
    """Has *element* one child *tag* with *attributes* or *text*; none where both say nothing."""
    found = element.find(tag)
    if attributes is None and not text:
        if found is not None:
            _document.remove(found)
        return
    new = _document.element(tag, attributes or {})
    new.text = text
    if found is not None:
        new.tail = found.tail
        element.replace(found, new)
        return
    place = _ORDER.index(tag)
    later = (number for number, one in enumerate(element) if one.tag in _ORDER and _ORDER.index(one.tag) > place)
    element.insert(next(later, len(element)), new)
