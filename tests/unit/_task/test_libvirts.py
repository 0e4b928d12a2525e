# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which libvirts answer, and what is said of those that do not."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed, MissingLibrary, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import places as _places
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.places import SESSION, SYSTEM, Place
from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import ask, beside
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings

FOREIGN = "qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock"


class Host:
    """Libvirts at PLACES, of which those of ANSWERS answer, those of READ_ONLY only to readers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *places: Place) -> None:
        self.answers: set[str] = set()
        self.read_only: set[str] = set()
        self.error: Exception | None = None
        monkeypatch.setattr(_places, "beside", lambda _uri: [*places])
        monkeypatch.setattr(Hypervisor, "connect", self._connect)

    def _connect(self, uri: str, *, readonly: bool = False, seconds: float | None = None) -> Hypervisor:
        if self.error is not None:
            raise self.error
        if uri in self.answers or (readonly and uri in self.read_only):
            return Hypervisor(None, uri)
        if uri == FOREIGN and seconds is not None:
            raise NoAnswer(f"{uri}: waited {seconds:g} s")
        raise LibvirtFailed(f"{uri}: cannot connect to libvirt: it is not there")


def uris(found: tuple[Hypervisor, ...]) -> list[str]:
    return [one.uri for one in found]


def test_all_that_answer_are_asked_and_of_others_only_what_is_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, Place((SYSTEM,), seen=False), Place((SESSION,)), Place((FOREIGN,), foreign=True))
    host.answers = {SESSION}
    found = ask(None)
    assert (uris(found.own), uris(found.foreign)) == ([SESSION], [])
    assert found.unasked == (f"{FOREIGN} was not asked, because {FOREIGN}: waited 5 s",)
    host.answers = {SESSION, FOREIGN, SYSTEM}
    found = ask(None)
    assert (uris(found.own), uris(found.foreign), found.unasked) == ([SYSTEM, SESSION], [FOREIGN], ())


def test_where_none_answers_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, Place((SYSTEM,), seen=False), Place((SESSION,)))
    (told,) = ask(None).unasked
    assert told.startswith(f"libvirt was not asked, because {SYSTEM}: cannot connect to libvirt: it is not there; ")
    host.error = MissingLibrary("lxml", "to read XML", "")
    (told,) = ask(None).unasked
    assert told.count("has no lxml: install the package python3-lxml") == 1


def test_a_given_libvirt_must_answer_unless_the_task_only_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    with pytest.raises(LibvirtFailed, match="nothing was changed: correct the uri, or leave it out"):
        ask("qemu:///sytem")
    (told,) = ask("qemu:///sytem", must_answer=False).unasked
    assert "libvirt was not asked, because qemu:///sytem" in told
    host.error = MissingLibrary("libvirt-python", "to speak with libvirt", "")
    with pytest.raises(MissingLibrary):
        ask(SYSTEM)


def test_a_user_who_may_only_read_asks_by_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, Place((SYSTEM,)))
    host.read_only = {SYSTEM}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert uris(ask(None).own) == [SYSTEM]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert uris(ask(None).own) == []


def test_a_socket_that_a_daemon_left_behind_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    left = "qemu+unix:///session?socket=/run/user/0/libvirt/libvirt-sock"
    host = Host(monkeypatch, Place((left, SESSION)))
    host.answers = {SESSION}
    assert uris(beside(Hypervisor(None, SYSTEM)).own) == [SYSTEM, SESSION]


def test_another_users_session_that_fails_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Hypervisor):
        def listing(self) -> Any:
            raise LibvirtFailed(f"{self.uri}: cannot list the domains")

        def pools(self, *, active_only: bool = True) -> Any:
            raise LibvirtFailed(f"{self.uri}: cannot list the storage pools")

    Host(monkeypatch)
    warnings: list[str] = []
    found = Surroundings(lambda: ask(None), warn=warnings.append)
    found.libvirts = type(found.libvirts)(foreign=(Failing(None, FOREIGN),))
    assert (found.users, found.directories()) == ([], [])
    assert [f"{FOREIGN} was not asked, because" in told for told in warnings] == [True, True]
