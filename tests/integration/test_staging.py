# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only root can show of a new file that resembles its model."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest


def test_a_new_file_gets_the_owner_that_its_model_has_at_rest_without_libvirts_bookkeeping(tmp_path: Path) -> None:
    model, copy = tmp_path / "model", tmp_path / "copy"
    for path in (model, copy):
        path.write_bytes(b"")
    os.chown(model, 55, 55)  # QEMU's, to which libvirt has lent it
    os.setxattr(model, "trusted.libvirt.security.dac", b"+1234:+4321")
    os.setxattr(model, "trusted.other", b"kept")
    _rest.resemble(str(copy), str(model))
    assert (copy.stat().st_uid, copy.stat().st_gid) == (1234, 4321)
    assert "trusted.other" in os.listxattr(copy)
    assert "trusted.libvirt.security.dac" not in os.listxattr(copy)
