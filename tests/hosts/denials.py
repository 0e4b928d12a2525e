# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AppArmor and SELinux have denied, by the journal of a host."""

from __future__ import annotations

import re
from dataclasses import dataclass

_APPARMOR = re.compile(r'apparmor="DENIED"')
_SELINUX = re.compile(r"avc:\s+denied\s")
_PERMISSIVE = re.compile(r"\bpermissive=1\b")


@dataclass(frozen=True)
class Denials:
    """Lines of the journal: what was denied, and what would have been if its domain were not permissive."""

    enforced: tuple[str, ...]
    permitted: tuple[str, ...]


def denials(journal: str) -> Denials:
    """The denials among the lines of a journal."""
    lines = [line for line in journal.splitlines() if _APPARMOR.search(line) or _SELINUX.search(line)]
    permitted = [line for line in lines if _PERMISSIVE.search(line)]
    return Denials(tuple(line for line in lines if line not in permitted), tuple(permitted))
