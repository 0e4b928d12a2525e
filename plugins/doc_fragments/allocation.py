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
      - V(off) allocates on first write. V(metadata) prepares the tables of a qcow2 image, not its data.
        V(falloc) reserves all blocks without writing them. V(full) writes zeros to all of them.
      - For V(raw) images V(metadata) is not available; formats other than V(raw) and V(qcow2) only know V(off).
      - An image does not remember how it was allocated, so this never makes a difference to one that exists,
        except for the space that growing it adds.
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
      - Larger clusters need less metadata for large disks, smaller ones waste less on small writes.
    type: str
"""
