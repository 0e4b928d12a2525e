# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The steps that make a clone. Pure."""

from __future__ import annotations

import typing as t
from functools import partial

from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import FULL, LINKED

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_blueprint import (
        Blueprint,
        NewImage,
    )


class Work(t.Protocol):
    """What is done to the world when a clone is made."""

    def clear(self) -> None: ...

    def make_image(self, image: NewImage) -> None: ...

    def copy_nvram(self, source: str, path: str) -> None: ...

    def withdraw(self, path: str) -> None: ...

    def define(self) -> None: ...

    def undefine(self) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


def steps(source: str, plan: Blueprint, work: Work, *, start: bool) -> tuple[Step, ...]:
    """The steps that make a clone of the domain *source*, and *start* it, in order."""
    name = plan.spec.name
    found = [Step(f"remove {path}, which an interrupted run left", lambda: None) for path in plan.debris]
    found.append(Step("", work.clear))
    found += [
        Step(_said(plan, image), partial(work.make_image, image), partial(work.withdraw, image.path))
        for image in plan.images
    ]
    if plan.nvram:
        before, after = plan.nvram
        copy = partial(work.copy_nvram, before, after)
        found.append(Step(f"copy {before} to {after}", copy, partial(work.withdraw, after)))
    found.append(Step(f"define {name} as a clone of {source}", work.define, work.undefine))
    if start:
        found.append(Step(f"start {name}", work.start, work.stop))
    return tuple(found)


def _said(plan: Blueprint, image: NewImage) -> str:
    mode = plan.identity.mark.mode
    if mode == LINKED:
        return f"make {image.path} of {exact_size(image.size)} over {image.disk.path}"
    how = "copy" if mode == FULL else "reflink"
    return f"{how} {image.disk.path} to {image.path}"
