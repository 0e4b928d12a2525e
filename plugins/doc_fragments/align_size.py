# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameter that has sizes of raw images fit their file system."""

from __future__ import annotations


class ModuleDocFragment:
    """Alignment of sizes."""

    DOCUMENTATION = r"""
options:
  align_size:
    description:
      - Whether the size of a raw image is rounded up to what QEMU needs there for C(cache=none) and
        C(cache=directsync). QEMU cannot open a raw image in these modes whose size is no multiple of the sectors of its
        storage, such as 4096 bytes. Other formats are not concerned.
    type: bool
    default: false
"""
