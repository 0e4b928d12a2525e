# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a domain's XML gives its guest, of what somebody can change while it runs: processors, memory, limits."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import tuning as _tuning


def changed(live: str, definition: str) -> list[str]:
    """What the running domain *live* has more, or less, of than its *definition* gives it: ``vCPUs (4, and 2 by the
    definition)``, ..."""
    now, then = _amounts(live), _amounts(definition)
    return [
        f"{name} ({now.get(name, 'none')}, and {then.get(name, 'none')} by the definition)"
        for name in {**now, **then}
        if now.get(name) != then.get(name)
    ]


def _amounts(xml: str) -> dict[str, str]:
    domain = _document.parse(xml)
    found = {}
    processors, memory = domain.find("vcpu"), domain.find("currentMemory")
    if processors is not None:
        found["vCPUs"] = processors.get("current") or (processors.text or "").strip()
    if memory is not None:
        found["memory"] = f"{(memory.text or '').strip()} {memory.get('unit') or 'KiB'}"
    for disk in domain.iterfind("devices/disk"):
        limits = {name: value for name, value in _tuning.tuning(disk).throttle.items() if value}
        if limits:
            found[f"limits of {disk.find('target').get('dev')}"] = _said(limits)
    return found


def _said(limits: t.Mapping[str, int | str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(limits.items()))
