# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses which image: one look at each user, for any number of questions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import ByFile, User


def user(domain: str, path: Path, role: str = "disk", target: str = "vda") -> User:
    return User(domain, domain, False, target, role, str(path))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("base", "a", "b", "other"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("base")
    return tmp_path / "base"


def test_a_user_is_found_by_any_name_of_its_file(base: Path) -> None:
    used = ByFile([user("a", base.with_name("link")), user("b", base.with_name("b"))])
    assert [one.domain for one in used.of(str(base))] == ["a"]
    assert used.of(str(base.with_name("other"))) == []
    assert used.of("/nonexistent") == []


def test_overlays_are_those_disks_whose_domains_read_the_file_for_them(base: Path) -> None:
    chains = [user(name, base.with_name(name)) for name in "ba"]
    chains += [user(name, base, "backing file of") for name in "ab"]
    beside = [user("a", base.with_name("other"), target="vdb"), user("c", base), user("b", base, "disk in a snapshot")]
    assert ByFile([*chains, *beside]).overlays_over(str(base)) == [str(base.with_name(name)) for name in "ab"]
    assert ByFile(chains).overlays_over(str(base.with_name("a"))) == []


def test_each_user_is_looked_at_once_for_any_number_of_questions(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def looked_at(path: str) -> str:
        looks.append(path)
        return os.path.realpath(path)

    monkeypatch.setattr(_users, "identity", looked_at)
    used = ByFile([user(str(number), base, role) for number in range(50) for role in ("disk", "backing file of")])
    assert len(looks) == 100
    for _question in range(30):
        used.of(str(base))
        used.overlays_over(str(base))
    assert len(looks) == 100 + 60
