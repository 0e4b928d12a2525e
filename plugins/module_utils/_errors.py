# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a task fails: one family of errors whose messages say what was found, what was asked and what to do."""

from __future__ import annotations

import typing as t


class DiskError(Exception):
    """Something that ends the task.

    The message is for the person who wrote the task; *facts* are for the playbook that reacts to the failure
    and are returned beside ``msg``.
    """

    def __init__(self, message: str, **facts: t.Any) -> None:
        super().__init__(message)
        self.facts = facts
        #: What to do about it: the last words of a failure, which a warning of the same leaves out.
        self.advice = ""


class InvalidRequest(DiskError):
    """The wish itself is wrong, whatever the world looks like: raised before anything is touched."""


class RelativeSize(InvalidRequest):
    """A size such as +1G where the final one is meant. *growth* is in bytes."""

    def __init__(self, text: str, what: str, growth: int) -> None:
        super().__init__(
            f"{what}: {text} is not taken here: give the final size, so that a second run does not change it again"
        )
        self.text = text
        self.what = what
        self.growth = growth


class NotPermitted(DiskError):
    """The user of this run may not do it. Facts: ``path``, the file or directory that does not let him."""


class MissingImage(DiskError):
    """There is no image where the task says that there is one."""


class UnsafeImage(DiskError):
    """The content of an image contradicts what was said of it, or points outside the image."""


class NotBelieved(UnsafeImage):
    """State that somebody else than root and the user of this run may have written. Facts: ``path``."""


class ImageInUse(DiskError):
    """Somebody else has the image open or defines it as a disk. Facts: ``in_use_by``."""


class HasDependents(DiskError):
    """Overlays read the image as their backing file. Facts: ``dependents``."""


class NotEnoughSpace(DiskError):
    """The file system cannot take what is to be written. Facts: ``required_bytes``, ``available_bytes``."""


class OperationInFlight(DiskError):
    """Another run works on the same image. Facts: ``operation``."""


class QemuImgFailed(DiskError):
    """qemu-img ended with an error. Facts: ``rc``, ``stderr``, ``command``."""


class LibvirtFailed(DiskError):
    """libvirt refused, or cannot be reached. Facts: ``libvirt_code`` where libvirt gave one."""


class DomainIsOff(LibvirtFailed):
    """A domain that ran before could not be started again: what a person has to know first. Facts: ``missing``."""


class NoAnswer(DiskError):
    """A call to libvirt was given up, as QEMU or libvirt itself is silent: what was asked may still be done, later.

    So nothing is undone after it, and the next run finds out: see may_still_happen().
    """


class MissingLibrary(DiskError):
    """A Python library that the task needs cannot be imported on the target. *trace*: the traceback of the attempt."""

    def __init__(self, library: str, reason: str, trace: str) -> None:
        super().__init__(reason)
        self.library = library
        self.trace = trace


class Interrupted(BaseException):
    """The process was told to end; what was begun is undone on the way out.

    It is no DiskError, as KeyboardInterrupt is no Exception: whoever overlooks an image that cannot be read is not to
    overlook the order to end.
    """


def may_still_happen(error: BaseException | None) -> bool:
    """Whether *error*, or one on the way out of which it came up, is a NoAnswer."""
    while error is not None and not isinstance(error, NoAnswer):
        error = error.__context__
    return error is not None
