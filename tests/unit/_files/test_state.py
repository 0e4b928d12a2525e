# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A state file counts only where nobody else can have written it, and is never waited for."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotBelieved
from ansible_collections.kvmops.disk.plugins.module_utils._files import record as _record
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state

Plant = Callable[[Path], object]


def another_name(place: Path) -> None:
    place.write_bytes(b"{}")
    os.link(place, f"{place}.2")


def group_writable(place: Path) -> None:
    place.write_bytes(b"{}")
    place.chmod(0o660)


def a_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(place.parent)
        server.bind(place.name)


def a_link(place: Path) -> None:
    (place.parent / "victim").write_bytes(b"{}")
    place.symlink_to("victim")


PLANTS: dict[str, tuple[Plant, str]] = {
    "a FIFO": (os.mkfifo, "it is a FIFO"),
    "a socket": (a_socket, "it is a socket"),
    "a directory": (Path.mkdir, "it is a directory"),
    "a link": (a_link, "it is a symbolic link"),
    "a link to nothing": (lambda place: place.symlink_to("nothing"), "it is a symbolic link"),
    "a hard link": (another_name, "it has 2 names"),
    "what a group may write": (group_writable, r"others may write it \(mode 0660\)"),
}


@pytest.mark.parametrize("planted", PLANTS)
@pytest.mark.parametrize(
    "opened", [_state.look, lambda name: _state.hold(name, 0o600, make=True)], ids=["look", "hold"]
)
def test_what_is_no_state_file_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, opened: Callable[[str], int]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / ".web.kvmops"
    plant, reason = PLANTS[planted]
    plant(place)
    before = place.lstat()
    with pytest.raises(NotBelieved, match=reason) as refused:
        opened(str(place))
    assert str(refused.value).startswith(f"{place}: ")
    assert place.lstat() == before
    assert not (tmp_path / "nothing").exists()


def test_what_belongs_to_somebody_else_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / ".web.kvmops"
    place.touch(0o600)
    owner = place.stat().st_uid
    if owner == 0:
        owner = 65534
        os.chown(place, owner, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(NotBelieved, match=f"it belongs to the user with the number {owner}"):
        _state.look(str(place))


def test_a_state_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    place = tmp_path / ".web.kvmops"
    place.write_bytes(b"x" * 100)
    descriptor = _state.look(str(place))
    assert _state.content(descriptor, str(place)) == b"x" * 100
    os.truncate(place, 200 << 30)
    with pytest.raises(NotBelieved, match="it is longer than 1048576 bytes"):
        _state.content(descriptor, str(place))
    os.close(descriptor)


def test_a_staging_directory_counts_only_where_nobody_else_may_write(tmp_path: Path) -> None:
    place = tmp_path / ".web.kvmops.d"
    assert not _state.has_directory(str(place))
    place.mkdir(0o700)
    assert _state.has_directory(str(place))
    place.chmod(0o770)
    with pytest.raises(NotBelieved, match="others may write it"):
        _state.has_directory(str(place))
    place.rmdir()
    place.touch()
    with pytest.raises(NotBelieved, match="it is a file"):
        _state.has_directory(str(place))


WRONG = [None, 1, 1.5, True, "x", "", "relative", "/a\0b", "/\ud800", [], ["/a", 1], {}, {"a": 1}, {"/a": ["b"]}]


@pytest.mark.parametrize("name", [name for name in _record.FACTS if name != "place"])
def test_each_fact_of_a_record_has_one_shape(name: str) -> None:
    right = 0
    for value in WRONG:
        found = _record.read_record(_json({"verb": "resize", name: value}), "/images/.web.kvmops")
        fits = _record.FACTS[name](value)
        assert (found != {"verb": "unknown"}) == fits, value
        right += fits
    assert right < len(WRONG) / 2


@pytest.mark.parametrize(
    "written",
    [b"", b"{", b"[]", b"1", b'"x"', b"[" * 200_000, b"\xff\xfe", b'{"unheard": "of"}'],
    ids=lambda written: repr(written[:9]),
)
def test_what_is_no_record_tells_of_something_unknown(written: bytes) -> None:
    assert _record.read_record(written, "/images/.web.kvmops") == {"verb": "unknown"}


def test_a_record_that_was_moved_beside_another_image_tells_of_something_unknown() -> None:
    written = _json({"verb": "commit", "place": "/images/.web.kvmops"})
    assert _record.read_record(written, "/images/.web.kvmops")["verb"] == "commit"
    assert _record.read_record(written, "/images/.db.kvmops") == {"verb": "unknown"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"bases": {"relative": []}},
        {"bases": {"/a\0b": []}},
        {"bases": {"/a": ["relative"]}},
        {"bases": {"/a": [1]}},
        {"removes": {"/a": [1]}},
        {"removes": {"/a": ["1", "2"]}},
        {"source": "relative"},
        {"images": ["/a", "/\ud800"]},
        {"new_file": [1, 2, 3]},
        {"owners": {"/a": [-1, 0]}},
    ],
    ids=str,
)
def test_names_and_identities_of_a_record_are_what_they_should_be(wrong: dict[str, object]) -> None:
    found = _record.read_record(_json({"verb": "resize", **wrong}), "/images/.web.kvmops")
    assert found == {"verb": "unknown"}


def _json(facts: dict[str, object]) -> bytes:
    return json.dumps(facts).encode()
