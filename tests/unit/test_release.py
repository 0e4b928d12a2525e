# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of the collection, its changelog, and what its plugins say of when they came."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
GALAXY = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
RELEASES = yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text(encoding="utf-8"))["releases"]
FIRST = min(RELEASES, key=Version)
DOCUMENTED = sorted(
    path
    for pattern in ("plugins/**/*.py", "plugins/**/*.yml", "roles/*/meta/argument_specs.yml")
    for path in ROOT.glob(pattern)
    if "version_added" in path.read_text(encoding="utf-8")
)


def test_the_changelog_has_the_version_that_is_built() -> None:
    assert GALAXY["version"] == max(RELEASES, key=Version)
    page = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for version in RELEASES:
        assert f"## v{version}".replace(".", r"\.") in page


def test_the_first_release_breaks_nothing() -> None:
    changes = RELEASES[FIRST]["changes"]
    assert changes["release_summary"]
    assert not {"breaking_changes", "deprecated_features", "removed_features"} & set(changes)


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_there_came_with_a_release(path: Path) -> None:
    """What is new since the last release names the one that comes."""
    added = re.findall(r"version_added: ['\"]?([0-9.]+)", path.read_text(encoding="utf-8"))
    assert added
    assert all(Version(FIRST) <= Version(version) for version in added)
