# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of the capacity report as HTML.

The templates are filled in by Jinja itself, not by Ansible. Ansible treats each value of each row as something that may
be a template; for thousands of rows that takes minutes.
"""

from __future__ import annotations

import typing as t
from datetime import datetime, timezone

import jinja2

_TEMPLATE = "page.html.j2"


def html_of(page: t.Mapping[str, t.Any], title: str, templates: str) -> str:
    """The HTML of *page*, as page_of returns it. *templates* is the directory of the templates.

    All that is put into the page is escaped: hosts, guests and file names may say what they like. Raises
    jinja2.TemplateError for a template that is missing or wrong.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=True,
    )
    return environment.get_template(_TEMPLATE).render(page=page, title=title, now=datetime.now(timezone.utc))
