# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision whether an image is repaired, and the repair, which is compared with what was there before."""

from __future__ import annotations

import os
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import mapping as _mapping
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import CheckResult, QemuImg

#: The formats that qemu-img checks; the others have no metadata that could be wrong, or none that it knows.
CHECKED_FORMATS = ("qcow2", "qed", "vmdk", "vdi", "vhdx", "parallels")
# Those whose leaked clusters it gives back, and those whose corruptions it repairs.
_GIVES_BACK = ("qcow2", "parallels")
_ASKED = {"none": "nothing", "leaks": "leaks only", "all": "them"}
_REPAIRS = ("qcow2", "qed", "parallels")


@dataclass(frozen=True)
class Finding:
    """What a check found, and the marks in the image's header: *corrupt* forbids writing, *dirty* wants a repair."""

    check: CheckResult
    format: str = "qcow2"
    corrupt: bool = False
    dirty: bool = False
    external_data: bool = False

    @property
    def is_corrupt(self) -> bool:
        return self.corrupt or self.check.result == "corrupt"

    def facts(self) -> dict[str, t.Any]:
        return {**asdict(self.check), "result": "corrupt" if self.is_corrupt else self.check.result}


def plan_repair(path: str, repair: str, found: Finding, do: t.Callable[[], None]) -> Plan:
    """The plan that repairs the image at *path* as far as *repair* (none, leaks, all) allows, by *do*.

    Raises UnsafeImage where it is corrupt and would stay so. Leaks alone are no failure: they cost space, not data.
    """
    check, facts = found.check, found.facts()
    if check.result == "corrupt" and (repair != "all" or found.format not in _REPAIRS):
        also = f" and {check.leaks} leaked cluster(s)" if check.leaks else ""
        raise UnsafeImage(
            f"{path}: {check.corruptions} corruption(s){also} in its metadata, "
            f"asked to repair {_ASKED[repair]}: {_way_out(found)}",
            path=path,
            check=facts,
        )
    if found.corrupt and repair == "none":
        raise UnsafeImage(
            f"{path}: is marked corrupt, and QEMU refuses to write it, though nothing is found wrong in it now: "
            "remove the mark with repair=all",
            path=path,
            check=facts,
        )
    before = {**{name: facts[name] for name in ("result", "corruptions", "leaks")}, "dirty": found.dirty}
    to_do = _to_repair(found)
    if repair == "none" or not to_do:
        return Plan(before, before)
    leaks = 0 if found.format in _GIVES_BACK else check.leaks
    after = {"result": "leaks" if leaks else "good", "corruptions": 0, "leaks": leaks, "dirty": False}
    return Plan(before, after, (Step(f"repair {path}: {', '.join(to_do)}", do),))


def require_repaired(path: str, found: CheckResult) -> None:
    """Raises UnsafeImage where a repair left a corruption."""
    if found.result == "corrupt" or found.check_errors:
        raise UnsafeImage(
            f"{path}: {found.corruptions} corruption(s) are left in its metadata after the repair of "
            f"{found.corruptions_fixed}: save what can be read from it by converting it into a new image",
            path=path,
            check=asdict(found),
        )


def repair_and_compare(
    path: str, image_format: str, repair: str, qemu_img: QemuImg, *, external_data: bool = False
) -> tuple[CheckResult, bool | None]:
    """Repairs (leaks, all) the image at *path*.

    Also says whether the tables prove that its content, all snapshots included, is what it was; None where the format
    has no such tables.
    """
    before = _mapping_of(path, image_format)
    found = qemu_img.check(path, image_format, repair=repair, external_data=external_data)
    if image_format != "qcow2":
        return found, None
    return found, before is not None and before.separate and before == _mapping_of(path, image_format)


def repair_counts(path: str, qemu_img: QemuImg) -> CheckResult:
    """Repairs what an interrupted work on snapshots left of the qcow2 image at *path*: reference counts, and flags.

    Raises UnsafeImage where the tables do not prove that content and metadata are apart, so that more than counts may
    be wrong; nothing is written then. Or where the content did not stay what it was, which no repair of counts does.
    """
    before = _mapping_of(path, "qcow2")
    if before is None or not before.separate:
        found = qemu_img.check(path, "qcow2")
        raise UnsafeImage(
            f"{path}: an operation on its snapshots was interrupted, and more is wrong with its metadata than that "
            "explains: copy the image, then repair it with kvmops.disk.qcow2_check (repair=all)",
            path=path,
            check=asdict(found),
        )
    found, unchanged = repair_and_compare(path, "qcow2", "all", qemu_img)
    if not unchanged:
        raise UnsafeImage(
            f"{path}: the repair after an interrupted operation on its snapshots changed where its content is: "
            "compare it with a backup before it is used",
            path=path,
            check=asdict(found),
        )
    return found


def _mapping_of(path: str, image_format: str) -> _mapping.Mapping | None:
    """Where the content of a qcow2 image is; None for other formats, and where its tables cannot be read."""
    if image_format != "qcow2":
        return None
    try:
        with _headers.open_image(path) as stream:
            return _mapping.read_mapping(stream, stream.seek(0, os.SEEK_END), path)
    except UnsafeImage:
        return None


def _to_repair(found: Finding) -> list[str]:
    leaks = found.check.leaks if found.format in _GIVES_BACK else 0
    counted = ((found.check.corruptions, "corruption(s)"), (leaks, "leaked cluster(s)"))
    said = [f"{number} {what}" for number, what in counted if number]
    marks = ((found.corrupt, "the mark that it is corrupt"), (found.dirty, "the mark that it was not closed properly"))
    return said + [mark for is_there, mark in marks if is_there]


def _way_out(found: Finding) -> str:
    if found.format not in _REPAIRS:
        return f"QEMU cannot repair {found.format} images: save what can be read from it by converting it"
    if found.dirty:
        return "it was not closed properly, which repair=all puts right"
    return "copy the image, then repair it with repair=all"
