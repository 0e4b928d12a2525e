# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of the capacity report as plain data: what the template has to say, and nothing to decide for it."""

from __future__ import annotations

import typing as t
from collections import defaultdict

from ansible_collections.kvmops.disk.plugins.plugin_utils._report_chains import Picture
from ansible_collections.kvmops.disk.plugins.plugin_utils._report_host import LEVELS, Facts, Host, policy, short_size
from ansible_collections.kvmops.disk.plugins.plugin_utils._report_warnings import groups_of, warnings_of


def page_of(reported: t.Iterable[Facts]) -> dict[str, t.Any]:
    """The page from what each host reported: name, disks, filesystems, checks, or the problem that there was."""
    hosts = [Host.of(one) for one in reported]
    systems = [_system(host, system) for host in hosts for system in host.filesystems]
    warnings = warnings_of(hosts)
    rows = [row for host in hosts for row in (*_disk_rows(host), *_other_rows(host))]
    pictures = [{"host": host.name, "picture": picture} for host in hosts if (picture := Picture(host).facts())]
    return {
        "hosts": [host.name for host in hosts],
        "summaries": _summaries(hosts, warnings),
        "warnings": warnings,
        "warning_groups": groups_of(warnings),
        "critical": sum(one["level"] == "critical" for one in warnings),
        "filesystems": systems,
        "rows": rows,
        "pictures": pictures,
        "totals": _totals(hosts),
    }


def _summaries(hosts: t.Iterable[Host], warnings: t.Iterable[Facts]) -> list[dict[str, t.Any]]:
    """Each host in short: its sums, how many warnings there are of it, and how bad the worst is."""
    levels: dict[str, list[str]] = defaultdict(list)
    for one in warnings:
        levels[one["host"]].append(one["level"])
    return [
        {
            **_totals([host]),
            "host": host.name,
            "problem": host.problem,
            "warnings": len(levels[host.name]),
            "level": min(levels[host.name], key=LEVELS.index, default="good"),
        }
        for host in hosts
    ]


def _system(host: Host, system: Facts) -> dict[str, t.Any]:
    """A file system with its bar: the shares of the bar's length, whose end is a little beyond all that is on it."""
    size, limit, ratio = system["size"], system["limit"], system["ratio"] or 0
    scale = max(1.06, 1.06 * ratio, 1.2 * limit)
    share = 100 / (size * scale) if size else 0.0
    return {
        "host": host.name,
        "name": system["mount"] or ", ".join(system["pools"]),
        "device": system["device"] or "",
        "type": system["type"] or "",
        "pools": system["pools"],
        **{name: _size_or_unknown(system[name]) for name in ("size", "used", "available")},
        "promised": short_size(system["promised"]),
        "used_percent": round(100 * system["used"] / size) if size else 0,
        "promised_percent": round(100 * ratio),
        "limit_percent": round(100 * limit),
        "over_limit": bool(system["over_limit"]),
        "images": len(system["images"]),
        "reclaimable": _reclaimable(host, system),
        "bar": {
            "used": round((system["used"] or 0) * share, 2),
            "promised": round(system["promised"] * share, 2),
            "size": round(100 / scale, 2),
            "limit": round(100 * limit / scale, 2),
        },
    }


def _reclaimable(host: Host, system: Facts) -> str:
    """What the images on the file system give back together, as far as that is known."""
    known = [gain for image in system["images"] if (gain := host.reclaimable(image["path"])) is not None]
    return short_size(sum(known)) if known else "unknown"


def _size_or_unknown(size: int | None) -> str:
    """A file system may not tell."""
    return "unknown" if size is None else short_size(size)


def _disk_rows(host: Host) -> t.Iterator[dict[str, t.Any]]:
    """One row for each disk of a domain that has a file or a device."""
    for disk in host.disks:
        if disk["path"]:
            image = host.images.get(disk["path"], {})
            chain = disk["backing_chain"]
            known = {**image, **(chain[0] if chain else {})}
            row = _row(host, disk["path"], known, len(chain) or None, disk["problem"])
            yield {
                **row,
                "domain": disk["domain"],
                "target": disk["target"],
                "state": disk["state"],
                "user": "disk",
                "no_discard": _cannot_discard(disk),
            }


def _other_rows(host: Host) -> t.Iterator[dict[str, t.Any]]:
    """One row for each image that is no domain's disk."""
    disks = {disk["path"] for disk in host.disks}
    for path, image in sorted(host.images.items()):
        if path not in disks:
            dependents = len(image["dependents"])
            user = f"base of {dependents}" if dependents else ", ".join(image["domains"]) or "no domain"
            row = _row(host, path, image, 1 + len(host.below(path)), None)
            yield {**row, "domain": "", "target": "", "state": "", "user": user, "no_discard": False}


def _cannot_discard(disk: Facts) -> bool:
    """Whether a trim in the guest gives nothing of the disk back, which it writes."""
    return disk["device"] == "disk" and not disk["readonly"] and disk["discard"] != "unmap"


def _row(host: Host, path: str, image: Facts, depth: int | None, problem: str | None) -> dict[str, t.Any]:
    health = host.health(path, problem)
    virtual, actual = image.get("virtual_size"), image.get("actual_size")
    return {
        "host": host.name,
        "path": path,
        "format": image.get("format") or "",
        "policy": policy(image),
        "virtual_size": virtual,
        "virtual_text": "" if virtual is None else short_size(virtual),
        "actual_size": actual,
        "actual_text": "" if actual is None else short_size(actual),
        "reclaimable": (gain := host.reclaimable(path)),
        "reclaimable_text": "" if gain is None else short_size(gain),
        "depth": depth,
        "snapshots": len(image["snapshots"]) if image.get("snapshots") is not None else host.snapshots(path),
        "health": health.word,
        "level": health.level,
        "detail": health.detail,
    }


def _totals(hosts: t.Sequence[Host]) -> dict[str, t.Any]:
    """The sums over all file systems; one that several hosts have from a server counts once."""
    counted = {}
    for host in hosts:
        for system in host.filesystems:
            device = system["device"] or ""
            owner = "" if ":" in device else host.name
            counted[owner, device, system["mount"] if owner else ""] = system
    sums = {name: sum(system[name] or 0 for system in counted.values()) for name in ("size", "used", "promised")}
    return {
        **{name: short_size(value) for name, value in sums.items()},
        "filesystems": len(counted),
        "over_limit": sum(bool(system["over_limit"]) for system in counted.values()),
        "domains": len({(host.name, disk["uuid"]) for host in hosts for disk in host.disks}),
        "disks": sum(bool(disk["path"]) for host in hosts for disk in host.disks),
        "promised_percent": round(100 * sums["promised"] / sums["size"]) if sums["size"] else 0,
        "used_percent": round(100 * sums["used"] / sums["size"]) if sums["size"] else 0,
    }
