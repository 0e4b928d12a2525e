# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter that renders the page of the capacity report; documented in capacity_report_page.yml."""

from __future__ import annotations

import typing as t

import jinja2
from ansible.errors import AnsibleFilterError
from ansible_collections.kvmops.disk.plugins.plugin_utils._report import page_of
from ansible_collections.kvmops.disk.plugins.plugin_utils._report_page import html_of

Facts = t.Mapping[str, t.Any]

_FACT = "capacity_report_result"
_NOTHING = {"problem": "It could not be reached, or failed before anything could be looked at."}


def capacity_report_page(hostvars: t.Any, hosts: t.Iterable[str], title: str, templates: str) -> str:
    """The HTML of the page on *hosts*. Raises AnsibleFilterError for what the role would not have gathered."""
    try:
        return html_of(page_of([_reported(hostvars, host) for host in hosts]), title, templates)
    except (KeyError, TypeError, AttributeError) as error:
        raise AnsibleFilterError(f"kvmops.disk.capacity_report_page: not what hosts report: {error!r}") from error
    except jinja2.TemplateError as error:
        raise AnsibleFilterError(f"kvmops.disk.capacity_report_page: {templates}: {error!r}") from error


def _reported(hostvars: t.Any, host: str) -> Facts:
    """What the role has kept of the host, under its name.

    It is taken as it was kept. An item of hostvars would have each of its values looked at for templates, and facts
    hold none.
    """
    known: Facts = hostvars.raw_get(host)
    return {**known.get(_FACT, _NOTHING), "name": host}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"capacity_report_page": capacity_report_page}
