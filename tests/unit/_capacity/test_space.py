# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a file system has left, as far as it tells."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.file_systems import FileSystem
from ansible_collections.kvmops.disk.plugins.module_utils._capacity.space import NewImage
from ansible_collections.kvmops.disk.plugins.module_utils._errors import NotEnoughSpace
from ansible_collections.kvmops.disk.plugins.module_utils._host import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import Measure
from unit.samples import MIB


def test_a_file_system_that_does_not_tell_refuses_nothing() -> None:
    silent = next(directory for directory in ("/proc", "/sys") if not os.statvfs(directory).f_blocks)
    assert _file_systems.room(silent) is None
    assert _space.available_bytes(silent) is None
    _space.require_bytes(["/silent/x"], 1 << 60, None)
    FileSystem((silent,), None).require_room([NewImage("/silent/x", 1 << 60)], 1.2)


def test_what_is_reserved_for_root_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, free, free_to_all = 1000, 100, 50
    told = os.statvfs_result((4096, 1024, blocks, free, free_to_all, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: told)
    room = _file_systems.room(str(tmp_path))
    assert room is not None
    assert (room.size, room.available) == (blocks * 1024, free_to_all * 1024)


def test_the_longest_file_is_as_long_as_one_can_be_made(tmp_path: Path) -> None:
    longest = _file_systems.longest_file(str(tmp_path))
    assert longest is not None
    assert list(tmp_path.iterdir()) == [], "nothing was made to find that out"
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, longest)
    assert file.stat().st_size == longest
    if longest < (1 << 63) - 1:
        with pytest.raises(OSError, match="File too large") as refused:
            os.truncate(file, longest + 1)
        assert refused.value.errno == errno.EFBIG
        with pytest.raises(NotEnoughSpace, match=f"{tmp_path}/x: would be a file of .* the longest that") as told:
            _space.require_length(str(tmp_path / "x"), longest + 1)
        assert told.value.facts == {"required_bytes": longest + 1, "available_bytes": longest}
    _space.require_length(str(tmp_path / "x"), longest)


def test_a_file_system_without_nameless_files_is_asked_by_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = _file_systems.longest_file(str(tmp_path))
    monkeypatch.setattr(os, "O_TMPFILE", os.O_WRONLY)  # which a directory cannot be opened for
    assert _file_systems.longest_file(str(tmp_path)) is None
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("file")
    assert _file_systems.longest_file(str(tmp_path)) is None
    (tmp_path / "file").touch()
    assert _file_systems.longest_file(str(tmp_path)) == longest


def test_the_tables_of_a_disk_that_was_measured_as_qcow2_are_no_data() -> None:
    tables = 3 << 30
    assert Measure(tables, tables + (20 << 40)).data(20 << 40) == 0
    assert Measure(tables + MIB, tables + (20 << 40)).data(20 << 40) == MIB
    assert Measure(tables + 65536, tables + 65536).data(1) == 65536
