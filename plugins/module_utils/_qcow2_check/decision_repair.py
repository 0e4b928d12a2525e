# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision whether an image is repaired."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import cut_short
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._recovery.repair import Finding

# Those whose leaked clusters it gives back, and those whose corruptions it repairs.
_GIVES_BACK = ("qcow2", "parallels")
_ASKED = {"none": "nothing", "leaks": "leaks only", "all": "them"}
_REPAIRS = ("qcow2", "qed", "parallels")


class Work(t.Protocol):
    """What the plan has done."""

    def repair(self) -> None:
        """Repairs the image, as far as the task allows."""


def plan_repair(path: str, repair: str, found: Finding, work: Work) -> Plan:
    """The plan that repairs the image at *path* as far as *repair* (none, leaks, all) allows.

    Raises UnsafeImage where it is corrupt and would stay so. Leaks alone are no failure: they cost space, not data.
    """
    check, facts = found.check, found.facts()
    if found.cut is not None:
        raise cut_short(path, found.cut, check=facts)
    if check.result == "unsupported":
        return Plan({"result": "unsupported"}, {"result": "unsupported"})
    if check.result == "corrupt" and not found.pending_log and (repair != "all" or found.format not in _REPAIRS):
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
    if found.extension:
        raise UnsafeImage(
            f"{path}: has {' and '.join(to_do)}, and an extension, which QEMU counts among them: its repair would cut "
            "that off, and QEMU would never open the image again: leave it, or convert it into a new image",
            path=path,
            check=facts,
        )
    leaks = 0 if found.format in _GIVES_BACK else check.leaks
    after = {"result": "leaks" if leaks else "good", "corruptions": 0, "leaks": leaks, "dirty": False}
    return Plan(before, after, (Step(f"repair {path}: {', '.join(to_do)}", work.repair),))


def require_repaired(path: str, left: Finding) -> None:
    """Raises UnsafeImage where a repair left a corruption; *left* is what is found after it."""
    found = left.check
    if found.result == "corrupt" or found.check_errors:
        raise UnsafeImage(
            f"{path}: {found.corruptions} corruption(s) are left in its metadata after the repair of "
            f"{found.corruptions_fixed}: save what can be read from it by converting it into a new image",
            path=path,
            check=asdict(found),
        )


def _to_repair(found: Finding) -> list[str]:
    leaks = found.check.leaks if found.format in _GIVES_BACK else 0
    counted = ((found.check.corruptions, "corruption(s)"), (leaks, "leaked cluster(s)"))
    said = [f"{number} {what}" for number, what in counted if number]
    said += ["replay its log"] if found.pending_log else []
    marks = ((found.corrupt, "the mark that it is corrupt"), (found.dirty, "the mark that it was not closed properly"))
    return said + [mark for is_there, mark in marks if is_there]


def _way_out(found: Finding) -> str:
    if found.format not in _REPAIRS:
        return f"QEMU cannot repair {found.format} images: save what can be read from it by converting it"
    if found.dirty:
        return "it was not closed properly, which repair=all puts right"
    return "copy the image, then repair it with repair=all"
