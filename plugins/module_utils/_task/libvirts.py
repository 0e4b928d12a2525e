# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The libvirts of a task: those that are asked who uses an image, and why others are not."""

from __future__ import annotations

import os
import sys

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed, MissingLibrary
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import places as _places
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._xml.document import require_lxml

#: Seconds that the session of another user has to answer: whoever that is must not hold up the task.
_PATIENCE_WITH_OTHERS = 5.0
#: The packages of Debian, Ubuntu, Fedora, the Red Hat family and openEuler.
_PACKAGES = {"libvirt-python": "python3-libvirt", "lxml": "python3-lxml"}
_GUARD = "so only QEMU's locks, which a guest has while it runs, tell who uses an image"


@dataclass(frozen=True)
class Libvirts:
    """Those that answered, of which the *foreign* ones are sessions of other users.

    *unasked* says in whole sentences which were not asked, and why.
    """

    own: tuple[Hypervisor, ...] = ()
    foreign: tuple[Hypervisor, ...] = ()
    unasked: tuple[str, ...] = ()


def ask(uri: str | None, *, must_answer: bool = True) -> Libvirts:
    """The libvirt at *uri*, which the task gives, with those of this host beside it; all of this host for None.

    Raises DiskError where one that is given *must_answer*, and does not.
    """
    if uri is None:
        return _with_others(Libvirts(), None)
    try:
        return beside(_connect(uri))
    except DiskError as error:
        if not must_answer:
            return Libvirts(unasked=(_nobody_asked([_reason(error)]),))
        if isinstance(error, MissingLibrary):
            raise
        raise LibvirtFailed(
            f"{error}: whether a domain uses an image cannot be seen, so nothing was changed: correct the uri, or "
            "leave it out where no libvirt is to be asked but those of this host",
            **error.facts,
        ) from error


def beside(own: Hypervisor) -> Libvirts:
    """*own*, the libvirt that the task is about, with those of this host beside it."""
    return _with_others(Libvirts((own,)), own.uri)


def _with_others(found: Libvirts, uri: str | None) -> Libvirts:
    own = [*found.own]
    foreign: list[Hypervisor] = []
    silent: dict[_places.Place, str] = {}
    for place in _places.beside(uri):
        try:
            answered = _first_that_answers(place)
        except DiskError as error:
            silent[place] = _reason(error)
        else:
            (foreign if place.foreign else own).append(answered)
    if silent and not (own or foreign):
        unasked = [_nobody_asked([*dict.fromkeys(silent.values())])]
    else:
        unasked = [f"{place.uris[0]} was not asked, because {silent[place]}" for place in silent if place.seen]
    return Libvirts(tuple(own), tuple(foreign), tuple(unasked))


def _first_that_answers(place: _places.Place) -> Hypervisor:
    """Raises what the last way to it does."""
    seconds = _PATIENCE_WITH_OTHERS if place.foreign else None
    for uri in place.uris[:-1]:
        try:
            return _connect(uri, seconds)
        except LibvirtFailed:  # a socket that a daemon left behind
            continue
    return _connect(place.uris[-1], seconds)


def _connect(uri: str, seconds: float | None = None) -> Hypervisor:
    """A connection; one that only reads, which is enough to ask, where a user may have no other."""
    require_lxml()
    try:
        return Hypervisor.connect(uri, seconds=seconds)
    except LibvirtFailed as error:
        if os.geteuid() == 0:
            raise
        try:
            return Hypervisor.connect(uri, readonly=True, seconds=seconds)
        except DiskError:
            raise error from None


def _nobody_asked(reasons: list[str]) -> str:
    return f"libvirt was not asked, because {'; '.join(reasons)}: {_GUARD}"


def _reason(error: DiskError) -> str:
    if not isinstance(error, MissingLibrary):
        return str(error)
    package = _PACKAGES.get(error.library, error.library)
    return f"{sys.executable} has no {error.library}: install the package {package}, or {error.library} for that Python"
