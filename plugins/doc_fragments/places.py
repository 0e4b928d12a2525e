# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a module does where others may exchange names."""

from __future__ import annotations


class ModuleDocFragment:
    """Directories that other users may write."""

    DOCUMENTATION = r"""
options:
  trust_directories:
    description:
      - Whether the task trusts every user who may exchange names in the directories that it names, or in one above
        them. It matters where the task runs as root, and only for what the module cannot make safe itself.
      - In such a directory no link is followed. The module has the kernel refuse links there, which needs Linux 5.14
        and the right to mount. Where that is not possible the task is refused unless this is V(true).
      - libvirt opens files by their names. So a new image that libvirt is to fill is refused in such a directory unless
        this is V(true).
      - So is a merge of images that do not all belong to one other user, and a change of an image of root that others
        may write, or that has several names or a data file.
      - Notes of earlier runs that others may have written are not believed, and links of others are not followed,
        whatever this says.
    type: bool
    default: false
"""
