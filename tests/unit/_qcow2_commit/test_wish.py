# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What no merge could grant."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish


def test_what_no_world_could_grant_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be merged into itself"):
        CommitWish("/images/top", "qcow2", base="/images/top").require_valid()
    with pytest.raises(InvalidRequest, match="qed images are not emptied"):
        CommitWish("/images/top", "qed").require_valid()
