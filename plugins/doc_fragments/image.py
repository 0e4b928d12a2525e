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
      - The libvirt connection that is asked which domains use an image. If it does not answer, a task that would write
        or remove something fails, and nothing is changed. A task that only reads continues with a warning.
      - If it is left out, all libvirts of this host are asked that the user of the task can reach. These are
        V(qemu:///system), the V(qemu:///session) of this user and, for root, the sessions of other users that run.
        If none of them can be asked, the result has a warning that says why. Only QEMU's own locks protect the disk of
        a running guest then, and nothing protects the disk of a domain that is off.
      - A given V(qemu:///system) or V(qemu:///session) is asked together with the others of this host. Any other URI
        is asked alone.
    type: str
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
notes:
  - libvirt-python and lxml are needed to ask libvirt which domains use an image. Without them a task warns that it
    did not ask, or fails if it gives O(uri).
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
      - More directories to search for overlays of the image that is to be written. The task always searches the
        image's own directory, the directories of libvirt's storage pools, the disks of domains, and the overlays that
        are noted beside the image.
    type: list
    elements: path
    default: []
"""

    QCOW2 = r"""
options:
  compat:
    description:
      - The version of the qcow2 format. V(1.1) is qcow2 version 3, V(0.10) is version 2.
    type: str
    choices: ['0.10', '1.1']
  lazy_refcounts:
    description:
      - Whether reference counts are updated lazily. This is faster on slow storage, and needs a repair after a crash.
    type: bool
  refcount_bits:
    description:
      - The width of a reference count in bits.
    type: int
    choices: [1, 2, 4, 8, 16, 32, 64]
  extended_l2:
    description:
      - Whether clusters have subclusters. This needs a O(cluster_size) of at least V(16K). An image with a backing
        file can only be preallocated with it.
    type: bool
"""
