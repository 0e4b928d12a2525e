# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which users of an image count, for somebody who is about to do something to it."""

from __future__ import annotations

import typing as t

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import Claim


def anybody(_user: Claim) -> bool:
    """Every user counts."""
    return True


def running(user: Claim) -> bool:
    """Only a user that runs counts: one that is off reads the image when it starts, as it is then."""
    return user.running


def running_as_disk(user: Claim) -> bool:
    """Only a user that runs counts, and not where it has the image as a backing file, which it does not write."""
    return user.running and not user.role.startswith("backing file")
