# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains on images of the hostile corpus: no module for domains writes or copies what such a disk points to.

libvirt, and these modules with it, look at the images below a disk as a start of the domain would; so the victim may
be opened here, and nothing of it may come out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab import Disk, Hypervisor, run_module
from lab.tree import tree_state
from support.effort import run_within
from support.hostile import FORMATS, SECRET, Canary, Hostile, corpus, make_sound
from support.image_tools import small_file_system

#: Far above what any of them takes, far below what one that got out of hand would.
SECONDS = 30
#: What libvirt has a word for.
DISK_FORMATS = ("raw", *FORMATS[:5])
#: Those that lead somewhere, or nowhere.
LEADING = (
    *("backing_file", "backing_json", "backing_nbd", "qed_backing_file", "data_file", "raw_data_file"),
    *("raw_disk_that_looks_like_an_overlay", "circle_of_two", "chain_of_seventy", "extent_elsewhere", "extent_beside"),
    *("parent_elsewhere", "qcow2_of_511_bytes"),
)


ASTRAY = ("backing", "data", "raw_data", "circle", "chain", "extent", "parent", "qed")
MODES = ("linked", "full", "reflink")
#: They would make what the domain then reads, and name it: it is enough that they say so.
PREDICTED = ("vm_linked_clone", "vm_disk_snapshot")


@pytest.fixture(scope="module")
def canary(hv: Hypervisor) -> Iterator[Canary]:
    with small_file_system(hv.images / "hostile", "256M") as small:
        (small / "corpus").mkdir()
        found = Canary(small / "canary")
        yield found
        found.close()


@pytest.fixture(scope="module")
def images(canary: Canary) -> list[Hostile]:
    return corpus(canary.directory.parent / "corpus", canary)


def harmless(
    hv: Hypervisor, canary: Canary, name: str, params: dict[str, Any], *, check: bool, seconds: float = SECONDS
) -> dict[str, Any]:
    """What module NAME says; the victim is as it was, and so is all else where nothing new was to be made."""
    corpus_directory = canary.directory.parent / "corpus"
    before = tree_state(corpus_directory)
    with canary.untouched(unopened=False):
        result = run_within(seconds, name, {**params, "uri": hv.uri}, check=check)
    said = json.dumps(result)
    assert "Traceback" not in said, result
    assert SECRET.decode()[:20] not in said
    after = tree_state(corpus_directory)
    if check or result.get("failed"):
        assert after == before
    for path in corpus_directory.glob("*/new*"):
        assert SECRET not in path.read_bytes()
        path.unlink()
    return result


def test_all_of_them_are_described_at_once(hv: Hypervisor, canary: Canary, images: list[Hostile]) -> None:
    known = [image for image in images if image.format in DISK_FORMATS]
    letters = "abcdefghijklmnopqrstuvwxyz"
    targets = [f"sd{first}{second}".strip() for first in ("", *letters) for second in letters]
    disks = [Disk(image.path, image.format, target) for image, target in zip(known, targets, strict=False)]
    hv.define(hv.domain_xml("hostile-all", disks, kernel=False))
    try:
        result = harmless(hv, canary, "vm_disk_info", {"names": ["hostile-all"]}, check=False)
    finally:
        hv.remove("hostile-all")
    assert not result.get("failed"), result
    problems = {disk["path"]: disk["problem"] for disk in result["disks"]}
    assert len(problems) == len(known)
    for image in known:
        if image.name.startswith(("circle", "chain", "extent")):
            assert problems[str(image.path)], image.name


@pytest.mark.parametrize("name", LEADING)
def test_no_module_for_domains_is_led_anywhere(
    name: str, hv: Hypervisor, canary: Canary, images: list[Hostile]
) -> None:
    (image,) = [image for image in images if image.name == name]
    domain = f"hostile-{name.replace('_', '-')}"
    hv.define(hv.domain_xml(domain, [Disk(image.path, image.format)], kernel=False))
    one = {"name": domain, "disk": "vda"}
    new = str(image.path.with_name("new"))
    clones = [{"name": f"{domain}-clone"}]
    backups = canary.directory.parent / "backups"
    backups.mkdir(exist_ok=True)
    runs: tuple[tuple[str, dict[str, Any]], ...] = (
        ("vm_disk_flatten", {**one}),
        ("vm_disk_resize", {**one, "size": "80P"}),
        ("vm_disk_snapshot", {"name": domain, "snapshot": "s"}),
        ("vm_linked_clone", {"source": domain, "clones": clones, "mode": "full"}),
        ("vm_disk_convert", {**one, "format": "qcow2" if image.format == "raw" else "raw", "dest": new}),
        ("vm_disk_reclaim", {**one, "min_gain": "0"}),
        ("vm_disk_backup", {"name": domain, "backup": name, "dest_dir": str(backups)}),
    )
    try:
        for module, params in runs:
            result = harmless(hv, canary, module, params, check=module in PREDICTED)
            # A snapshot of a disk follows nothing: it is another file above it.
            if module != "vm_disk_snapshot" and name.startswith(ASTRAY):
                assert result.get("failed") or not result["changed"], (module, result)
        harmless(hv, canary, "vm_disk_snapshot", {"name": domain, "snapshot": "s"}, check=True)
        assert not [path for path in backups.rglob("*") if path.is_file() and SECRET in path.read_bytes()]
    finally:
        hv.remove(domain)


@pytest.mark.parametrize("name", LEADING)
def test_no_machine_gets_a_disk_that_is_led_anywhere(
    name: str, hv: Hypervisor, canary: Canary, images: list[Hostile]
) -> None:
    (image,) = [image for image in images if image.name == name]
    sound, domain = canary.directory.parent / "sound", f"getting-{name.replace('_', '-')}"
    make_sound(sound, "qcow2")
    hv.define(hv.domain_xml(domain, [Disk(sound, "qcow2")], kernel=False))
    params = {"name": domain, "disk": "vdb", "path": str(image.path), "format": image.format}
    try:
        for check in (True, False):
            result = harmless(hv, canary, "vm_disk", params, check=check)
            if name.startswith(ASTRAY):
                assert result.get("failed") or not result["changed"], result
    finally:
        hv.remove(domain)
        sound.unlink()


def test_a_disk_of_petabytes_keeps_nobody_busy(hv: Hypervisor, canary: Canary, images: list[Hostile]) -> None:
    (image,) = [image for image in images if image.name == "size_60_pib_for_real"]
    sound = image.path.with_name("sound")
    make_sound(sound, "qcow2")
    hostile, clone = "hostile-vast", "hostile-vast-clone"
    hv.define(hv.domain_xml(hostile, [Disk(image.path, image.format)], kernel=False))
    hv.define(hv.domain_xml(f"{hostile}-sound", [Disk(sound, "qcow2")], kernel=False))
    one, clones = {"name": hostile, "disk": "vda"}, [{"name": clone}]
    made = {"source": f"{hostile}-sound", "clones": clones}
    refused: list[tuple[str, dict[str, Any]]] = [
        ("vm_linked_clone", {**made, "rebase_to": hostile}),
        *(("vm_linked_clone", {"source": hostile, "clones": [{"name": "new"}], "mode": mode}) for mode in MODES),
        ("vm_disk_resize", {**one, "size": "80P"}),
        ("vm_disk_snapshot", {"name": hostile, "snapshot": "s"}),
        ("vm_disk_convert", {**one, "format": "raw", "dest": str(image.path.with_name("new"))}),
    ]
    try:
        assert run_module("vm_linked_clone", {**made, "uri": hv.uri}).get("changed")
        for module, params in refused:
            result = harmless(hv, canary, module, params, check=False, seconds=SECONDS / 3)
            assert "and up to 64 TiB are believed: set trusted=true if that is right" in result.get("msg", ""), result
        # It is an image beside others, too, where those are looked for which read one.
        removed = harmless(hv, canary, "vm_linked_clone", {**made, "state": "absent"}, check=False)
        assert removed["changed"], removed
    finally:
        for domain in (hostile, f"{hostile}-sound", clone):
            hv.remove(domain)
        for path in image.path.parent.iterdir():
            if path != image.path:
                path.unlink()


@pytest.mark.parametrize("name", ["circle_of_two", "data_file"])
def test_check_mode_says_of_a_snapshot_over_such_a_disk_what_the_run_does(hv: Hypervisor, name: str) -> None:
    """Where libvirt sees the images, too, so that nothing but the module refuses; what it accepts follows nothing."""
    directory = hv.images / f"hostile-{name}"
    directory.mkdir(mode=0o711)
    canary = Canary(directory / "canary")
    (image,) = corpus(directory, canary, only=name)
    domain = f"hostile-snapshot-{name.replace('_', '-')}"
    hv.define(hv.domain_xml(domain, [Disk(image.path, image.format)], kernel=False))
    params = {"name": domain, "snapshot": "s", "uri": hv.uri}
    try:
        with canary.untouched(unopened=False):
            for asked in ("present", "reverted", "absent"):
                predicted, done = (
                    run_within(SECONDS, "vm_disk_snapshot", {**params, "state": asked}, check=check)
                    for check in (True, False)
                )
                for fact in ("failed", "msg", "changed", "actions"):
                    assert predicted.get(fact) == done.get(fact), asked
                if asked == "absent":
                    assert "set trusted=true if you know that it belongs there" in done["msg"]
    finally:
        hv.remove(domain)
        canary.close()
