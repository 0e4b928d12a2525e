# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shows how far the module is, where it copies: overlays are made in no time."""

from __future__ import annotations

from ansible_collections.kvmops.disk.plugins.plugin_utils._live_progress import LiveProgress


class ActionModule(LiveProgress):
    """The module vm_linked_clone, watched where that is worth a job of its own."""

    def _is_watched(self) -> bool:
        arguments = self._task.args
        copies = arguments.get("rebase_to") is not None or "full" in (
            arguments.get("kind"),
            arguments.get("mode"),
            arguments.get("fallback"),
        )
        return copies and arguments.get("state") != "absent" and super()._is_watched()
