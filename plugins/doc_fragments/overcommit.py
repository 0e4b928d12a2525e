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
        would promise more fails before it changes anything. By default there is no limit.
      - The promise is the sum over all images that are known to lie on the file system. An image, also an overlay,
        counts as the size of its disk, or as what it occupies, if that is more (with snapshots, for example). An image
        that others have as their backing file counts as what it occupies. A new image counts in place of the image
        that it replaces, and in place of a source that is removed after its conversion.
      - Known are the files that domains name as disks, as backing files or in snapshots. Known are also all files in
        the directories of those files, in the directory of the image, in the directories of libvirt's storage pools,
        and in O(search_paths).
      - Tasks with this option on one file system are counted and carried out one after the other, so that together
        they stay within the limit.
    type: float
"""
