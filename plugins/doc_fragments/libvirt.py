# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The parameters that say where libvirt is."""

from __future__ import annotations


class ModuleDocFragment:
    """The connection to libvirt."""

    DOCUMENTATION = r"""
options:
  uri:
    description:
      - The libvirt connection that manages the domains.
      - V(qemu:///session) works without root.
      - For V(qemu:///system) and V(qemu:///session), the other libvirts of this host are asked as well who uses an
        image, as far as the user of the task can reach them. Any other URI is asked alone.
    type: str
    default: qemu:///system
"""

    REQUIREMENTS = r"""
options: {}
requirements:
  - python >= 3.9
  - qemu-img >= 6.2
  - libvirt >= 8.0
  - libvirt-python
  - lxml
"""
