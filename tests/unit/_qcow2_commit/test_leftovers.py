# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found of a merge that died."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._files.beside import record_path
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Rest
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import MERGED
from unit.samples import qcow2, raw


@pytest.fixture
def images(tmp_path: Path) -> tuple[str, str, str]:
    """Paths of an overlay, of what is between, and of a base, which are there."""
    paths = [str(tmp_path / name) for name in ("top", "middle", "base")]
    for path in paths:
        Path(path).touch()
    return paths[0], paths[1], paths[2]


def died(images: tuple[str, str, str], verb: str = "commit") -> None:
    """Leaves the records of a run that merged the first of *images* into the last, and was about to remove."""
    top, middle, base = images
    observed = Observed((qcow2(top), qcow2(middle), raw(base)), [(0, 1)])
    facts: dict[str, Any] = {"verb": verb, **_leftovers.record(observed, [top, middle], MERGED)}
    for path in images:
        Path(record_path(path)).write_text(json.dumps(facts), encoding="utf-8")


def test_an_emptied_overlay_still_leads_to_all_that_its_merge_was_about(images: tuple[str, str, str]) -> None:
    top, _middle, base = images
    assert _leftovers.with_noted([top, base], None) == [top, base]
    died(images)
    assert _leftovers.with_noted([top, base], None) == [top, base, images[1]]


def test_the_note_of_another_verb_leads_nowhere(images: tuple[str, str, str]) -> None:
    died(images, verb="rebase")
    assert _leftovers.with_noted(images[:1], None) == [images[0]]


def test_what_was_to_go_is_known_by_its_identity(images: tuple[str, str, str]) -> None:
    top, middle, base = images
    wish = CommitWish(top, "qcow2", end="remove")
    died(images)
    Path(top).unlink()
    assert _leftovers.rest(wish, None) == Rest(base, "raw", (middle,))
    Path(middle).rename(f"{middle}.moved")
    Path(middle).touch()
    assert _leftovers.rest(wish, None) == Rest(base, "raw"), "another file stands there now"


def test_without_a_record_nothing_is_left_and_a_base_that_the_task_names_has_to_be_there(tmp_path: Path) -> None:
    top, base = str(tmp_path / "top"), str(tmp_path / "base")
    assert _leftovers.rest(CommitWish(top, "qcow2", end="remove"), None) == Rest(None, None)
    with pytest.raises(MissingImage, match="neither it nor its base"):
        _leftovers.rest(CommitWish(top, "qcow2", base=base, base_format="raw", end="remove"), None)
