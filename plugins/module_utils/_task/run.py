# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of a module: its result, its failure, its end by a signal."""

from __future__ import annotations

import errno
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
from ansible_collections.kvmops.disk.plugins.module_utils._text import visible, visible_result

#: What ends a run with a message of its own.
_TOLD = (DiskError, Interrupted)


def run_module(
    module: AnsibleModule, function: t.Callable[[AnsibleModule], dict[str, t.Any]], *, only_looks: bool = False
) -> None:
    """Runs *function* and exits with its result, or with the failure that its error describes.

    One that *only looks* may be shown any path.
    """
    for name in END:
        signal.signal(name, _on_signal)
    warn = module.warn
    vars(module)["warn"] = lambda text: warn(visible(text))
    try:
        if not only_looks:
            from ansible_collections.kvmops.disk.plugins.module_utils._task.places import guard

            guard(module)
        if {"owner", "group", "mode"} <= {*module.argument_spec}:
            from ansible_collections.kvmops.disk.plugins.module_utils._task.attributes import require_known

            require_known(module.params)
        module.exit_json(**visible_result(function(module)))
    except MissingLibrary as error:
        module.fail_json(msg=missing_required_lib(error.library, reason=str(error)), exception=error.trace)
    except Interrupted as error:
        module.fail_json(msg=visible(_told(whole_story(error))))
    except DiskError as error:
        module.fail_json(msg=visible(_told(_about(error, module) + whole_story(error))), **_told(error.facts))
    except OSError as error:
        if error.filename is None:
            raise
        module.fail_json(msg=visible(_told(_of_file(error))), path=_told(str(error.filename)))


def _about(error: DiskError, module: AnsibleModule) -> str:
    """The option of the task by which it names the file that *error* is about, where the message does not say it."""
    from ansible_collections.kvmops.disk.plugins.module_utils._task.advice import about_option

    option = about_option(error, module.params, module.argument_spec)
    return f"{option}: " if option else ""


def _told(failure: t.Any) -> t.Any:
    """*failure*, a text or facts, with the names that a person knows in the place of those of open directories."""
    from ansible_collections.kvmops.disk.plugins.module_utils._host.opened import told

    if isinstance(failure, dict):
        return {key: _told(value) for key, value in failure.items()}
    if isinstance(failure, (list, tuple)):
        return [_told(value) for value in failure]
    return told(failure) if isinstance(failure, str) else failure


def _of_file(error: OSError) -> str:
    """What to say of a file that was there, and as expected, when it was looked at."""
    is_link = " (a link stands there, or above it, and is not followed)" if error.errno == errno.ELOOP else ""
    return (
        f"{error.filename}: {error.strerror}{is_link}: it has changed since it was looked at: what was begun has been "
        "undone, or is finished by the next run: find out who changed it, then run again"
    )


def whole_story(error: BaseException) -> str:
    """The message of *error*; where it came up while another one was being undone, that one's first, unless a domain
    is off now that ran before."""
    first = _undone(error)
    if isinstance(error, DomainIsOff) and isinstance(first, _TOLD):
        return f"{error}. That was while this was being undone: {whole_story(first)}"
    if isinstance(error, _TOLD) and isinstance(first, _TOLD):
        return f"{whole_story(first)}. Then, while that was being undone: {error}"
    if not isinstance(error, DiskError):
        return str(error)
    from ansible_collections.kvmops.disk.plugins.module_utils._task.advice import what_to_do

    return f"{error}{what_to_do(error)}"


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
