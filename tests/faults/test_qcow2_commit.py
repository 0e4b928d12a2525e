# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A merge that is killed, stopped, starved of space or run twice: no disk is lost, and the next run finishes it."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module, start_module
from lab.tree import tree_state
from support.held_qemu_img import HeldQemuImg
from support.image_tools import MIB, content, create, image_params, names, overlay, qemu_io
from support.injection import at_once, killed_at, points, signalled_at, waiting
from support.merge_chain import Chain, make_chain
from support.processes import is_gone
from support.waits import send

MODULE = "qcow2_commit"


def wish(chain: Chain, **params: Any) -> dict[str, Any]:
    return image_params(chain.top, {"base": str(chain.base), "base_format": "qcow2", **params})


def succeeded(params: dict[str, Any]) -> dict[str, Any]:
    result = run_module(MODULE, params)
    assert not result.get("failed"), result
    return result


def records(directory: Path) -> list[str]:
    return [name for name in names(directory) if ".kvmops" in name]


def is_right(chain: Chain, shown: str) -> None:
    """Wherever a merge was cut short, the overlay shows its disk, or the base is that disk."""
    assert content(chain.top if chain.top.exists() else chain.base) == shown


@pytest.mark.parametrize("end", ["empty", "remove"])
def test_a_merge_that_is_killed_at_any_point_is_finished_by_the_next_run(end: str, tmp_path: Path) -> None:
    """A kill in front of each call that changes the world, one of each kind, and the last ones."""
    (tmp_path / "first").mkdir()
    whole = make_chain(tmp_path / "first")
    passed = points(wish(whole, overlay=end), tmp_path / "log", module=MODULE)
    chosen = {point.split()[0]: point for point in passed}
    chosen.update({point: point for point in passed if point.startswith("unlink") or point == "pwrite 2"})
    assert "qemu-img-commit" in chosen
    assert "unlink" in chosen
    for number, point in enumerate(dict.fromkeys(["record 1", *chosen.values()])):
        directory = tmp_path / str(number)
        directory.mkdir()
        chain = make_chain(directory)
        shown = chain.shown
        killed_at(point, wish(chain, overlay=end), module=MODULE, children=point.startswith("qemu-img"))
        is_right(chain, shown)
        result = succeeded(wish(chain, overlay=end))
        assert content(chain.base) == shown, point
        assert records(directory) == [], point
        assert names(directory) == (["base"] if end == "remove" else ["base", "middle", "top"]), point
        assert result["image"]["path"] == str(chain.base)
        assert not succeeded(wish(chain, overlay=end))["changed"], point


def half_merged(chain: Chain) -> None:
    """A kill in the middle of the merge: the record stands, and the base has one of the writes."""
    killed_at("qemu-img-commit 1", wish(chain), module=MODULE, children=True)
    qemu_io(chain.base, "write -P 0x33 1152k 256k")


def test_nobody_else_works_on_a_half_merged_chain_until_it_is_merged(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    shown = chain.shown
    half_merged(chain)
    assert records(tmp_path) == [".base.kvmops", ".middle.kvmops", ".top.kvmops"]
    note = json.loads((tmp_path / ".base.kvmops").read_text(encoding="utf-8"))
    assert (note["verb"], note["stage"], note["overlay"]) == ("commit", "merging", str(chain.top))
    before = tree_state(tmp_path)
    other = {"allow_dependents": True}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("qcow2_image", image_params(chain.base, {"size": "8M", **other})),
        ("qcow2_image", image_params(chain.top, {"state": "absent"})),
        ("qcow2_image", image_params(chain.middle, {"state": "absent", **other})),
        ("qcow2_snapshot", image_params(chain.top, {"snapshot": "before"})),
        ("qcow2_convert", {"src": str(chain.base), "src_format": "qcow2", "dest": f"{tmp_path}/new", "format": "raw"}),
        (MODULE, image_params(chain.middle, other)),
    ]
    for module, params in attempts:
        for check in (True, False):
            result = run_module(module, params, check=check)
            assert f"the merge of {chain.top} into {chain.base} was interrupted" in result.get("msg", ""), (
                module,
                result,
            )
            assert "qcow2_commit with the same path and base" in result["msg"]
    assert tree_state(tmp_path) == before
    checked = run_module("qcow2_check", image_params(chain.base, {"repair": "all"}))
    assert not checked.get("failed"), checked
    assert records(tmp_path) == [".base.kvmops", ".middle.kvmops", ".top.kvmops"], (
        "a good check does not make it one disk"
    )
    assert chain.shown == shown

    prediction = run_module(MODULE, wish(chain), check=True)
    result = succeeded(wish(chain))
    assert result["actions"] == prediction["actions"]
    assert f"check {chain.base}, on which a run was interrupted at {note['started']}" in result["actions"]
    assert content(chain.base) == chain.shown == shown
    assert records(tmp_path) == []
    assert not succeeded(wish(chain))["changed"]


def test_an_overlay_that_vanished_in_the_middle_of_its_merge_is_not_taken_for_merged(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    half_merged(chain)
    chain.top.unlink()
    result = run_module(MODULE, wish(chain, remove=True))
    assert "was interrupted" in result["msg"]
    assert ".base.kvmops" in records(tmp_path)


def test_a_full_disk_stops_the_merge_and_the_next_run_finishes_it(tmp_path: Path) -> None:
    """As where somebody else fills the file system meanwhile: no file may become larger than the base is."""
    chain = make_chain(tmp_path)
    qemu_io(chain.top, "write -P 0x44 2M 2M")
    shown = chain.shown
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (chain.base.stat().st_size, hard))
    try:
        result = run_module(MODULE, wish(chain, remove=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "qemu-img commit failed (1)" in result["msg"]
    assert ".base.kvmops" in records(tmp_path)
    assert chain.shown == shown
    assert succeeded(wish(chain, remove=True))["removed"] == [str(chain.top), str(chain.middle)]
    assert (content(chain.base), names(tmp_path)) == (shown, ["base"])


class Merging:
    """A merge whose qemu-img stands still in the middle, where it has written a part of the overlay into the base."""

    def __init__(self, directory: Path, apart: Path) -> None:
        self.base = create(directory / "base", "raw", 16 * MIB)
        self.top = overlay(directory / "top", "base", "raw")
        qemu_io(self.top, "write -P 0x22 0 8M")
        self.shown = content(self.top)
        self.params = image_params(self.top, {"rate_limit": "8M", "remove": True})
        self.held = HeldQemuImg(apart, "commit", 20)
        self.run = start_module(MODULE, self.params, python=self.held.python())
        (self.qemu_img,) = self.held.wait()
        assert self.base.stat().st_blocks > 1024, "the first bytes are in the base"


@pytest.fixture
def merging(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Merging:
    return Merging(tmp_path, tmp_path_factory.mktemp("apart"))


def test_a_merge_whose_module_is_killed_goes_on_and_keeps_others_away(merging: Merging, tmp_path: Path) -> None:
    merging.run.kill(children=False)
    assert not is_gone(merging.qemu_img)
    assert "in use by a process" in run_module(MODULE, merging.params, check=True)["msg"]
    with waiting(merging.params, module=MODULE) as run:
        merging.held.let_go()
    result = run.result()
    assert is_gone(merging.qemu_img), "it waited for it"
    assert result["removed"] == [str(merging.top)]
    assert (content(merging.base, "raw"), names(tmp_path)) == (merging.shown, ["base"])


def test_a_module_that_is_told_to_end_lets_the_merge_end_and_the_next_run_goes_on(
    merging: Merging, tmp_path: Path
) -> None:
    send(merging.run.pid, signal.SIGTERM)
    merging.held.let_go()
    assert "interrupted by SIGTERM" in merging.run.result()["msg"]
    assert content(merging.top) == content(merging.base, "raw") == merging.shown
    assert records(tmp_path) == [".base.kvmops", ".top.kvmops"]
    assert succeeded(merging.params)["removed"] == [str(merging.top)]
    assert (content(merging.base, "raw"), names(tmp_path)) == (merging.shown, ["base"])


def test_a_signal_before_the_merge_leaves_all_as_it_was(tmp_path: Path) -> None:
    """One that comes while qemu-img is started lets the merge end."""
    (tmp_path / "another").mkdir()
    found = points(wish(make_chain(tmp_path / "another")), tmp_path / "log", module=MODULE)
    last = found[found.index("qemu-img-commit 1") - 1]
    chain = make_chain(tmp_path)
    before = tree_state(tmp_path)
    result = signalled_at(last, "SIGTERM", wish(chain), module=MODULE)
    assert "interrupted by SIGTERM" in result["msg"]
    after = tree_state(tmp_path)
    assert {name: after[name].content for name in ("base", "middle", "top")} == {
        name: before[name].content for name in ("base", "middle", "top")
    }
    assert succeeded(wish(chain))["changed"]


def test_runs_at_once_merge_exactly_once(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    shown = chain.shown
    results = at_once(MODULE, *[wish(chain, remove=True)] * 3)
    assert [result for result in results if result.get("failed")] == []
    assert sorted(result["changed"] for result in results) == [False, False, True]
    assert (content(chain.base), names(tmp_path)) == (shown, ["base"])
