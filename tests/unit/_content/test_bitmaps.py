# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the dirty bitmaps of an image of which another is made."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._content.bitmaps import carried
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._formats.bitmaps import Bitmap
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import KEEP_WORDS


def bitmap(name: str, *, in_use: bool = False) -> Bitmap:
    return Bitmap(name.encode(), 65536, in_use, enabled=True, table_offset=0, table_entries=0)


WHOLE, LEFT_OPEN = bitmap("nightly"), bitmap("weekly", in_use=True)


def test_what_can_be_kept_is_kept() -> None:
    for wanted in ("auto", "required"):
        found = carried("/i", [WHOLE], wanted, None)
        assert (found.kept, found.lost, found.warning) == ((WHOLE,), (), None)
    assert carried("/i", [WHOLE], "auto", None).bytes_needed(1 << 40, None) == 33 << 16


def test_what_gets_lost_is_named() -> None:
    for bitmaps, obstacle in (([WHOLE], "raw has none"), ([WHOLE, LEFT_OPEN], None)):
        lost = carried("/i", bitmaps, "auto", obstacle).lost
        assert lost == tuple(one.text for one in bitmaps if obstacle or one.in_use)
        warning = carried("/i", bitmaps, "auto", obstacle).warning
        assert warning is not None
        assert ", ".join(lost) in warning
        with pytest.raises(DiskError, match="keep_bitmaps is required") as refused:
            carried("/i", bitmaps, "required", obstacle)
        assert refused.value.facts["bitmaps"] == list(lost)


def test_nothing_is_said_where_nothing_is_lost_or_that_is_meant() -> None:
    assert carried("/i", [], "required", "raw has none").warning is None
    meant = carried("/i", [WHOLE], "no", None)
    assert (meant.kept, meant.warning) == ((), None)


def test_yes_means_required() -> None:
    assert KEEP_WORDS == {"auto": "auto", "required": "required", "no": "no", "yes": "required"}
