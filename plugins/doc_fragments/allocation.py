# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameters that say how an image is allocated."""

from __future__ import annotations


class ModuleDocFragment:
    """Allocation of new images."""

    DOCUMENTATION = r"""
options:
  preallocation:
    description:
      - How much of a new image is allocated when it is made.
      - V(off) allocates on first write. V(metadata) prepares the tables of a qcow2 image, but not its data.
        V(falloc) reserves all blocks without writing them. V(full) writes zeros to all of them.
      - For V(raw) images V(metadata) is not available. Formats other than V(raw) and V(qcow2) only know V(off).
      - An image does not record how it was allocated. So this option leaves an existing image alone, except for the
        space that is added when it grows.
    type: str
    choices: ['off', metadata, falloc, full]
  allocation:
    description:
      - The same choice as O(preallocation) in VMware's words.
      - V(thin) is O(preallocation=off), V(lazy_zeroed_thick) is O(preallocation=falloc),
        V(eager_zeroed_thick) is O(preallocation=full).
    type: str
    choices: [thin, lazy_zeroed_thick, eager_zeroed_thick]
  cluster_size:
    description:
      - The cluster size of a new qcow2 image; a power of two from V(512) to V(2M).
      - Larger clusters need less metadata for large disks. Smaller ones waste less space on small writes.
    type: str
"""
