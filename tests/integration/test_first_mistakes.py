# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a newcomer types wrongly is answered with the option that is meant and the way out, and nothing is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lab.module import run_module
from lab.tree import tree_state
from support.image_tools import NOBODY, SILENT, create, image, predicted

NOBODYS_NUMBER = 65534
MIB = 1 << 20
Params = dict[str, Any]


def answer(module: str, params: Params, place: Path, **options: Any) -> dict[str, Any]:
    """A run that must fail in words of ours, in check mode too, and leave *place* as it is."""
    plain = json.loads(json.dumps(params, default=str))
    before = tree_state(place)
    results = [run_module(module, plain, check=check, **options) for check in (True, False)]
    assert all(result.get("failed") for result in results), results
    assert results[0]["msg"] == results[1]["msg"]
    assert tree_state(place) == before
    assert ".kvmops" not in results[1]["msg"]
    assert "/proc/" not in json.dumps(results[1])
    return results[1]


@pytest.fixture
def disks(open_directory: Path) -> Path:
    """Images, raw and qcow2, a directory, and what only root may read."""
    create(open_directory / "web.raw", "raw", 20 * MIB)
    create(open_directory / "web.qcow2", "qcow2", 20 * MIB)
    create(open_directory / "secret.qcow2", "qcow2", 20 * MIB).chmod(0o600)
    (open_directory / "directory").mkdir()
    (open_directory / "closed").mkdir(mode=0o700)
    create(open_directory / "closed" / "web.qcow2", "qcow2", 20 * MIB)
    return open_directory


def about(module: str, option: str, path: Path, disks: Path) -> Params:
    """A task in which *option* means *path*, and all other options mean images that are there."""
    raw, qcow2 = disks / "web.raw", disks / "web.qcow2"
    whole: dict[str, Params] = {
        "qcow2_image": {"path": disks / "new.qcow2", "backing_file": raw, "backing_format": "raw"},
        "qcow2_convert": {
            "src": raw,
            "src_format": "raw",
            "dest": disks / "new.qcow2",
            **({"backing_file": raw, "backing_format": "raw"} if option == "backing_file" else {}),
        },
        "qcow2_check": {"path": qcow2},
        "qcow2_commit": {"path": qcow2},
        "qcow2_snapshot": {"path": qcow2, "snapshot": "before"},
        "qcow2_compare": {"path": raw, "format": "raw", "other": raw, "other_format": "raw"},
        "qcow2_bitmap": {
            "path": qcow2,
            "bitmap": "all",
            **({"state": "merged", "merge_from": ["b"], "merge_from_path": qcow2} if option != "path" else {}),
        },
    }
    return {"uri": NOBODY, **whole[module], option: path}


OPTIONS = [
    ("qcow2_image", "backing_file"),
    ("qcow2_convert", "src"),
    ("qcow2_convert", "backing_file"),
    ("qcow2_check", "path"),
    ("qcow2_commit", "path"),
    ("qcow2_snapshot", "path"),
    ("qcow2_compare", "path"),
    ("qcow2_compare", "other"),
    ("qcow2_bitmap", "path"),
    ("qcow2_bitmap", "merge_from_path"),
]


@pytest.mark.parametrize(("module", "option"), OPTIONS)
def test_a_file_that_is_missing_is_told_of_with_its_option(module: str, option: str, disks: Path) -> None:
    missing = disks / "missing.img"
    result = answer(module, about(module, option, missing, disks), disks)
    assert result["msg"].startswith(f"{option}: {missing}: no such image")
    assert result["path"] == str(missing)


@pytest.mark.parametrize(("module", "option"), OPTIONS)
def test_a_directory_is_no_image_and_told_of_with_its_option(module: str, option: str, disks: Path) -> None:
    result = answer(module, about(module, option, disks / "directory", disks), disks)
    assert result["msg"].startswith(f"{option}: {disks / 'directory'}: is a directory")
    assert result["msg"].endswith("name the image in it")


@pytest.mark.parametrize(("module", "option"), OPTIONS)
def test_an_image_that_may_not_be_read_is_told_of_with_its_owner_the_user_and_become(
    module: str, option: str, disks: Path
) -> None:
    disks.chmod(0o777)
    secret = disks / "secret.qcow2"
    formats = {"src": "src_format", "backing_file": "backing_format", "other": "other_format"}
    params = {**about(module, option, secret, disks), **({formats[option]: "qcow2"} if option in formats else {})}
    if module == "qcow2_compare" and option == "path":
        params["format"] = "qcow2"
    result = answer(module, params, disks, as_user=NOBODYS_NUMBER)
    assert result["msg"].startswith(f"{option}: {secret}: cannot be read: Permission denied")
    assert f"the task runs as nobody, and {secret} is of root:root with mode 0600: set become=true" in result["msg"]


def test_the_directory_that_is_closed_is_named(disks: Path) -> None:
    result = answer("qcow2_check", {"path": disks / "closed" / "web.qcow2"}, disks, as_user=NOBODYS_NUMBER)
    assert f"{disks / 'closed'} is of root:root with mode 0700: set become=true" in result["msg"]
    for module in ("qcow2_image_info", "storage_capacity_info"):
        result = answer(module, {"paths": [disks / "closed"], "uri": NOBODY}, disks, as_user=NOBODYS_NUMBER)
        assert result["msg"].startswith(f"paths: {disks / 'closed'}")
        assert "the task runs as nobody" in result["msg"]


def test_who_may_not_write_reads_the_user_and_the_directory(disks: Path) -> None:
    result = answer("qcow2_image", {"path": disks / "new.qcow2", "size": "1M"}, disks, as_user=NOBODYS_NUMBER)
    closed = f"the task runs as nobody, and {disks} is of root:root with mode 0755: set become=true"
    assert result["msg"].startswith(f"path: no permission to write in {disks}: {closed}")
    snapshot = {"path": disks / "web.qcow2", "snapshot": "before"}
    result = answer("qcow2_snapshot", snapshot, disks, as_user=NOBODYS_NUMBER)
    assert "no permission to write to it, asked to take or delete a snapshot: the task runs as nobody" in result["msg"]


def test_the_record_of_an_operation_is_told_of_without_its_name(disks: Path) -> None:
    os.chown(disks / "web.qcow2", NOBODYS_NUMBER, NOBODYS_NUMBER)
    before = tree_state(disks)
    grown = {"path": str(disks / "web.qcow2"), "size": "40M", "uri": NOBODY}
    result = run_module("qcow2_image", grown, as_user=NOBODYS_NUMBER)
    assert f"cannot write the record of the operation beside it, in {disks}: Permission denied" in result["msg"]
    assert "the task runs as nobody" in result["msg"]
    assert ".kvmops" not in result["msg"]
    assert tree_state(disks) == before


def test_a_file_in_the_place_of_a_directory_is_told_of(disks: Path) -> None:
    result = answer("qcow2_image", {"path": disks / "web.raw" / "new.qcow2", "size": "1M"}, disks)
    assert result["msg"] == f"path: {disks / 'web.raw'} is not a directory: name one that is"


@pytest.mark.parametrize(("size", "meant"), [("+1G", "1044M"), ("+1g", "1044M"), ("+20M", "40M")])
def test_a_growth_is_answered_with_the_final_size(size: str, meant: str, disks: Path) -> None:
    path = disks / "web.qcow2"
    result = answer("qcow2_image", {"path": path, "size": size}, disks)
    assert result["msg"] == f"size: {size} is not taken here: give the final size ({path} has 20 MiB, so {meant})"
    result = answer("qcow2_image", {"path": disks / "new.qcow2", "size": size}, disks)
    assert result["msg"].startswith(f"size: {size} is not taken here: give the final size, so that")


def test_a_small_letter_is_a_unit_as_for_qemu_img(disks: Path) -> None:
    assert not image(disks / "web.qcow2", size="20m")["changed"]
    assert image(disks / "web.qcow2", size="1g")["image"]["virtual_size"] == 1 << 30


@pytest.mark.parametrize("module", ["qcow2_image", "qcow2_convert"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"owner": "nosuchuser"}, "owner: there is no user nosuchuser on this host"),
        ({"group": "nosuchgroup"}, "group: there is no group nosuchgroup on this host"),
        ({"mode": "rwx"}, "mode: 'rwx' is not a mode"),
        ({"mode": "0999"}, "mode: '0999' is not a mode"),
    ],
    ids=str,
)
def test_an_owner_or_a_mode_that_there_is_not_is_found_before_anything_is_made(
    module: str, said: Params, told: str, disks: Path
) -> None:
    wish: Params = {"path": disks / "new.qcow2", "size": "1M"}
    if module == "qcow2_convert":
        wish = {"src": disks / "web.raw", "src_format": "raw", "dest": disks / "new.qcow2"}
    assert answer(module, {"uri": NOBODY, **wish, **said}, disks)["msg"].startswith(told)


@pytest.mark.parametrize(
    ("module", "params"),
    [
        ("vm_disk_info", {}),
        ("vm_disk_convert", {"name": "web", "disk": "vda"}),
        ("vm_disk_resize", {"name": "web", "disk": "vda", "size": "1G"}),
        ("vm_linked_clone", {"source": "golden", "clones": [{"name": "web"}]}),
        ("storage_capacity_info", {"pools": ["default"]}),
    ],
)
def test_where_no_libvirt_answers_the_way_to_start_one_is_told(module: str, params: Params, disks: Path) -> None:
    message = answer(module, {**params, "uri": SILENT}, disks)["msg"]
    assert message.startswith(f"{SILENT}: cannot connect to libvirt")
    assert "start it (systemctl start libvirtd.socket" in message
    assert message.endswith("or give the uri of another one")
    assert "being undone" not in message


def test_a_libvirt_elsewhere_is_not_to_be_started_here(disks: Path) -> None:
    message = answer("vm_disk_info", {"uri": "qemu+tcp://127.0.0.1:9/system"}, disks)["msg"]
    assert message.endswith("check the uri, and that the task's user may connect to it (virsh -c)")


@pytest.mark.parametrize(("name", "image_format"), [("new.raw", "qcow2"), ("new.vhd", "qcow2"), ("new.qcow2", "raw")])
def test_a_name_that_says_another_format_is_warned_of(name: str, image_format: str, disks: Path) -> None:
    made = image(disks / name, size="1M", format=image_format)
    assert f"{disks / name}: is named like a " in str(made["warnings"])
    os.unlink(disks / name)
    wish = {"src": str(disks / "web.raw"), "src_format": "raw", "dest": str(disks / name), "uri": NOBODY}
    for check in (True, False):
        converted = run_module("qcow2_convert", {**wish, "format": image_format}, check=check)
        assert f"{disks / name}: is named like a " in str(converted["warnings"])


@pytest.mark.parametrize(("name", "image_format"), [("new.qcow2", "qcow2"), ("new.img", "raw"), ("web", "qcow2")])
def test_a_name_that_says_the_format_or_nothing_is_not_warned_of(name: str, image_format: str, disks: Path) -> None:
    assert "is named like" not in str(image(disks / name, size="1M", format=image_format).get("warnings"))


def test_whose_a_new_image_is_is_told_with_names_in_the_result_and_the_diff(disks: Path) -> None:
    said = {"owner": str(NOBODYS_NUMBER), "group": "nogroup", "mode": "0640"}
    made = predicted(disks / "new.qcow2", size="1M", preallocation="metadata", **said)
    whose = {"owner": "nobody", "group": "nogroup", "mode": "0640"}
    assert {name: made[name] for name in whose} == whose
    assert {name: made["diff"]["after"][name] for name in (*whose, "preallocation")} == {
        **whose,
        "preallocation": "metadata",
    }
    changed = image(disks / "new.qcow2", diff=True, owner="root")
    assert (changed["diff"]["before"]["owner"], changed["diff"]["after"]["owner"]) == ("nobody", "root")
    assert (changed["owner"], changed["group"]) == ("root", "nogroup")


def test_check_mode_of_a_conversion_returns_the_same_keys_as_the_run(disks: Path) -> None:
    wish = {"src": str(disks / "web.raw"), "src_format": "raw", "dest": str(disks / "new.qcow2"), "uri": NOBODY}
    said = {"owner": "nobody", "cluster_size": "4K", "preallocation": "metadata"}
    foreseen, made = (run_module("qcow2_convert", {**wish, **said}, check=check, diff=True) for check in (True, False))
    assert {*foreseen} == {*made}
    assert {*foreseen["image"]} == {*made["image"]}
    assert foreseen["diff"] == made["diff"]
    assert (made["diff"]["after"]["cluster_size"], made["diff"]["after"]["preallocation"]) == (4096, "metadata")
    assert (foreseen["owner"], made["owner"]) == ("nobody", "nobody")
    again = {**wish, "update": "always", "owner": "root"}
    foreseen, made = (run_module("qcow2_convert", again, check=check, diff=True) for check in (True, False))
    assert (foreseen["diff"], foreseen["actions"]) == (made["diff"], made["actions"])
    assert (foreseen["owner"], made["owner"]) == ("root", "root")
