# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test laboratory: a private hypervisor, its guest, and other releases of both. See README.md."""

from __future__ import annotations

from lab.boot_disk import build_boot_disk
from lab.domain import Disk, domain_xml
from lab.guest import Guest, GuestError
from lab.hypervisor import Hypervisor
from lab.module import ModuleFailed, run_module, start_module
from lab.namespaces import LabError
from lab.pattern import pattern_sha256, write_pattern
from lab.session import SessionHypervisor
from lab.tree import tree_state

__all__ = [
    "Disk",
    "Guest",
    "GuestError",
    "Hypervisor",
    "LabError",
    "ModuleFailed",
    "SessionHypervisor",
    "build_boot_disk",
    "domain_xml",
    "pattern_sha256",
    "run_module",
    "start_module",
    "tree_state",
    "write_pattern",
]
