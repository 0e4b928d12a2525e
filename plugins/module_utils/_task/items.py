# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The things that one task is about, each with what is to be done for it, and what a module returns of them."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._task.run import whole_story


@dataclass
class Item:
    """One of the things: *facts* as the module returns them, *actions* what is to be done, if anything, *error* why it
    cannot be. *paths* are the files whose records are to be held meanwhile, *bases* the images that are to be noted as
    bases, each with the overlays of the thing that are to read it."""

    name: str
    facts: dict[str, t.Any]
    paths: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    error: DiskError | None = None
    bases: t.Mapping[str, t.Sequence[str]] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        return self.error is None and bool(self.actions)


def report(
    items: t.Sequence[Item],
    what: str,
    result: t.Mapping[str, t.Any],
    first: t.Sequence[str] = (),
    last: t.Sequence[str] = (),
) -> dict[str, t.Any]:
    """What the module returns of *items*, under the name *what*, beside *result*; *first* and *last* are what was done
    for all of them.

    Raises DiskError with all of that where one of them failed: with its own message where it is the only one.
    """
    failed = [item for item in items if item.error is not None]
    done = [item for item in items if item.error is None]
    actions = [*first, *(action for item in done for action in item.actions), *last]
    told = {
        "changed": bool(actions),
        "actions": actions,
        **result,
        what: [{**item.facts, "changed": bool(item.actions)} for item in done],
    }
    if not failed:
        return told
    stories = [whole_story(t.cast(DiskError, item.error)) for item in failed]
    message = stories[0] if len(items) == 1 else f"{len(failed)} of {len(items)} {what} failed: " + "; ".join(stories)
    facts = [
        {"name": item.name, "msg": story, **t.cast(DiskError, item.error).facts} for item, story in zip(failed, stories)
    ]
    single = t.cast(DiskError, failed[0].error).facts if len(items) == 1 else {}
    raise DiskError(message, **{**single, **told, f"failed_{what}": facts})
