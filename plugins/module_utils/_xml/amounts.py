# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a domain's XML gives its guest, of what somebody can change while it runs: processors, memory, limits."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document


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
        target, limits = disk.find("target"), _limits(disk.find("iotune"))
        if target is not None and limits:
            found[f"limits of {target.get('dev')}"] = limits
    return found


def _limits(tuning: t.Any) -> str:
    """What an ``<iotune>`` says, but for what is no limit."""
    told = {limit.tag: (limit.text or "").strip() for limit in (tuning if tuning is not None else ())}
    return " ".join(f"{name}={value}" for name, value in sorted(told.items()) if value != "0")
