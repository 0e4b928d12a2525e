# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images and wishes of conversions."""

from __future__ import annotations

from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish, Openers
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Secret

GIB = 1 << 30
SOURCE = Image("/images/web.qcow2", "qcow2", 10 * GIB, GIB, compat="1.1")
BASE = Image("/images/golden.qcow2", "qcow2", 8 * GIB, GIB, compat="1.1")
NIGHTLY = Snapshot("3", "nightly", "2024-01-01T00:00:00+00:00", 0, 10 * GIB)
LUKS = replace(SOURCE, encrypted=True, encryption=Encryption("luks"))
AES = replace(SOURCE, encrypted=True, encryption=Encryption("aes"))
OPENERS = Openers(Secret(b"top"), Secret(b"below"))
KEY = EncryptionWish(Secret(b"new"), Secret(b"new"))
OVER_BASE: dict[str, Any] = {"backing_file": BASE.path, "backing_format": "qcow2"}


def wish(image_format: str = "qcow2", **parts: Any) -> ImageConvertWish:
    layout = parts.pop("layout", Layout(image_format))
    return ImageConvertWish(
        **{"src": SOURCE.path, "src_format": "qcow2", "dest": "/images/new", "layout": layout, **parts}
    )
