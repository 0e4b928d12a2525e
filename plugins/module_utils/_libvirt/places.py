# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where on this host a libvirt may be: told by its sockets and definitions, so that none is started to be asked."""

from __future__ import annotations

import glob
import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass

SYSTEM, SESSION = "qemu:///system", "qemu:///session"

#: What libvirtd, or the daemon for QEMU alone, listens at, in the directory of its kind.
_SOCKETS = ("libvirt-sock", "virtqemud-sock")
_RUN, _RUN_OF_USERS = "/run", "/run/user"


@dataclass(frozen=True)
class Place:
    """A libvirt that may be there, by the ways to it; *seen*: something tells that it is.

    *foreign*: it is the session of another user.
    """

    uris: tuple[str, ...]
    seen: bool = True
    foreign: bool = False


def beside(uri: str | None) -> list[Place]:
    """The libvirts of this host that are to be asked besides that at *uri*, or all of them where that is None.

    None where *uri* leads elsewhere: by a name of its own, such as that of another host or of a socket.
    """
    if uri not in (None, SYSTEM, SESSION):
        return []
    places = [] if uri == SYSTEM else [_system()]
    if uri != SESSION:
        places += _own_session()
    return places + _foreign_sessions()


def _system() -> Place:
    return Place((SYSTEM,), seen=bool(_sockets(_RUN)))


def _own_session() -> list[Place]:
    """The session of this user. Without a socket nothing runs in it, and without a definition nothing is off, either:
    then it is not asked, since the question alone would start it."""
    found = [uri for directory in _own_directories() for uri in _session_uris(directory)]
    if _has_definitions():
        found.append(SESSION)
    return [Place(tuple(found))] if found else []


def _foreign_sessions() -> list[Place]:
    """The sessions of other users, as far as they run and root asks."""
    if os.geteuid() != 0:
        return []
    own = set(map(os.path.realpath, _own_directories()))
    others = [path for path in sorted(glob.glob(f"{_RUN_OF_USERS}/*")) if os.path.realpath(path) not in own]
    return [Place(tuple(uris), foreign=True) for path in others if (uris := _session_uris(path))]


def _own_directories() -> t.Iterator[str]:
    """Where the sockets of this user's session may be: a task that became this user may not have its environment."""
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        yield named
    usual = f"{_RUN_OF_USERS}/{os.geteuid()}"
    if usual != named:
        yield usual
    yield _base_directory("XDG_CACHE_HOME", ".cache")


def _has_definitions() -> bool:
    directory = os.path.join(_base_directory("XDG_CONFIG_HOME", ".config"), "libvirt", "qemu")
    return bool(glob.glob(f"{glob.escape(directory)}/*.xml"))


def _base_directory(variable: str, usual: str) -> str:
    return os.environ.get(variable) or os.path.join(os.path.expanduser("~"), usual)


def _session_uris(directory: str) -> list[str]:
    return [f"qemu+unix:///session?socket={socket}" for socket in _sockets(directory)]


def _sockets(directory: str) -> list[str]:
    return [path for name in _SOCKETS if os.path.exists(path := os.path.join(directory, "libvirt", name))]
