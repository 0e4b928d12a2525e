# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module of the collection in a fork of this process, which has loaded it: for hundreds of runs in a test."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils import basic

MODULES = "ansible_collections.kvmops.disk.plugins.modules"


def run_forked(name: str, params: Mapping[str, Any], *, check: bool = False, timeout: float = 60) -> dict[str, Any]:
    """The result of module NAME with PARAMS; TimeoutError, and everything that it started killed, after TIMEOUT."""
    module = importlib.import_module(f"{MODULES}.{name}")
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory(prefix="kvmops-forked-") as workspace:
        child = os.fork()
        if child == 0:
            _become(module, {**params, "_ansible_check_mode": check, "_ansible_tmpdir": workspace}, said.fileno())
        _await(child, timeout, name)
        said.seek(0)
        output = said.read().decode(errors="replace")
    found = json.loads(output[output.index("{") :])
    assert isinstance(found, dict)
    return found


def _become(module: Any, params: Mapping[str, Any], output: int) -> None:
    """The module in this process, which ends with it."""
    status = 1
    try:
        os.setsid()
        # pytest has put its own in their place
        sys.stdout = sys.stderr = open(output, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as we are
        basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": {**params, "_ansible_remote_tmp": "/tmp"}}).encode()
        basic._ANSIBLE_PROFILE = "legacy"
        module.main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def _await(child: int, timeout: float, name: str) -> None:
    descriptor = os.pidfd_open(child)
    try:
        start = time.monotonic()
        if not select.select([descriptor], [], [], timeout)[0]:
            os.killpg(child, signal.SIGKILL)
            raise TimeoutError(f"{name}: not done after {time.monotonic() - start:.0f} s")
    finally:
        os.waitpid(child, 0)
        os.close(descriptor)
