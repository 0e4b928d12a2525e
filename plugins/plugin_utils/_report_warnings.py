# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the reader should know first, the worst of all on top."""

from __future__ import annotations

import typing as t
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import groupby

from ansible_collections.kvmops.disk.plugins.plugin_utils._report_host import LEVELS, Facts, Host, counted, short_size

_FULL = 0.95
_SHOWN = 6
#: Of warnings of one kind on one host, so many are open.
_UNFOLDED = 5


@dataclass(frozen=True)
class Concern:
    """One thing that is wrong: how bad, where, what, and what to do about it."""

    level: str
    host: str
    kind: str
    subject: str
    text: str
    advice: str


def warnings_of(hosts: t.Sequence[Host]) -> list[dict[str, str]]:
    """The warnings of all hosts, the worst first."""
    found = [one for look in _LOOKS for host in hosts for one in look(host)]
    return [asdict(one) for one in sorted(found, key=lambda one: LEVELS.index(one.level))]


def groups_of(warnings: t.Iterable[Facts]) -> list[dict[str, list[Facts]]]:
    """Those of one kind on one host together, in their order; of many of a kind most are folded away, as *more*."""
    groups: list[dict[str, list[Facts]]] = []
    for _kind, found in groupby(warnings, key=lambda one: (one["level"], one["host"], one["kind"])):
        alike = list(found)
        first = _UNFOLDED if len(alike) > _UNFOLDED + 1 else len(alike)
        groups.append({"first": alike[:first], "more": alike[first:]})
    return groups


def _unknown(host: Host) -> t.Iterator[Concern]:
    if host.problem:
        yield Concern("critical", host.name, "not looked at", "", host.problem, "Nothing of this host is on this page.")
    elif host.check_problem:
        yield Concern(
            "warning",
            host.name,
            "not all checked",
            "",
            host.check_problem,
            "That image was not checked; all others were.",
        )


def _over_limit(host: Host) -> t.Iterator[Concern]:
    for system in host.filesystems:
        name = system["mount"] or ", ".join(system["pools"])
        size = system["size"]
        if size and system["used"] >= size * _FULL:
            growth = sum(image["promised"] - image["actual_size"] for image in system["images"] if image["grows"])
            text = f"{100 * system['used'] / size:.0f} % used, {short_size(system['available'])} are left"
            if growth > system["available"]:
                advice = (
                    "Guests get I/O errors, or are paused, when it is full: remove what is not needed, or add space."
                )
                yield Concern("critical", host.name, "nearly full", name, text, advice)
            else:
                advice = "The images on it hardly grow, but nothing else will fit."
                yield Concern("warning", host.name, "nearly full", name, text, advice)
        if system["over_limit"]:
            text = (
                f"{short_size(system['promised'])} are promised, {system['ratio']:.2f} times the "
                f"{short_size(size)} that it has; the limit is {system['limit']:g}"
            )
            advice = (
                "Move disks elsewhere (vm_disk_convert with dest_dir), remove images that are not needed, or add space."
            )
            yield Concern("warning", host.name, "over the limit", name, text, advice)


def _missing_bases(host: Host) -> t.Iterator[Concern]:
    needed: dict[str, list[str]] = defaultdict(list)
    for image in host.images.values():
        for missing in image["missing"]:
            needed[missing].append(image["path"])
    for missing, images in sorted(needed.items()):
        text = f"{counted(len(images), 'image needs', 'images need')} this file, and it is missing: {_some(images)}"
        advice = "Restore it from a backup, byte for byte. Another image in its place destroys what depends on it."
        yield Concern("critical", host.name, "missing base", missing, text, advice)


def _broken_chains(host: Host) -> t.Iterator[Concern]:
    for disk in host.disks:
        path = disk["path"]
        if disk["problem"] and not (path and host.lacks(path)):
            advice = "The domain may not start. Its disks say where each file is expected."
            yield Concern(
                "critical", host.name, "broken disk", f"{disk['domain']} {disk['target']}", disk["problem"], advice
            )
    used = {disk["path"] for disk in host.disks}
    for path, image in host.images.items():
        if image["problem"] and not image["missing"] and path not in used:
            advice = "No domain has it as its disk. Remove it, or restore it."
            yield Concern("warning", host.name, "unreadable image", path, image["problem"], advice)


def _unsound(host: Host) -> t.Iterator[Concern]:
    for path in host.checks:
        health = host.health(path)
        if health.word == "corrupt":
            advice = (
                "Copy it first. Then qcow2_check with repair: all, with its guest off, and check what the guest has."
            )
            yield Concern("critical", host.name, "corrupt image", path, health.detail, advice)
        elif health.word == "leaks":
            advice = "No data are lost, only space: qcow2_check with repair: leaks, with its guest off."
            yield Concern("warning", host.name, "leaking image", path, health.detail, advice)
        elif health.word == "check failed":
            yield Concern("warning", host.name, "check failed", path, health.detail, "Check it again (qcow2_check).")


def _bases_in_danger(host: Host) -> t.Iterator[Concern]:
    writers = defaultdict(set)
    for disk in host.disks:
        if disk["device"] == "disk" and not disk["readonly"]:
            writers[disk["path"]].add(disk["domain"])
    for path, image in host.images.items():
        if not image["dependents"]:
            continue
        overlays = counted(len(image["dependents"]), "image stands", "images stand")
        names = _some(sorted(writers.get(path, ())) or image["domains"])
        if image["grows"]:
            text = f"{overlays} on it, and running domain {names} writes it"
            advice = "Its overlays are being destroyed. Shut the domain down, and restore them."
            yield Concern("critical", host.name, "base is written", path, text, advice)
        elif image["writable"] and path in writers:
            text = f"{overlays} on it, and domain {names} would write it when it is started"
            advice = "Make it read-only (vm_linked_clone with protect_base does), or give the domain an overlay."
            yield Concern("warning", host.name, "base in danger", path, text, advice)


_LOOKS: tuple[t.Callable[[Host], t.Iterator[Concern]], ...] = (
    _unknown,
    _missing_bases,
    _broken_chains,
    _bases_in_danger,
    _over_limit,
    _unsound,
)


def _some(paths: t.Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
