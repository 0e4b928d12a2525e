# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a task wants of linked clones that are to have another base."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import wish as _wish
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import LINKED, CloneWish


@dataclass(frozen=True)
class MoveWish:
    """The clones of *wish*, which are to become clones of another source: *target* is the wish for such ones."""

    wish: CloneWish
    target: CloneWish

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.wish.clones]


def wish_from(params: dict[str, t.Any]) -> MoveWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    wish = _wish.wish_from(params)
    for name, usual in (("kind", LINKED), ("state", "present")):
        if params[name] != usual:
            raise InvalidRequest(
                f"rebase_to: moves existing linked clones, and {name} is {params[name]}: leave one of the two out"
            )
    target = replace(wish, source=params["rebase_to"])
    target.require_valid()
    return MoveWish(wish, target)
