# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many times a file is opened and read for the facts of many images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import promises as _promises
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._formats import qcow2 as _qcow2
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image_info.survey import Survey, files_meant
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_image_info.wish import InfoWish
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from support.image_tools import create, overlay
from support.scene import MIB

Counted = Counter[tuple[str, str]]


class NoQemuImg:
    """A header without a doubt is all that is asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"qemu-img {name} was run")


NONE = cast(QemuImg, NoQemuImg())


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """How often each file is opened, and its qcow2 header understood."""
    counted: Counted = Counter()
    open_image, read_header = _headers.open_image, _qcow2.read_header

    def opened(path: str) -> BinaryIO:
        counted["opened", os.path.basename(path)] += 1
        return open_image(path)

    def understood(stream: BinaryIO, path: str) -> _qcow2.Header:
        counted["understood", os.path.basename(path)] += 1
        return read_header(stream, path)

    monkeypatch.setattr(_headers, "open_image", opened)
    monkeypatch.setattr(_qcow2, "read_header", understood)
    return counted


@pytest.fixture
def clones(tmp_path: Path) -> list[Path]:
    base = create(tmp_path / "base", "qcow2", MIB)
    directory = tmp_path / "clones"
    directory.mkdir()
    return [overlay(directory / f"{number}", base) for number in range(5)]


def info(clones: list[Path], *, backing_chain: bool = False) -> list[dict[str, Any]]:
    files = files_meant([str(clones[0].parent)], recurse=False)
    survey = Survey(NONE, InfoWish(tuple(files), trusted=True, backing_chain=backing_chain), files)
    return [survey.facts_of(path) for path in files]


def once_each(clones: list[Path]) -> Counted:
    return Counter({(how, clone.name): 1 for clone in clones for how in ("opened", "understood")})


def test_for_its_facts_an_image_is_opened_once_and_its_header_read_once(clones: list[Path], looks: Counted) -> None:
    assert [facts["virtual_size"] for facts in info(clones)] == [MIB] * 5
    assert looks == once_each(clones)


def test_the_base_of_many_chains_is_looked_at_once(clones: list[Path], looks: Counted) -> None:
    assert [len(facts["backing_chain"]) for facts in info(clones, backing_chain=True)] == [2] * 5
    assert looks["understood", "base"] == 1


def test_for_what_it_promises_an_image_is_opened_once(
    clones: list[Path], looks: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: Counter[str] = Counter()
    stat: Callable[..., os.stat_result] = os.stat

    def counted(path: Any, **options: Any) -> os.stat_result:
        statuses[os.path.basename(str(path))] += 1
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", counted)
    seen = _promises.look(map(str, clones), (), NONE, lambda _path, _device: True)
    found = _promises.count(seen, ())
    assert [(one.virtual_size, len(one.dependents)) for one in found] == [(MIB, 0)] * 5 + [(None, 5)]
    assert looks == once_each(clones)
    assert statuses["base"] <= 4, "as many clones as may be have one base"
