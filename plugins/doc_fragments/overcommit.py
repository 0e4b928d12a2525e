# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameter that limits what the images on a file system may come to need."""

from __future__ import annotations


class ModuleDocFragment:
    """Overcommit."""

    DOCUMENTATION = r"""
options:
  max_overcommit:
    description:
      - How many times its own size the file system of the image may promise to images, such as V(1.2). A task that
        would promise more fails before it changes anything. Off if not given.
      - What is promised is the sum over all images that are known to lie there. Each counts as the size of its disk,
        overlays too, or as what it occupies, where that is more (with snapshots, say). An image that others have as
        their backing file counts as what it occupies. A new image counts in the place of what it replaces, and of a
        source that is removed after its conversion.
      - Known are the files that domains name as disks, backing files or in snapshots, and all files beside those,
        beside the image, in the directories of libvirt's storage pools and in O(search_paths).
      - Of tasks with this parameter on one file system, one after the other is counted and carried out, so that they do
        not cross the limit together.
    type: float
"""
