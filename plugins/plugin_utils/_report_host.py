# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What one host reported, looked up by image: facts, check, the place in its chain, and how well it is."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field
from functools import cached_property

Facts = t.Mapping[str, t.Any]

#: How bad something is, worst first.
LEVELS = ("critical", "warning", "note", "good")
#: What stands for a thick image: its blocks are all there, give or take its tables.
_THICK = 0.98


@dataclass(frozen=True)
class Health:
    """One word for an image, how bad it is, and the whole sentence."""

    word: str
    level: str = "good"
    detail: str = ""


@dataclass
class Host:
    """What is known of a host: *images* and *checks* by path, the domains' *disks*, the file systems."""

    name: str
    disks: t.Sequence[Facts] = ()
    filesystems: t.Sequence[Facts] = ()
    images: dict[str, Facts] = field(default_factory=dict)
    checks: dict[str, Facts] = field(default_factory=dict)
    problem: str | None = None
    check_problem: str | None = None

    @classmethod
    def of(cls, reported: Facts) -> Host:
        """From what the role has gathered of one host."""
        systems = reported.get("filesystems", ())
        return cls(
            name=reported["name"],
            disks=reported.get("disks", ()),
            filesystems=systems,
            images={image["path"]: image for system in systems for image in system["images"]},
            checks={image["path"]: image for image in reported.get("checks", ())},
            problem=reported.get("problem"),
            check_problem=reported.get("check_problem"),
        )

    @cached_property
    def bases(self) -> dict[str, str]:
        """The image that each overlay stands on, by the path of the overlay."""
        return {overlay: image["path"] for image in self.images.values() for overlay in image["dependents"]}

    def below(self, path: str) -> list[str]:
        """The images below the one at *path*, the upper ones first; those of a circle once."""
        found = {path: None}
        while (base := self.bases.get(path)) and base not in found:
            found[base], path = None, base
        return list(found)[1:]

    def lacks(self, path: str) -> list[str]:
        """The files that the image at *path*, or one below it, needs and that are missing."""
        known = [self.images[one] for one in (path, *self.below(path)) if one in self.images]
        return [missing for image in known for missing in image["missing"]]

    def health(self, path: str | None, problem: str | None = None) -> Health:
        """How well the image at *path* is; *problem* is what was found of it as the disk of a domain."""
        image = self.images.get(path or "", {})
        lacking = self.lacks(path) if path else []
        if lacking:
            return Health("broken chain", "critical", f"{lacking[0]} is missing")
        if problem or image.get("problem"):
            return Health("unreadable", "critical" if problem else "warning", str(problem or image["problem"]))
        checked = self.checks.get(path or "")
        if checked is None:
            return Health("not checked", "good", "images of this format hold nothing that could be checked")
        check = checked.get("check")
        if check is None:
            return Health("in use", "good", "; ".join(checked.get("problems") or ()) or "not checked")
        return _of_check(check, checked)

    def reclaimable(self, path: str | None) -> int | None:
        """The bytes that a rewrite of the image gives back at least; None where nobody knows, or others read it."""
        if path is None or self.images.get(path, {}).get("dependents"):
            return None
        found: int | None = self.checks.get(path, {}).get("reclaimable")
        return found

    def snapshots(self, path: str | None) -> int | None:
        """How many internal snapshots the image has; None if it was not looked at."""
        checked = self.checks.get(path or "")
        found = checked.get("snapshots") if checked else None
        return None if found is None else len(found)


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many}"


def short_size(size: int) -> str:
    """Bytes in three digits or so, as a person compares them: 338 MiB, 1.5 GiB."""
    number, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if round(number) < 1000:
            break
        number, unit = number / 1024, larger
    return f"{number:.1f} {unit}" if number < 9.95 and round(number, 1) != round(number) else f"{number:.0f} {unit}"


def policy(image: Facts) -> str:
    """How its space is allocated, in one word."""
    if image.get("backing_file"):
        return "linked clone"
    virtual, actual = image.get("virtual_size"), image.get("actual_size")
    if not virtual or actual is None:
        return ""
    return "thick" if actual >= virtual * _THICK else "thin"


def _of_check(check: Facts, image: Facts) -> Health:
    if check["result"] == "corrupt" or image.get("corrupt"):
        return Health("corrupt", "critical", counted(check["corruptions"], "corruption", "corruptions"))
    if check.get("check_errors"):
        return Health(
            "check failed", "warning", counted(check["check_errors"], "error", "errors") + " of the check itself"
        )
    if check["result"] == "leaks":
        return Health("leaks", "warning", counted(check["leaks"], "leaked cluster", "leaked clusters"))
    if check["result"] == "unsupported":
        return Health("not checked", "good", "images of this format hold nothing that could be checked")
    return Health("good", "good", "checked, nothing wrong")
