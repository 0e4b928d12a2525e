# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made like a file gets owner, mode and labels as that has them while no guest runs on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest

RUNNING = b"system_u:object_r:svirt_image_t:s0:c151,c487\0"
AT_REST = b"system_u:object_r:virt_image_t:s0\0"


def test_a_new_file_resembles_its_model(tmp_path: Path) -> None:
    model, copy = tmp_path / "model", tmp_path / "copy"
    for path in (model, copy):
        path.write_bytes(b"")
    model.chmod(0o640)
    os.setxattr(model, "user.note", b"kept")
    _rest.resemble(str(copy), str(model))
    assert copy.stat().st_mode & 0o7777 == 0o640
    assert os.getxattr(copy, "user.note") == b"kept"


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"security.selinux": AT_REST}, {"security.selinux": AT_REST}),
        (
            {"security.selinux": RUNNING, "trusted.libvirt.security.selinux": AT_REST.rstrip(b"\0")},
            {"security.selinux": AT_REST},
        ),
        ({"security.selinux": RUNNING, "trusted.libvirt.security.dac": b"+107:+107"}, {}),
        (
            {"system.posix_acl_access": b"\2", "user.note": b"ours"},
            {"system.posix_acl_access": b"\2", "user.note": b"ours"},
        ),
        ({"trusted.libvirt.security.dac": b"+0:+0", "trusted.libvirt.security.ref_dac": b"1"}, {}),
    ],
    ids=["at rest", "what libvirt remembers", "one guest's alone", "others stay", "libvirt's own"],
)
def test_a_new_file_gets_the_label_that_its_model_has_at_rest(
    found: dict[str, bytes], wanted: dict[str, bytes]
) -> None:
    assert _rest.attributes_at_rest(found) == wanted
