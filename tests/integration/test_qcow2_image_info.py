# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2_image_info tells what is known of many images, and opens nothing that it was not asked to open."""

from __future__ import annotations

import os
import struct
from datetime import datetime, timezone
from pathlib import Path

import pytest
from lab import Disk, Hypervisor
from lab.fixtures import MakeDomain
from lab.tree import tree_state
from support.image_tools import (
    MIB,
    allocated,
    create,
    create_encrypted,
    info,
    opened_by_a_process,
    overlay,
    qemu_img,
    qemu_io,
)
from support.looks import Result, look, one, refused, run
from support.watched import opened_files
from unit.qcow2_header import DATA_FILE, EXTERNAL_DATA, Made, snapshot

#: What qemu-img leaves out of its answer for some images.
UNSAID = {"lazy-refcounts": False, "extended-l2": False}
FORMATS = ["raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "parallels"]


def paths_of(result: Result) -> list[str]:
    return [found["path"] for found in result["images"]]


# --- which images -----------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Images in a directory, below it, hidden ones, and what is no image."""
    for name in (
        "b.qcow2",
        "a.qcow2",
        "c[1].qcow2",
        ".hidden.qcow2",
        "sub/d.qcow2",
        "sub/deep/e.qcow2",
        ".dot/f.qcow2",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        create(path, "qcow2", MIB)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "socket-like").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    return tmp_path


def test_many_paths_directories_and_patterns_are_looked_at_in_one_run(tree: Path) -> None:
    result = look(tree / "sub", tree / "b.qcow2", f"{tree}/a*", tree / "b.qcow2")
    assert paths_of(result) == [str(tree / name) for name in ("sub/d.qcow2", "b.qcow2", "a.qcow2")]
    assert result["failures"] == []


def test_a_directory_means_its_files_that_are_not_hidden(tree: Path) -> None:
    before = tree_state(tree)
    assert paths_of(look(tree)) == [str(tree / name) for name in ("a.qcow2", "b.qcow2", "c[1].qcow2")]
    assert paths_of(look(f"{tree}/")) == paths_of(look(tree))
    assert tree_state(tree) == before


def test_recursion_goes_below_but_not_into_hidden_directories_and_not_through_links(tree: Path) -> None:
    (tree / "sub" / "loop").symlink_to(tree)
    found = paths_of(look(tree, recurse=True))
    assert found == sorted(
        str(tree / name) for name in ("a.qcow2", "b.qcow2", "c[1].qcow2", "sub/d.qcow2", "sub/deep/e.qcow2")
    )


def test_a_name_that_exists_is_never_a_pattern(tree: Path) -> None:
    assert paths_of(look(tree / "c[1].qcow2")) == [str(tree / "c[1].qcow2")]
    assert paths_of(look(f"{tree}/[ab].qcow2")) == [str(tree / "a.qcow2"), str(tree / "b.qcow2")]
    assert paths_of(look(f"{tree}/**/*.qcow2", recurse=True))[-1] == str(tree / "sub/deep/e.qcow2")
    assert paths_of(look(f"{tree}/nothing*")) == []


@pytest.mark.parametrize("name", ["a b", "a,b", "a:b", "json:{}", "-a", "'\"", "ü", "a\nb", "x" * 255])
def test_a_name_is_just_a_name(name: str, tmp_path: Path) -> None:
    create(tmp_path / name, "qcow2", MIB)
    assert one(tmp_path / name)["path"] == one(tmp_path)["path"] == str(tmp_path / name)


def test_a_name_that_is_no_utf8_is_no_obstacle(tmp_path: Path) -> None:
    path = create(tmp_path / "plain", "qcow2", MIB)
    path.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.qcow2"))
    overlay(tmp_path / "top", os.fsdecode(b"\xff.qcow2"))
    result = look(tmp_path)
    assert [found["format"] for found in result["images"]] == ["qcow2", "qcow2"]
    assert result["images"][0]["backing_file"] == result["images"][1]["path"]


# --- what is known of each --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_described(name: str, tmp_path: Path) -> None:
    path = create(tmp_path / "disk", name)
    found = one(path)
    assert (found["path"], found["format"], found["virtual_size"]) == (str(path), name, 10 * MIB)
    assert found["actual_size"] == allocated(path)
    assert found == one(path, format=name) == one(path, check_mode=True)


def test_a_qcow2_image_is_described_in_full(tmp_path: Path) -> None:
    base = create(tmp_path / "base.raw", "raw")
    path = tmp_path / "disk"
    options = "cluster_size=128k,lazy_refcounts=on,refcount_bits=32,extended_l2=on,compression_type=zstd"
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", options, path, "20M")
    assert one(path) == {
        "path": str(path),
        "format": "qcow2",
        "virtual_size": 20 * MIB,
        "actual_size": allocated(path),
        "cluster_size": 128 * 1024,
        "compat": "1.1",
        "lazy_refcounts": True,
        "refcount_bits": 32,
        "extended_l2": True,
        "compression_type": "zstd",
        "encrypted": False,
        "encryption": None,
        "dirty": False,
        "corrupt": False,
        "backing_file": str(base),
        "backing_format": "raw",
        "data_file": None,
        "extents": [],
        "snapshots": [],
    }


def test_snapshots_have_dates_and_the_sizes_of_their_time(tmp_path: Path) -> None:
    path, begun = create(tmp_path / "disk"), datetime.now(timezone.utc).replace(microsecond=0)
    qemu_img("snapshot", "-c", "first", path)
    qemu_img("resize", "-q", "-f", "qcow2", path, "20M")
    qemu_img("snapshot", "-c", "zweiter ü", path)
    found = one(path)["snapshots"]
    assert [(entry["id"], entry["name"], entry["virtual_size"], entry["vm_state_size"]) for entry in found] == [
        ("1", "first", 10 * MIB, 0),
        ("2", "zweiter ü", 20 * MIB, 0),
    ]
    for entry in found:
        assert begun <= datetime.fromisoformat(entry["date"]) <= datetime.now(timezone.utc)


def test_an_encrypted_image_is_described_without_its_secret(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush", encoding="utf-8")
    create_encrypted(tmp_path / "disk.luks", "luks", "", secret)
    create_encrypted(tmp_path / "disk.qcow2", "qcow2", "encrypt.", secret)
    luks, qcow2 = look(tmp_path / "disk.luks", tmp_path / "disk.qcow2")["images"]
    assert (luks["format"], luks["encrypted"], luks["virtual_size"]) == ("luks", True, MIB)
    assert (qcow2["format"], qcow2["encrypted"], qcow2["virtual_size"]) == ("qcow2", True, MIB)
    for found in (luks["encryption"], qcow2["encryption"]):
        assert (found["format"], found["cipher_alg"], found["key_slots"]) == ("luks", "aes-256", 1)


def test_images_of_a_running_guest_are_described_and_not_disturbed(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    overlay(images / "disk.qcow2", str(create(images / "base.qcow2")))
    create(images / "data.raw", "raw")
    guest = make_domain([Disk(images / "disk.qcow2", "qcow2"), Disk(images / "data.raw", "raw", "vdb")])
    hv.start(guest.name)
    result = look(images, backing_chain=True)
    assert {os.path.basename(found["path"]): found["format"] for found in result["images"]} == {
        "base.qcow2": "qcow2",
        "data.raw": "raw",
        "disk.qcow2": "qcow2",
    }
    assert [link["path"] for link in result["images"][2]["backing_chain"]] == [
        str(images / "disk.qcow2"),
        str(images / "base.qcow2"),
    ]
    assert guest.name in {domain.name() for domain in hv.connect().listAllDomains(1)}


def test_an_image_that_a_process_writes_is_described(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    with opened_by_a_process(path):
        assert one(path)["virtual_size"] == 10 * MIB


def test_it_works_where_neither_libvirt_python_nor_lxml_can_be_imported(tmp_path: Path) -> None:
    for name in ("libvirt", "lxml"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('kept away by a test')\n", encoding="utf-8")
    path = create(tmp_path / "disk")
    assert one(path, env={"PYTHONPATH": str(tmp_path)})["format"] == "qcow2"


# --- chains -----------------------------------------------------------------------------------------------------


def test_a_chain_is_returned_top_first_with_each_image_in_its_own_format(tmp_path: Path) -> None:
    create(tmp_path / "base", "raw", 4 * MIB)
    overlay(tmp_path / "middle", "base", "raw")
    qemu_img("create", "-q", "-f", "qed", "-b", tmp_path / "middle", "-F", "qcow2", tmp_path / "side")
    top = overlay(tmp_path / "top", str(tmp_path / "middle"))
    chain = one(top, backing_chain=True, trusted=True)["backing_chain"]
    assert [(os.path.basename(link["path"]), link["format"]) for link in chain] == [
        ("top", "qcow2"),
        ("middle", "qcow2"),
        ("base", "raw"),
    ]
    assert "backing_chain" not in one(top)


def test_what_lies_below_is_not_opened_unless_the_chain_is_asked_for(tmp_path: Path) -> None:
    base = create(tmp_path / "base.qcow2")
    data = tmp_path / "its.data"
    external = create(tmp_path / "external", "qcow2", MIB, "-o", f"data_file={data}")
    images = [overlay(tmp_path / "top", str(base)), external]
    for name in ("qcow", "qed", "vmdk"):
        options = ["-F", "vmdk"] if name == "vmdk" else ["-F", "qcow2"]
        below = create(tmp_path / "base.vmdk", "vmdk") if name == "vmdk" else base
        qemu_img("create", "-q", "-f", name, "-b", below, *options, tmp_path / name)
        images.append(tmp_path / name)
    with opened_files(base, data, tmp_path / "base.vmdk") as opened:
        found = look(*images)["images"]
    assert opened == set()
    assert [image["backing_file"] for image in found] == [
        str(base),
        None,
        str(base),
        str(base),
        str(tmp_path / "base.vmdk"),
    ]
    assert found[1]["data_file"] == str(data)
    with opened_files(base, data) as opened:
        look(images[0], backing_chain=True, trusted=True)
    assert opened == {base}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("missing.qcow2", "missing.qcow2: no such image"),
        ("nbd://localhost/x", "is not a file on this host"),
        ("https://localhost/x", "is not a file on this host"),
        ("fat:/etc", "is not a file on this host"),
        ('json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}', "is not a file on this host"),
    ],
)
def test_a_chain_that_leaves_the_files_of_this_host_is_not_followed(
    reference: str, reason: str, tmp_path: Path
) -> None:
    top = overlay(tmp_path / "top", str(create(tmp_path / "base")))
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", reference, top)
    assert reason in refused(top, backing_chain=True, trusted=True)["msg"]
    found = one(top)
    assert found["backing_file"] == (str(tmp_path / reference) if reference == "missing.qcow2" else reference)


def test_a_chain_in_a_circle_is_refused_and_each_image_of_it_described(tmp_path: Path) -> None:
    one_image, other = create(tmp_path / "one"), overlay(tmp_path / "other", str(tmp_path / "one"))
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(other), one_image)
    assert len(look(tmp_path)["images"]) == 2
    for trusted in (False, True):
        result = look(tmp_path, backing_chain=True, trusted=trusted)
        assert result["images"] == []
        assert all("runs in a circle" in failure["msg"] for failure in result["failures"])


def test_a_chain_deeper_than_64_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "image00", "qcow2", MIB)
    content = overlay(tmp_path / "template", "image00").read_bytes()
    for number in range(1, 66):
        (tmp_path / f"image{number:02}").write_bytes(content.replace(b"image00", f"image{number - 1:02}".encode()))
    assert len(one(tmp_path / "image60", backing_chain=True, trusted=True)["backing_chain"]) == 61
    for params in ({"trusted": True}, {"trusted": True, "map": True, "backing_chain": False}):
        assert "deeper than 64" in refused(tmp_path / "image65", **{"backing_chain": True, **params})["msg"]


def test_a_backing_file_without_a_format_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "top").write_bytes(bytes(Made(backing=b"base", snapshots=[snapshot()])))
    create(tmp_path / "base", "qcow2")
    assert (
        "does not say the format of its backing file"
        in refused(tmp_path / "top", backing_chain=True, trusted=True)["msg"]
    )


# --- hostile images ---------------------------------------------------------------------------------------------


def test_a_reference_to_a_secret_is_reported_and_not_opened(tmp_path: Path) -> None:
    secret = tmp_path / "shadow"
    secret.write_bytes(b"root:x:" * 1000)
    backing = overlay(tmp_path / "backing", str(create(tmp_path / "base")))
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), backing)
    template = create(tmp_path / "template", "qcow2", MIB, "-o", f"data_file={tmp_path / 'datafile'}")
    data = tmp_path / "data"
    data.write_bytes(template.read_bytes().replace(str(tmp_path / "datafile").encode(), str(secret).encode().ljust(8)))
    with opened_files(secret) as opened:
        found = look(backing)["images"]
        run(data)
    assert found[0]["backing_file"] == str(secret)
    assert opened == set()


DESCRIPTOR = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n'


@pytest.mark.parametrize(
    "line",
    [
        'RW 2048 FLAT "{secret}" 0\n',
        'RW +2048 FLAT "{secret}" 0\n',
        'RW\n2048\nFLAT\n"{secret}" 0\n',
        "# padding\n" * 10000 + 'RW 2048 FLAT "{secret}" 0\n',
        'RW 2048 FLAT "link" 0\n',
        'RW 2048 FLAT "file:{secret}" 0\n',
        'RW 2048 SPARSE "nested.vmdk"\n',
    ],
    ids=lambda line: line[-40:].strip(),
)
def test_a_vmdk_that_points_elsewhere_is_refused_before_qemu_follows_it(line: str, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(bytes(MIB))
    (tmp_path / "link").symlink_to(secret)
    nested = DESCRIPTOR + f'RW 2048 FLAT "{secret}" 0\n'
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 1, 20).ljust(512, b"\0")
    (tmp_path / "nested.vmdk").write_bytes(head + nested.encode().ljust(20 * 512, b"\0"))
    (tmp_path / "disk.vmdk").write_text(DESCRIPTOR + line.replace("{secret}", str(secret)), encoding="utf-8")
    with opened_files(secret) as opened:
        result = refused(tmp_path / "disk.vmdk")
    assert "not followed" in result["msg"]
    assert opened == set()


def test_a_vmdk_with_extents_beside_it_is_described(tmp_path: Path) -> None:
    path = create(tmp_path / "disk.vmdk", "vmdk", 4 * MIB, "-o", "subformat=twoGbMaxExtentFlat")
    for found in (look(tmp_path)["images"][1], one(path, trusted=True)):
        assert (found["path"], found["virtual_size"]) == (str(path), 4 * MIB)
    assert "'disk-f001.vmdk', which the task does not name" in refused(path)["msg"]


def test_a_header_with_thousands_of_snapshots_is_read_in_time(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    entry = snapshot(extra=struct.pack(">QQ", 0, MIB))
    table = b"".join(entry + bytes(-len(entry) % 8) for _number in range(4000))
    with path.open("r+b") as stream:
        end = (stream.seek(0, os.SEEK_END) + 65535) // 65536 * 65536
        stream.seek(end)
        stream.write(table)
        stream.seek(60)
        stream.write(struct.pack(">IQ", 4000, end))
    assert len(one(path)["snapshots"]) == 4000
    with path.open("r+b") as stream:
        stream.seek(60)
        stream.write(struct.pack(">I", 65536))
    assert "snapshot table is cut off" in refused(path)["msg"]
    with path.open("r+b") as stream:
        stream.seek(60)
        stream.write(struct.pack(">I", 65537))
    assert "header is damaged" in refused(path)["msg"]


def test_a_disk_of_petabytes_is_described(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "qcow2", "60P", "-o", "cluster_size=2M")
    assert one(path)["virtual_size"] == 60 << 50


def test_what_is_cut_off_empty_or_random_is_described_or_refused_and_never_hangs(tmp_path: Path) -> None:
    whole = create(tmp_path / "whole")
    qemu_io(whole, "write -P 1 0 1M")
    content = whole.read_bytes()
    for length in (0, 3, 60, 100, 511, 512, 4096, 70000):
        (tmp_path / f"cut{length}").write_bytes(content[:length])
    (tmp_path / "random").write_bytes(os.urandom(4096))
    result = look(tmp_path)
    described = {os.path.basename(found["path"]): found["format"] for found in result["images"]}
    failed = {os.path.basename(failure["path"]) for failure in result["failures"]}
    assert {"whole", "random", "cut0", "cut3"} <= set(described)
    assert (described["random"], described["cut0"], described["cut3"]) == ("raw", "raw", "raw")
    assert {"cut60", "cut100"} <= failed
    assert set(described) | failed == {*(path.name for path in tmp_path.iterdir())}


def test_offsets_that_no_file_can_have_are_damage(tmp_path: Path) -> None:
    """No file system takes every offset that 64 bits can hold."""
    qed = (b"QED\0", 65536, 4, 1, 1, 0, 0, 65536, MIB, 2**32 - 1, 8)
    hostile = {
        "qcow2-snapshots": bytes(Made(snapshots_at=2**62, snapshot_count=1)),
        "qcow2-far-snapshots": bytes(Made(snapshots_at=2**64 - 1, snapshot_count=1)),
        "qcow2-backing": bytes(Made(backing_at=2**62, backing_length=8)),
        "qcow-backing": b"QFI\xfb" + struct.pack(">IQI", 1, 2**63, 8),
        "qed-backing": struct.pack("<4sIIIQQQQQII", *qed),
        "vmdk-descriptor": struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 0, 128, 2**53, 20),
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content.ljust(70000, b"\0"))
    result = look(tmp_path)
    assert {os.path.basename(failure["path"]) for failure in result["failures"]} == set(hostile)


def test_flags_in_the_header_are_reported(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    for bit, dirty, corrupt in ((1, True, False), (2, False, True)):
        with path.open("r+b") as stream:
            stream.seek(79)
            stream.write(bytes([bit]))
        found = one(path)
        assert (found["dirty"], found["corrupt"]) == (dirty, corrupt)


def test_features_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    path = create(tmp_path / "disk")
    with path.open("r+b") as stream:
        stream.seek(72)
        stream.write(b"\x80")
    assert "incompatible bits 0x8000000000000000" in refused(path)["msg"]


def test_a_data_file_that_has_no_name_is_damage(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(Made(incompatible=EXTERNAL_DATA)))
    assert "which it does not name" in refused(tmp_path / "disk")["msg"]
    (tmp_path / "disk").write_bytes(bytes(Made(extensions=[(DATA_FILE, b"unused")], snapshots=[snapshot()])))
    assert one(tmp_path / "disk")["data_file"] is None


# --- failures ---------------------------------------------------------------------------------------------------


def test_what_was_found_is_reported_and_what_was_named_fails_the_task(tmp_path: Path) -> None:
    good, bad = create(tmp_path / "good"), tmp_path / "bad"
    bad.write_bytes(b"QFI\xfb" + bytes(20))
    for paths in ([tmp_path], [f"{tmp_path}/*"]):
        result = look(*paths)
        assert paths_of(result) == [str(good)]
        assert [failure["path"] for failure in result["failures"]] == [str(bad)]
        assert result["failures"][0]["msg"].startswith(f"{bad}: ")
    result = refused(tmp_path, bad)
    assert str(bad) in result["msg"]
    assert paths_of(result) == [str(good)]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("relative", "is relative"),
        ("", "is relative"),
        ("/nonexistent/disk", "no such image"),
        ("/dev/zero", "neither a regular file nor a block device"),
        ("/etc/passwd/below", "no such image"),
    ],
)
def test_a_path_without_an_image_fails_in_words_of_ours(path: str, reason: str) -> None:
    assert reason in refused(path)["msg"]


def test_a_fifo_does_not_hold_it_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "neither a regular file" in refused(tmp_path / "fifo")["msg"]
    assert look(tmp_path) == {**look(tmp_path), "images": [], "failures": []}


def test_another_format_than_asked_for_is_an_error(tmp_path: Path) -> None:
    path = create(tmp_path / "disk", "raw")
    assert "found a raw image, asked for qcow2" in refused(path, format="qcow2")["msg"]
    disguised = create(tmp_path / "disguised", "qcow2")
    assert one(disguised, format="raw")["virtual_size"] == (disguised.stat().st_size + 511) // 512 * 512


def test_what_may_not_be_read_is_not_silently_left_out(open_directory: Path) -> None:
    closed, secret = open_directory / "closed", open_directory / "open" / "secret"
    closed.mkdir(mode=0o700)
    secret.parent.mkdir(mode=0o755)
    create(secret, "qcow2").chmod(0o600)
    assert "cannot be searched for images: Permission denied" in refused(closed, as_user=65533)["msg"]
    assert "cannot be read: Permission denied" in refused(secret, as_user=65533)["msg"]
    assert [failure["path"] for failure in look(secret.parent, as_user=65533)["failures"]] == [str(secret)]


def test_dependents_are_the_images_that_read_an_image(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    base, elsewhere = images / "base.qcow2", images / "clones"
    create(base, "qcow2", MIB)
    elsewhere.mkdir()
    beside = overlay(images / "beside.qcow2", str(base))
    searched = overlay(elsewhere / "searched.qcow2", str(base))
    (images / "deeper").mkdir()
    defined = overlay(images / "deeper" / "defined.qcow2", str(base))
    make_domain([Disk(defined, "qcow2")])
    answer = look(base, beside, dependents=True, search_paths=[str(elsewhere)], uri=hv.uri)
    assert {image["path"]: set(image["dependents"]) for image in answer["images"]} == {
        str(base): {str(beside), str(searched), str(defined)},
        str(beside): set(),
    }


def test_dependents_are_looked_for_only_when_asked(tmp_path: Path) -> None:
    create(tmp_path / "base.qcow2", "qcow2", MIB)
    assert "dependents" not in one(tmp_path / "base.qcow2")


@pytest.mark.parametrize(
    "options",
    [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M,extended_l2=on",
        "compression_type=zstd,lazy_refcounts=on,refcount_bits=1",
        "preallocation=metadata",
        "preallocation=full",
    ],
)
def test_the_facts_are_those_that_qemu_img_tells(options: str, tmp_path: Path) -> None:
    base = create(tmp_path / "disk.qcow2", "qcow2", 10 * MIB, "-o", options)
    for path in (base, overlay(tmp_path / "overlay.qcow2", str(base))):
        told, found = info(path), one(path)
        specific = told["format-specific"]["data"]
        assert found["virtual_size"] == told["virtual-size"]
        assert found["actual_size"] == told["actual-size"]
        assert found["cluster_size"] == told["cluster-size"]
        assert found["backing_file"] == told.get("backing-filename")
        for name in ("compat", "compression-type", "lazy-refcounts", "refcount-bits", "extended-l2"):
            assert found[name.replace("-", "_")] == specific.get(name, UNSAID.get(name)), name


def test_a_raw_file_of_any_length_has_the_size_that_a_guest_sees(tmp_path: Path) -> None:
    path = tmp_path / "odd.raw"
    path.write_bytes(b"x" * 1000)
    assert one(path, format="raw")["virtual_size"] == info(path, "raw")["virtual-size"] == 1024


@pytest.mark.parametrize(
    ("offset", "value"), [(36, 0), (40, 3), (48, 5), (56, 0)], ids=["l1 size", "l1", "refcounts", "none"]
)
def test_a_header_that_leaves_a_doubt_is_judged_by_qemu_img(offset: int, value: int, tmp_path: Path) -> None:
    path = create(tmp_path / "disk.qcow2", "qcow2", 1024 * MIB)
    with path.open("r+b") as image:
        image.seek(offset)
        image.write(value.to_bytes(4 if offset in (36, 56) else 8, "big"))
    assert "qemu-img" in refused(path)["msg"]
