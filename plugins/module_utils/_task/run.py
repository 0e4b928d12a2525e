# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a module: its result, its failure, its end by a signal."""

from __future__ import annotations

import signal
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    DomainIsOff,
    Interrupted,
    MissingLibrary,
)
from ansible_collections.kvmops.disk.plugins.module_utils._signals import END


def run_module(module: AnsibleModule, function: t.Callable[[AnsibleModule], dict[str, t.Any]]) -> None:
    """Runs *function* and exits with its result, or with the failure that its error describes."""
    for name in END:
        signal.signal(name, _on_signal)
    try:
        module.exit_json(**function(module))
    except MissingLibrary as error:
        module.fail_json(msg=missing_required_lib(error.library, reason=str(error)), exception=error.trace)
    except DiskError as error:
        module.fail_json(msg=whole_story(error), **error.facts)


def whole_story(error: BaseException) -> str:
    """The message of *error*; where it came up while another one was being undone, that one's first, unless a domain
    is off now that ran before."""
    first = _undone(error)
    if isinstance(error, DomainIsOff) and isinstance(first, DiskError):
        return f"{error}. That was while this was being undone: {whole_story(first)}"
    if isinstance(error, DiskError) and isinstance(first, DiskError):
        return f"{whole_story(first)}. Then, while that was being undone: {error}"
    return str(error)


def _undone(error: BaseException) -> BaseException | None:
    """What was being undone when *error* came up, if anything: not what a library said of it, told already."""
    cause, first = error.__cause__, error.__context__
    while first is not None and first is cause:
        cause, first = first.__cause__, first.__context__
    return first


def _on_signal(number: int, _frame: t.Any) -> None:
    """Ends the work as an error does, so that what was begun is undone; once, so that the undoing is not cut short."""
    for name in END:
        signal.signal(name, signal.SIG_IGN)
    raise Interrupted(
        f"interrupted by {signal.Signals(number).name}: what was begun has been undone, or is finished by the next run"
    )
