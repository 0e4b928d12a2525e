# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether QEMU may write an image is known before it is asked to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._host import access as _access

QEMU = (64055, 64055)


@pytest.mark.parametrize(
    ("mode", "owner", "user", "allowed"),
    [
        (0o600, 0, QEMU, True),
        (0o200, QEMU[0], QEMU, True),
        (0o444, 0, QEMU, False),
        (0o400, QEMU[0], QEMU, False),
        (0o464, QEMU[0], QEMU, False),
        (0o464, 0, QEMU, True),
        (0o446, 4321, QEMU, True),
        (0o444, 0, (0, 0), True),
        (0o444, 0, None, True),
    ],
)
def test_qemu_may_write_what_its_owner_or_else_others_may(
    tmp_path: Path, mode: int, owner: int, user: tuple[int, int] | None, allowed: bool
) -> None:
    image = tmp_path / "image"
    image.touch()
    os.chown(image, owner, 0)
    image.chmod(mode)
    if allowed:
        _access.require_writable_by_qemu(str(image), lambda: user, "merge it")
        return
    with pytest.raises(DiskError, match=rf"its mode {mode:04o} does not let QEMU \(user {QEMU[0]}\)") as refused:
        _access.require_writable_by_qemu(str(image), lambda: user, "merge it")
    assert refused.value.facts["path"] == str(image)
