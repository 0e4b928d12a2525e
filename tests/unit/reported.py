# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host may report, in few words, and the page that the role renders of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.kvmops.disk.plugins.plugin_utils._report_page import html_of

TEMPLATES = Path(__file__).resolve().parents[2] / "roles" / "capacity_report" / "templates"
GIB = 1 << 30
Facts = dict[str, Any]


def image(path: str, **facts: Any) -> Facts:
    usual = {
        "path": path,
        "format": "qcow2",
        "virtual_size": 10 * GIB,
        "actual_size": GIB,
        "promised": 10 * GIB,
        "grows": True,
        "backing_file": None,
        "dependents": [],
        "domains": [],
        "missing": [],
        "writable": True,
        "problem": None,
    }
    return {**usual, **facts}


def system(*images: Facts, **facts: Any) -> Facts:
    promised = sum(one["promised"] for one in images)
    usual = {
        "mount": "/srv",
        "device": "/dev/sda1",
        "type": "ext4",
        "pools": [],
        "size": 100 * GIB,
        "used": 10 * GIB,
        "available": 90 * GIB,
        "promised": promised,
        "ratio": promised / (100 * GIB),
        "limit": 1.2,
        "over_limit": promised > 120 * GIB,
        "images": list(images),
    }
    return {**usual, **facts}


def disk(domain: str, path: str | None, **facts: Any) -> Facts:
    usual = {
        "uuid": domain,
        "state": "running",
        "target": "vda",
        "device": "disk",
        "readonly": False,
        "discard": None,
        "problem": None,
    }
    chain: list[Facts] = [
        {"path": path, "format": "qcow2", "virtual_size": 10 * GIB, "actual_size": GIB, "snapshots": []}
    ]
    return {"domain": domain, "path": path, "backing_chain": chain if path else [], **usual, **facts}


def checked(path: str, result: str = "good", **facts: Any) -> Facts:
    numbers = {name: facts.pop(name, 0) for name in ("corruptions", "leaks", "check_errors")}
    return {
        "path": path,
        "check": {"result": result, **numbers},
        "snapshots": [],
        "problems": [],
        "reclaimable": 0,
        **facts,
    }


def rendered(page: Facts, title: str = "Storage of virtual machines") -> str:
    """The HTML page, as the role makes it."""
    return html_of(page, title, str(TEMPLATES))
