# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a libvirt may be: told by sockets and definitions, and none is started to be asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import places as _places
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.places import SESSION, SYSTEM, Place, beside


class Host:
    """A host with one user, who asks."""

    def __init__(self, directory: Path) -> None:
        self.run, self.users, self.home = directory / "run", directory / "run/user", directory / "home"
        self.user = self.users / str(os.geteuid())

    def socket(self, directory: Path, name: str = "libvirt-sock") -> str:
        path = directory / "libvirt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return f"qemu+unix:///session?socket={path}"

    def definition(self) -> None:
        path = self.home / ".config/libvirt/qemu/vm.xml"
        path.parent.mkdir(parents=True)
        path.touch()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setattr(_places, "_RUN", str(found.run))
    monkeypatch.setattr(_places, "_RUN_OF_USERS", str(found.users))
    monkeypatch.setenv("HOME", str(found.home))
    for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_the_libvirt_of_the_system_is_asked_even_where_nothing_tells_of_it(host: Host) -> None:
    assert beside(None) == [Place((SYSTEM,), seen=False)]
    host.socket(host.run)
    assert beside(None) == [Place((SYSTEM,))]
    assert beside(SYSTEM) == []


@pytest.mark.parametrize("name", ["libvirt-sock", "virtqemud-sock"])
def test_the_session_is_asked_where_its_socket_is(host: Host, name: str) -> None:
    socket = host.socket(host.user, name)
    assert beside(SYSTEM) == [Place((socket,))]
    assert beside(SESSION) == [Place((SYSTEM,), seen=False)]


def test_the_session_is_found_where_the_environment_says(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "mine"))
    uris = host.socket(tmp_path / "mine"), host.socket(host.user), host.socket(host.home / ".cache")
    assert beside(SYSTEM) == [Place(uris)]


def test_a_session_that_does_not_run_is_only_started_where_it_has_domains(host: Host) -> None:
    assert beside(SYSTEM) == []
    host.definition()
    assert beside(SYSTEM) == [Place((SESSION,))]
    socket = host.socket(host.user)
    assert beside(SYSTEM) == [Place((socket, SESSION))], "a daemon that died leaves its socket behind"


def test_root_asks_the_sessions_of_others_too(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    host.socket(host.users / "0")
    socket = host.socket(host.users / "1000")
    (host.users / "1001").mkdir()
    assert Place((socket,), foreign=True) in beside(SYSTEM)
    assert [place for place in beside(SYSTEM) if place.foreign] == [Place((socket,), foreign=True)]
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert beside(SYSTEM) == []


@pytest.mark.parametrize("uri", ["test:///default", "qemu+ssh://kvm1/system", "qemu:///embed?root=/vms"])
def test_a_libvirt_that_is_elsewhere_is_asked_alone(host: Host, uri: str) -> None:
    host.socket(host.run)
    host.socket(host.user)
    assert beside(uri) == []
