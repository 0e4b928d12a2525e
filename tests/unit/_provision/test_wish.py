# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of an image: what no world could grant is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._provision.wish import ImageWish

PATH = "/images/clone.qcow2"


def wish(**parts: Any) -> ImageWish:
    return ImageWish(PATH, Layout("qcow2"), **parts)


@pytest.mark.parametrize("parts", [{"backing_file": "/images/base"}, {"backing_format": "raw"}], ids=str)
def test_a_backing_file_and_its_format_go_together(parts: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="needs backing_format beside it"):
        wish(**parts).require_valid()


def test_an_image_cannot_be_its_own_backing_file() -> None:
    with pytest.raises(InvalidRequest, match="cannot be its own backing file"):
        wish(backing_file=PATH, backing_format="qcow2").require_valid()
