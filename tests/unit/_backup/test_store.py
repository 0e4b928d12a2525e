# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What anybody may put into a directory of backups is refused by name, and nothing outside of it is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._backup import digests, store
from unit.laid_backups import SIZE, UUID, image, lay


def problems(dest: Path, *, verify: bool = False) -> dict[str, tuple[str, ...]]:
    found = store.backups(str(dest), UUID, digests.digest_on_disk if verify else None)
    return {one.name: one.problems for one in found}


def test_a_chain_that_is_whole_has_no_problems(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    lay(tmp_path, "b", "a")
    assert problems(tmp_path, verify=True) == {"a": (), "b": ()}
    assert store.domains(str(tmp_path)) == [UUID]


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda d: (d / "backup.json").unlink(), "backup.json is missing"),
    "link as manifest": (
        lambda d: _replaced(d / "backup.json", lambda p: p.symlink_to("/etc/passwd")),
        "backup.json is a link, and is not followed",
    ),
    "pipe as manifest": (lambda d: _replaced(d / "backup.json", os.mkfifo), "backup.json is no regular file"),
    "directory as manifest": (lambda d: _replaced(d / "backup.json", Path.mkdir), "backup.json is no regular file"),
    "long manifest": (lambda d: os.truncate(d / "backup.json", 1 << 40), "backup.json is longer than 1048576 bytes"),
    "manifest of another": (
        lambda d: (d / "backup.json").write_text((d / "backup.json").read_text().replace('"a"', '"b"')),
        f"backup.json is of the backup b of {UUID}",
    ),
    "no image": (lambda d: (d / "vda.qcow2").unlink(), "vda.qcow2 is missing"),
    "link as image": (
        lambda d: _replaced(d / "vda.qcow2", lambda p: p.symlink_to("/etc/shadow")),
        "vda.qcow2 is a link, and is not followed",
    ),
    "pipe as image": (lambda d: _replaced(d / "vda.qcow2", os.mkfifo), "vda.qcow2 is no regular file"),
    "cut image": (lambda d: os.truncate(d / "vda.qcow2", 1000), "vda.qcow2 has 1000 bytes, expected 1024"),
    "image with a backing file": (
        lambda d: (d / "vda.qcow2").write_bytes(image("/etc/shadow")),
        "vda.qcow2 has the backing file '/etc/shadow', expected None",
    ),
    "image of another size": (
        lambda d: (d / "vda.qcow2").write_bytes(image(size=2 * SIZE)),
        f"vda.qcow2 is a disk of {2 * SIZE} bytes, expected {SIZE}",
    ),
    "no image at all": (lambda d: (d / "vda.qcow2").write_bytes(1024 * b"x"), "vda.qcow2 is damaged: "),
}


@pytest.mark.parametrize("which", HOSTILE)
def test_what_is_no_backup_is_refused_by_name_and_what_stands_on_it_too(tmp_path: Path, which: str) -> None:
    directory = lay(tmp_path, "a")
    lay(tmp_path, "b", "a")
    spoil, said = HOSTILE[which]
    spoil(directory)
    found = problems(tmp_path)
    assert found["a"][0].startswith(said)
    assert found["b"] == (f"needs the backup a, which {found['a'][0]}",)


def test_a_link_to_a_directory_is_no_backup(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    (tmp_path / UUID / "b").symlink_to("a")
    (tmp_path / UUID / "bad name").mkdir()
    assert problems(tmp_path) == {
        "a": (),
        "b": ("is no directory, or a link to one",),
        "bad name": ("has a name that no backup has",),
    }


def test_a_flipped_byte_is_found_where_all_is_read(tmp_path: Path) -> None:
    path = lay(tmp_path, "a") / "vda.qcow2"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert problems(tmp_path) == {"a": ()}
    assert problems(tmp_path, verify=True) == {"a": ("vda.qcow2 has other content than was backed up",)}


def test_files_that_have_changed_places_are_found(tmp_path: Path) -> None:
    lay(tmp_path, "a")
    lay(tmp_path, "b", "a")
    place = tmp_path / UUID
    os.rename(place / "b" / "vda.qcow2", place / "kept")
    os.rename(place / "a" / "vda.qcow2", place / "b" / "vda.qcow2")
    os.rename(place / "kept", place / "a" / "vda.qcow2")
    found = problems(tmp_path)
    assert found["a"] == ("vda.qcow2 has the backing file '../a/vda.qcow2', expected None",)
    assert found["b"][0] == "vda.qcow2 has the backing file None, expected '../a/vda.qcow2'"


def test_no_path_of_a_manifest_leads_out_of_its_directory(tmp_path: Path) -> None:
    directory = lay(tmp_path, "a")
    facts = json.loads((directory / "backup.json").read_text())
    facts["files"]["../../secret"] = facts["files"].pop("domain.xml")
    (directory / "backup.json").write_text(json.dumps(facts))
    assert problems(tmp_path)["a"] == ("backup.json has other files than its disks and the definition",)
