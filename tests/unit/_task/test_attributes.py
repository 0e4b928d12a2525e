# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which owners, groups and modes of a task there are: asked before anything is made."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._task.attributes import require_known


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"owner": None, "group": None, "mode": None},
        {"owner": "root", "group": "root"},
        {"owner": "4711", "group": "4711"},
        *(
            {"mode": mode}
            for mode in ("0640", "640", "00640", "0o640", 0o640, 0o600, 0, "u=rw,g=r", "a+rX", "o=", "g=u")
        ),
    ],
    ids=str,
)
def test_what_the_file_modules_take_is_taken(said: dict[str, Any]) -> None:
    require_known(said)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"owner": "nosuchuser"}, "owner: there is no user nosuchuser on this host: make it first"),
        ({"group": "nosuchgroup"}, "group: there is no group nosuchgroup on this host: make it first"),
        *(({"mode": mode}, "mode: .* is not a mode") for mode in ("rwx", "0999", "", "u=rw;g=r", -1, 0o10000)),
    ],
    ids=str,
)
def test_what_there_is_not_is_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        require_known(said)
