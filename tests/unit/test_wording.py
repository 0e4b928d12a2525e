# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One spelling, and plain words, in all that users read: documentation, roles, playbooks, changelog and messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*", "roles/**/*", "playbooks/*", "changelogs/fragments/*", "plugins/**/*.yml")
    for path in ROOT.glob(pattern)
    if path.is_file()
)

#: What is not said (a regular expression), and what to say.
WORDS = {
    r"off[ -]line": "offline",
    r"on[ -]line": "online, or live",
    "nobody": "no domain, no program, or what is meant",
    "somebody": "another domain, another program, or what is meant",
    r"who(so)?ever": "who or what is meant",
    "anew": "again",
    r"(go|goes|going|gone|went) on with": "resume, continue, or switch to",
    "all the same": "still, or nevertheless",
    "in the clear": "unencrypted",
    "told to end": "stopped",
    "meanwhile": "in the meantime, by then, by now, or nothing",
    "(any|every)body": "any user, all users, or what is meant",
    "for ever": "forever",
    r"mode=(auto|offline|live)": "method=..., which has mode as its old name",
    r"mode=(full|incremental|linked|reflink)": "kind=..., which has mode as its old name",
    r"mode: (auto|offline|live)": "method: ..., which has mode as its old name",
    r"mode: (full|incremental|linked|reflink)": "kind: ..., which has mode as its old name",
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def said_otherwise(text: str) -> list[str]:
    plain = re.sub(r"\s+", " ", text)
    return [
        f"{plain[max(0, found.start() - 30) : found.end() + 30]}: say {better}"
        for word, better in WORDS.items()
        for found in re.finditer(rf"\b{word}\b", plain, re.IGNORECASE)
    ]


def strings(path: Path) -> Iterator[str]:
    """The texts of a plugin that are no comments on its code: its documentation, and what it says to users."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    comments = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            yield node.value


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_a_document_is_in_plain_words(path: Path) -> None:
    assert said_otherwise(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PLUGINS, ids=relative)
def test_a_plugin_documents_itself_and_speaks_to_users_in_plain_words(path: Path) -> None:
    assert said_otherwise(" ".join(strings(path))) == []


def test_code_and_tests_spell_offline_in_the_same_way() -> None:
    folders = (ROOT / name for name in ("plugins", "tests", "extensions"))
    sources = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".yml", ".sh"}]
    other = re.compile(r"\b(off|on)[ -]line\b", re.IGNORECASE)
    here = Path(__file__).resolve()
    assert [relative(path) for path in sources if path != here and other.search(path.read_text("utf-8"))] == []


def test_a_word_across_a_line_end_is_found() -> None:
    assert said_otherwise("It is done off\nline.") == ["It is done off line.: say offline"]
