# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of what is moved while an image of several files is put in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import stage as _stage
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging


@pytest.mark.parametrize("moved", ["elsewhere", "only others", "no list", "nonsense"])
def test_a_list_that_is_not_of_this_image_has_nothing_removed(tmp_path: Path, moved: str) -> None:
    image, victim = tmp_path / "images" / "vm.vmdk", tmp_path / "victim"
    image.parent.mkdir()
    victim.write_text("precious", encoding="utf-8")
    identity = _same_file.file_identity(str(victim))
    lists: dict[str, Any] = {
        "elsewhere": {"new": {"../victim": identity, "vm.vmdk": identity}, "old": {}},
        "only others": {"new": {"other.vmdk": identity}, "old": {}},
        "no list": ["vm.vmdk"],
        "nonsense": {"new": None, "old": None},
    }
    inside = _stage.make(str(image))
    place = Path(_staging.move_list(str(image)))
    place.write_text(json.dumps(lists[moved]), encoding="utf-8")
    with pytest.raises(UnsafeImage, match="cannot be read"):
        _file_set.settle(str(image))
    assert victim.read_text(encoding="utf-8") == "precious"
    assert place.exists(), "it is left to somebody who knows"
    inside.close()
