# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far the module is."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.plugin_utils._live_progress import LiveProgress


class ActionModule(LiveProgress):
    """The module vm_disk_backup, watched."""
