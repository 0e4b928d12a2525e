# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change of an encrypted image that is killed, or made twice at once, leaves an image that its keys open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.encrypted import content, encryption, is_sound, opens
from support.image_tools import NOBODY, done, names, refused, small_file_system
from support.injection import at_once, killed_at

MODULE = "qcow2_image"
OLD, NEW = "the old one", "the new one"


def test_keys_survive_kills_and_runs_at_once(tmp_path: Path) -> None:
    """One image for all of it, since QEMU takes seconds to make one."""
    path = tmp_path / "disk"
    wanted: dict[str, Any] = {"path": str(path), "uri": NOBODY, "size": "4M", "encryption": encryption(OLD)}
    killed_at("qemu-img-create 1", wanted, children=True, module=MODULE)
    assert names(tmp_path) == [".disk.kvmops", ".disk.kvmops.d"], "nothing under its name"
    result = done(**wanted)
    assert result["actions"][0].startswith("remove the unfinished file")
    assert (names(tmp_path), opens(path, OLD)) == (["disk"], True)
    before = content(path, OLD)

    exchanged: dict[str, Any] = {**wanted, "encryption": encryption(NEW, {"secret": OLD, "state": "absent"})}
    killed_at("qemu-img-amend 1", exchanged, children=True, module=MODULE)
    assert opens(path, OLD), "the old key stays until the new one opens the image"
    killed_at("qemu-img-amend 2", exchanged, children=True, module=MODULE)
    assert opens(path, OLD)
    assert opens(path, NEW)
    prediction = done(**exchanged, check=True)
    assert prediction["actions"][0].startswith(f"check {path}, on which a run was interrupted")
    results = at_once(MODULE, *[exchanged] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert (opens(path, OLD), opens(path, NEW), names(tmp_path)) == (False, True, ["disk"])
    assert content(path, NEW) == before

    larger = {**wanted, "size": "6M", "encryption": encryption(NEW)}
    killed_at("qemu-img-resize 1", larger, children=True, module=MODULE)
    assert done(**larger)["changed"]
    assert not done(**larger)["changed"]
    assert is_sound(path, NEW)


def test_an_encrypted_image_whose_header_does_not_fit_is_refused_with_the_figures(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "small", "2M") as small:
        result = refused(small / "disk", size="1M", encryption=encryption(OLD))
        assert result["required_bytes"] > 2 << 20 >= result["available_bytes"]
        assert names(small) == []
