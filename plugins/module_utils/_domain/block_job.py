# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block jobs of a running domain: waiting for them, pivoting, ending them. Each wait ends, and says what it was for.

What counts is what libvirt's XML says of the disk: the figures of a job may say that it is through when it is not, and
events come or do not (HAZARDS G4, G7).
"""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import acting
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import DiskElement

#: Told how far a job is: bytes done, bytes in all. Both can grow.
Report = t.Callable[[int, int], None]
#: Waits until something happens to the domain, for so many seconds at most.
Wait = t.Callable[[float], None]

#: Seconds without any sign of life from a job: its storage hangs then.
STALLED = 300.0
#: Seconds that libvirt gets to do what takes it a fraction of one: on a host whose storage hangs, as long as a job.
PROMPT = 300.0
_LOOK_EVERY = 0.25


def live_disk(domain: Domain, target: str) -> DiskElement | None:
    """What the running guest has as *target* now; None where the domain is off."""
    if not domain.is_active():
        return None
    found = (disk for disk in _disks.disks(domain.xml(inactive=False)) if disk.target == target)
    return next(found, None)


def await_copy(
    domain: ActingDomain, target: str, dest: str, seconds: float, report: Report, *, job: str = "copy"
) -> None:
    """Waits until the copy of a disk to *dest*, or the *job* like one, holds what the disk does, and is kept so.

    Raises DiskError where the copy fails, the domain goes off, nothing moves, or *seconds* are over. The copy then goes
    on where it can: to be ended by whoever began it.
    """

    what = f"for the {job} of {target} to {dest} to be complete"

    def is_ready(disk: DiskElement, wait: Wait) -> bool:
        if disk.mirror != dest:
            raise _gone(domain, target, what) if _goes_off(domain, wait) else _failed(domain, target, dest, job)
        return disk.mirror_ready == "yes"

    _await(domain, target, is_ready, seconds, report, what)


def pivot(domain: ActingDomain, target: str, dest: str) -> None:
    """Lets the guest go on with *dest*. Raises DiskError where it does not; what libvirt says is not believed (G9)."""
    refusal: LibvirtFailed | None = None
    try:
        domain.pivot(target)
    except LibvirtFailed as error:
        refusal = error

    def is_there(disk: DiskElement, _wait: Wait) -> bool:
        if refusal is not None and disk.source != dest:
            raise refusal
        return disk.source == dest and disk.mirror is None

    _await(domain, target, is_there, PROMPT, _nobody, f"for {target} to be on {dest} after the pivot")


def await_pull(domain: ActingDomain, target: str, base: str | None, seconds: float, report: Report) -> None:
    """Waits until the chain of a disk begins with *base* below its own image, or ends there, and no job is left.

    Raises DiskError where the pull fails, the domain goes off, nothing moves, or *seconds* are over. The pull then goes
    on where it can: to be ended by whoever began it.
    """
    what = f"for the backing files of {target} to be in its image"
    _await_end(domain, target, lambda disk: _is_shortened(disk, base), _pull_failed, seconds, report, what)


def await_merge(domain: ActingDomain, target: str, overlay: str, seconds: float, report: Report) -> None:
    """Waits until *overlay* is none of a disk's backing files any more, as its content is in what was below it, and no
    job is left. Raises DiskError as await_pull does."""

    def is_merged(disk: DiskElement) -> bool:
        return all(link.path != overlay for link in disk.chain or ())

    what = f"for {overlay} to be merged below {target}"
    _await_end(domain, target, is_merged, _merge_failed, seconds, report, what)


def _await_end(
    domain: ActingDomain,
    target: str,
    is_over: t.Callable[[DiskElement], bool],
    failure: t.Callable[[ActingDomain, str, str | None], DiskError],
    seconds: float,
    report: Report,
    what: str,
) -> None:
    """Waits for the end of a job that ends by itself; what counts is what *is_over* finds in the disk then."""

    def is_done(disk: DiskElement, wait: Wait) -> bool:
        try:
            works = bool(domain.block_job(target))
        except LibvirtFailed:  # its QEMU is going away
            works = True
        if works:
            return False
        again = live_disk(domain, target)  # the job may have ended after the first look
        if again is not None and is_over(again):
            return True
        raise _gone(domain, target, what) if _goes_off(domain, wait) else failure(domain, target, disk.source)

    _await(domain, target, is_done, seconds, report, what)


def write_out(domain: ActingDomain, target: str) -> None:
    """Brings what a job wrote into the image of a running guest to stable storage. Raises LibvirtFailed.

    QEMU writes the metadata of that only when the guest flushes its disk, which may never be. Until then what the job
    has read is still needed (HAZARDS G14).
    """
    disk = live_disk(domain, target)
    if disk is not None and disk.index is not None:
        domain.flush(target, disk.index)


def commit_of(domain: Domain, target: str) -> tuple[str, str] | None:
    """The image that is merged below a disk of a running domain, and the one that it goes into; None where none is, or
    it is another than the one right below.

    Where the disk's own image is merged, libvirt's XML says so; of all others only QEMU knows.
    """
    if not domain.is_committed(target):
        return None
    disk = live_disk(domain, target)
    if disk is None:
        return None
    if disk.mirror is not None:
        return str(disk.source), disk.mirror
    nodes, chain = acting(domain).commit_nodes(target), disk.chain or ()
    for above, below in zip(chain, chain[1:]):
        if nodes is not None and above.index == nodes.top and below.index in nodes.writing:
            return str(above.path), str(below.path)
    return None


def end(domain: ActingDomain, target: str) -> None:
    """Ends the block job on a disk of the domain, if there is one, and waits until it is gone."""
    disk = live_disk(domain, target)
    if disk is None or (disk.mirror is None and not domain.block_job(target)):
        return
    try:
        domain.end_block_job(target)
    except LibvirtFailed:
        if domain.is_active() and domain.block_job(target):
            raise
    deadline = time.monotonic() + PROMPT
    with domain.watched() as wait:
        while (found := live_disk(domain, target)) is not None and (found.mirror or domain.block_job(target)):
            if time.monotonic() > deadline:
                raise _too_late(domain, PROMPT, f"for the block job on {target} to end")
            wait(_LOOK_EVERY)


def _await(
    domain: ActingDomain,
    target: str,
    is_done: t.Callable[[DiskElement, Wait], bool],
    seconds: float,
    report: Report,
    what: str,
) -> None:
    """Waits until *is_done* says so of the disk; it may wait a little itself, and raise."""
    began = moved = time.monotonic()
    so_far: tuple[int, int] | None = None
    with domain.watched() as wait:
        while True:
            disk = live_disk(domain, target)
            if disk is None:
                raise _gone(domain, target, what)
            if is_done(disk, wait):
                return
            figures = _figures(domain, target)
            if figures is None and _goes_off(domain, wait):
                raise _gone(domain, target, what)
            now = time.monotonic()
            if figures is not None and figures != so_far:
                so_far, moved = figures, now
                if figures[1] > 0:  # a job that is over before it was looked at has none
                    report(*figures)
            if now - began > seconds:
                raise _too_late(domain, seconds, what)
            if now - moved > STALLED:
                raise _too_late(domain, STALLED, f"without any progress {what}")
            wait(_LOOK_EVERY)


def _is_shortened(disk: DiskElement, base: str | None) -> bool:
    """Whether the image of a disk has *base* as its backing file, or none where that is None."""
    return (disk.chain[0].path if disk.chain else None) == base


def _figures(domain: ActingDomain, target: str) -> tuple[int, int] | None:
    """How far the job is; None where the domain cannot be asked, as when its QEMU is going away."""
    try:
        job = domain.block_job(target)
    except LibvirtFailed:
        return None
    return job.get("cur", 0), job.get("end", 0)


def _goes_off(domain: ActingDomain, wait: Wait) -> bool:
    """Whether the domain is off, or will be in a moment: its jobs end before it does (HAZARDS G7)."""
    for _attempt in range(4):
        if not domain.is_active():
            return True
        wait(_LOOK_EVERY)
    return not domain.is_active()


def _gone(domain: ActingDomain, target: str, what: str) -> DiskError:
    return DiskError(
        f"{domain.name}: went off, or lost {target}, while this task waited {what}: nothing was changed: run again",
        state=domain.state(),
    )


def _too_late(domain: ActingDomain, seconds: float, what: str) -> DiskError:
    return DiskError(f"{domain.name}: waited {seconds:g} s {what}: given up", state=domain.state())


def _failed(domain: ActingDomain, target: str, dest: str, job: str) -> DiskError:
    """A copy that is not there any more: QEMU gave up, and does not say why."""
    left = _left_for(dest)
    return DiskError(
        f"{domain.name}: the {job} of {target} to {dest} failed: {_likely_reason(left)}: "
        "the guest runs on its old image",
        available_bytes=left,
    )


def _pull_failed(domain: ActingDomain, target: str, path: str | None) -> DiskError:
    """A pull that is gone, and has left the chain as it was: QEMU does not say why."""
    left = _left_for(path) if path else None
    return DiskError(
        f"{domain.name}: the pull of the backing files of {target} into {path} failed, or was ended from outside: "
        f"{_likely_reason(left)}: the guest runs on, and its image still has its backing files",
        available_bytes=left,
    )


def _merge_failed(domain: ActingDomain, target: str, path: str | None) -> DiskError:
    """A merge that is gone, and has left the chain as it was: QEMU does not say why."""
    left = _left_for(path) if path else None
    return DiskError(
        f"{domain.name}: the merge of an image below {target} failed, or was ended from outside: "
        f"{_likely_reason(left)}: the guest runs on, and reads the same as before",
        available_bytes=left,
    )


def _left_for(path: str) -> int | None:
    try:
        return _space.available_bytes(os.path.dirname(os.path.realpath(path)))
    except OSError:
        return None


def _likely_reason(left: int | None) -> str:
    if left is not None and left < _space.FULL:
        return "its file system is full: free some space, or choose another place"
    return "see QEMU's log of the domain for the reason"


def _nobody(_done: int, _total: int) -> None:
    """Nobody asked how far it is."""
