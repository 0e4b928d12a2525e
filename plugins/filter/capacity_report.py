# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter that prepares the capacity report; documented in capacity_report.yml."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.kvmops.disk.plugins.plugin_utils._report import page_of


def capacity_report(reported: t.Any) -> dict[str, t.Any]:
    """The page of the report. Raises AnsibleFilterError for what the role would not have gathered."""
    try:
        return page_of(reported)
    except (KeyError, TypeError, AttributeError) as error:
        raise AnsibleFilterError(f"kvmops.disk.capacity_report: not what hosts report: {error!r}") from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"capacity_report": capacity_report}
