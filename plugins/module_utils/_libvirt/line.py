# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The line to a libvirt, made anew where its daemon was restarted, as an upgrade of its package does.

QEMU goes on meanwhile, and so do its block jobs (HAZARDS G8): whoever waits for one only has to ask again.
"""

from __future__ import annotations

import functools
import threading
import time
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding

#: Seconds that a daemon may be away: an upgrade of its package stops it first, and starts it once all is unpacked.
ABSENCE = 120.0
_LOOK_EVERY = 0.25
_Method = t.TypeVar("_Method", bound=t.Callable[..., t.Any])


class Line:
    """A connection to the libvirt at *uri*, and another one after each that broke.

    *seconds* are what it gets to answer, and to come back, where it is not to hold up the task. Raises libvirtError
    where nothing answers at all, NoAnswer where whoever is there says nothing.
    """

    def __init__(self, uri: str, *, readonly: bool = False, seconds: float | None = None) -> None:
        self._connect = functools.partial(binding.connect, uri, readonly=readonly, seconds=seconds)
        self._uri = uri
        self._absence = ABSENCE if seconds is None else seconds
        self._restoring = threading.Lock()
        self._gone_since: float | None = None
        self.last = self._connect()

    def connection(self) -> t.Any:
        """libvirt's connection, which was there a moment ago. Waits for a daemon that is away.

        Raises NoAnswer where it does not come back; at once where it was waited for already.
        """
        with self._restoring:
            while self.is_broken():
                self._restore()
            return self.last

    def is_broken(self) -> bool:
        try:
            return not self.last.isAlive()
        except binding.libvirt.libvirtError:  # a driver that cannot tell
            return False

    def _restore(self) -> None:
        if self._gone_since is None:
            self._gone_since = time.monotonic()
        try:
            self.last = self._connect()
        except binding.libvirt.libvirtError as error:
            if time.monotonic() - self._gone_since > self._absence:
                raise self._gone(error) from error
            time.sleep(_LOOK_EVERY)
        else:
            self._gone_since = None

    def _gone(self, error: t.Any) -> NoAnswer:
        return NoAnswer(
            f"libvirt at {self._uri} went away, and was not back after {self._absence:g} s; what was begun may go on "
            f"without it: start libvirtd (or virtqemud), then run again: that run finishes the work: "
            f"{error.get_error_message()}"
        )


def repeatable(ask: _Method) -> _Method:
    """Has a method of what is reached by ``_line`` ask once more where the line broke before the answer came.

    For what only looks, or does the same when it is done twice.
    """

    @functools.wraps(ask)
    def asking(self: t.Any, *arguments: t.Any, **options: t.Any) -> t.Any:
        line: Line = self._line  # pylint: disable=protected-access
        while True:
            asked_by = line.last
            try:
                return ask(self, *arguments, **options)
            except LibvirtFailed:
                if line.last is asked_by and not line.is_broken():
                    raise

    return t.cast(_Method, asking)
