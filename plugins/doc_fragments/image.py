# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameters of modules that are about image files."""

from __future__ import annotations


class ModuleDocFragment:
    """Who uses an image, which one is meant, and who reads it."""

    DOCUMENTATION = r"""
options:
  uri:
    description:
      - The libvirt connection that is asked who uses an image. Where nothing answers there, only QEMU's own locks are
        consulted.
    type: str
    default: qemu:///system
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
notes:
  - Neither libvirt-python nor lxml is needed. Where both are installed and libvirt answers, it is asked as well who
    uses an image.
"""

    PATH = r"""
options:
  path:
    description:
      - The absolute path of the image.
    type: path
    required: true
"""

    DEPENDENTS = r"""
options:
  search_paths:
    description:
      - More directories in which overlays are looked for that read what is to be written. It is always looked beside
        that, in the directories of libvirt's storage pools, at the disks of domains, and at the overlays that are noted
        beside it.
    type: list
    elements: path
    default: []
"""

    QCOW2 = r"""
options:
  compat:
    description:
      - The version of the qcow2 format, V(1.1) is qcow2 version 3, V(0.10) is version 2.
    type: str
    choices: ['0.10', '1.1']
  lazy_refcounts:
    description:
      - Whether reference counts are updated lazily, which is faster on slow storage, and wants a repair after a crash.
    type: bool
  refcount_bits:
    description:
      - The width of a reference count in bits.
    type: int
    choices: [1, 2, 4, 8, 16, 32, 64]
  extended_l2:
    description:
      - Whether clusters have subclusters. Needs a O(cluster_size) of at least V(16K); allows preallocation beside a
        backing file.
    type: bool
"""
