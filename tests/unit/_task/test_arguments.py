# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters that several modules have: what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import (
    absolute,
    overcommit_from,
    require_usable_name,
    search_paths_from,
)


@pytest.mark.parametrize("name", ["-x", "a,b", "1a", "json:{}", "x" * 255, "ü" * 127, " ", "007", "a/b"])
def test_any_text_that_fits_names_a_snapshot(name: str) -> None:
    require_usable_name(name, "snapshot", 255)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "snapshot: a name has from 1 to 255 bytes"),
        ("ü" * 128, "has 256"),
        ("caf\udce9", "not UTF-8 text"),
        ("a\nb", "control characters"),
        ("\u2028", "control characters"),
    ],
    ids=repr,
)
def test_a_name_that_tools_would_mangle_is_refused(name: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        require_usable_name(name, "snapshot", 255)


@pytest.mark.parametrize("path", ["web.qcow2", "./web", "/images/", "/images/a\0b"], ids=repr)
def test_what_cannot_be_the_name_of_an_image_is_refused(path: str) -> None:
    assert absolute("/images/web.qcow2", "path") == "/images/web.qcow2"
    with pytest.raises(InvalidRequest, match="path: "):
        absolute(path, "path")


def test_search_paths_are_directories(tmp_path: Path) -> None:
    assert search_paths_from({"search_paths": [str(tmp_path), "/"]}) == (str(tmp_path), "/")
    with pytest.raises(InvalidRequest, match="is not a directory"):
        search_paths_from({"search_paths": [str(tmp_path / "gone")]})


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_of_promises_is_a_ratio(ratio: float) -> None:
    assert overcommit_from({"max_overcommit": None}) is None
    assert overcommit_from({"max_overcommit": 1.2}) == 1.2
    with pytest.raises(InvalidRequest, match=r"max_overcommit: .* is not a ratio"):
        overcommit_from({"max_overcommit": ratio})
