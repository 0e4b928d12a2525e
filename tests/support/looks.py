# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of qcow2_image_info, which change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.module import run_module

Result = dict[str, Any]


def run(*paths: Path | str, check_mode: bool = False, **params: Any) -> Result:
    options = {name: params.pop(name, None) for name in ("env", "as_user", "python")}
    return run_module(
        "qcow2_image_info", {"paths": [str(path) for path in paths], **params}, check=check_mode, **options
    )


def look(*paths: Path | str, **params: Any) -> Result:
    """A run that must succeed, and change nothing."""
    result = run(*paths, **params)
    assert not result.get("failed"), result["msg"]
    assert result["changed"] is False
    return result


def one(path: Path | str, **params: Any) -> dict[str, Any]:
    result = look(path, **params)
    (found,) = result["images"]
    assert isinstance(found, dict)
    return found


def refused(*paths: Path | str, **params: Any) -> Result:
    result = run(*paths, **params)
    assert result.get("failed"), result
    assert "Traceback" not in result["msg"] + str(result.get("exception", "")), result
    return result
