# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes together in an image's layout is known before qemu-img is asked (HAZARDS C6)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import FORMATS
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout, layout_of
from unit.samples import qcow2, raw

KIB, MIB, TIB = 1 << 10, 1 << 20, 1 << 40
NOT_QCOW2 = [name for name in FORMATS if name != "qcow2"]


@pytest.mark.parametrize(
    "layout",
    [
        Layout("qcow2"),
        *[Layout("qcow2", cluster_size=1 << bits) for bits in range(9, 22)],
        *[Layout("qcow2", refcount_bits=1 << order) for order in range(7)],
        *[Layout(name, preallocation="off") for name in FORMATS],
        *[Layout("qcow2", preallocation=policy) for policy in ("off", "metadata", "falloc", "full")],
        Layout("raw", preallocation="falloc"),
        Layout("raw", preallocation="full"),
        Layout("qcow2", extended_l2=True),
        Layout("qcow2", extended_l2=True, cluster_size=16 * KIB),
        Layout("qcow2", extended_l2=False, cluster_size=512),
        Layout("qcow2", compat="0.10"),
        Layout("qcow2", compat="0.10", refcount_bits=16, compression_type="zlib", lazy_refcounts=False),
        Layout("qcow2", compat="0.10", extended_l2=False),
        Layout("qcow2", compat="1.1", lazy_refcounts=True, refcount_bits=64, compression_type="zstd", extended_l2=True),
    ],
    ids=str,
)
def test_a_layout_that_qemu_can_make_is_taken(layout: Layout) -> None:
    layout.require_valid()


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"cluster_size": 256}, "cluster_size: 256 is not a power of two from 512 to 2M"),
        ({"cluster_size": 1536}, "cluster_size: 1536 is not a power of two from 512 to 2M"),
        ({"cluster_size": 4 * MIB}, "cluster_size: 4194304 is not a power of two from 512 to 2M"),
        ({"extended_l2": True, "cluster_size": 8 * KIB}, "extended_l2: needs clusters of 16K or more"),
        ({"refcount_bits": 3}, "refcount_bits: 3 is not a power of two from 1 to 64"),
        ({"refcount_bits": 0}, "refcount_bits: 0 is not a power of two from 1 to 64"),
        ({"refcount_bits": 128}, "refcount_bits: 128 is not a power of two from 1 to 64"),
        ({"compat": "0.10", "compression_type": "zstd"}, "compression_type: zstd needs compat 1.1"),
        ({"compat": "0.10", "lazy_refcounts": True}, "lazy_refcounts: True needs compat 1.1"),
        ({"compat": "0.10", "refcount_bits": 8}, "refcount_bits: 8 needs compat 1.1"),
        ({"compat": "0.10", "extended_l2": True}, "extended_l2: True needs compat 1.1"),
    ],
)
def test_a_qcow2_layout_that_qemu_would_refuse_is_refused_with_the_reason(choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)):
        Layout("qcow2", **choices).require_valid()


@pytest.mark.parametrize("policy", ["metadata", "falloc", "full"])
def test_preallocation_beside_a_backing_file_needs_extended_l2(policy: str) -> None:
    with pytest.raises(InvalidRequest, match="extended_l2=true"):
        Layout("qcow2", preallocation=policy).require_valid(overlay=True)
    Layout("qcow2", preallocation=policy, extended_l2=True).require_valid(overlay=True)
    Layout("qcow2", preallocation="off").require_valid(overlay=True)


@pytest.mark.parametrize("policy", ["metadata", "falloc", "full"])
def test_compression_excludes_preallocation(policy: str) -> None:
    with pytest.raises(InvalidRequest, match="compress: excludes preallocation"):
        Layout("qcow2", preallocation=policy).require_valid(compressed=True)


def test_raw_has_no_metadata_to_preallocate() -> None:
    with pytest.raises(InvalidRequest, match="raw images have no metadata"):
        Layout("raw", preallocation="metadata").require_valid()


@pytest.mark.parametrize("name", [name for name in NOT_QCOW2 if name != "raw"])
@pytest.mark.parametrize("policy", ["metadata", "falloc", "full"])
def test_other_formats_are_not_preallocated(name: str, policy: str) -> None:
    with pytest.raises(InvalidRequest, match=f"not available for {name} images"):
        Layout(name, preallocation=policy).require_valid()


@pytest.mark.parametrize("name", NOT_QCOW2)
@pytest.mark.parametrize(
    "choice",
    [
        {"cluster_size": 65536},
        {"compat": "1.1"},
        {"lazy_refcounts": False},
        {"refcount_bits": 16},
        {"extended_l2": False},
        {"compression_type": "zlib"},
    ],
    ids=str,
)
def test_an_option_of_qcow2_is_refused_for_another_format(name: str, choice: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=rf"{next(iter(choice))}: an option of qcow2 images"):
        Layout(name, **choice).require_valid()


@pytest.mark.parametrize("name", ["raw", "vdi", "vhdx", "vpc", "parallels"])
def test_a_format_without_backing_files_makes_no_overlay(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} images have no backing file"):
        Layout(name).require_valid(overlay=True)


@pytest.mark.parametrize("name", ["qcow2", "qed", "vmdk", "qcow"])
def test_a_format_with_backing_files_makes_one(name: str) -> None:
    Layout(name).require_valid(overlay=True)


@pytest.mark.parametrize("name", ["raw", "qed", "vdi", "vhdx", "vpc", "parallels"])
def test_a_format_without_compression_is_not_compressed(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"compress: {name} images"):
        Layout(name).require_valid(compressed=True)


@pytest.mark.parametrize(
    ("choices", "largest"),
    [
        ({"cluster_size": 512}, 128 << 30),
        ({}, 2048 * TIB),
        ({"extended_l2": True}, 1024 * TIB),
        ({"cluster_size": 16 * KIB, "extended_l2": True}, 64 * TIB),
    ],
)
def test_a_disk_that_the_tables_cannot_hold_is_refused(choices: dict[str, Any], largest: int) -> None:
    Layout("qcow2", **choices).require_valid(size=largest)
    with pytest.raises(InvalidRequest, match="raise cluster_size"):
        Layout("qcow2", **choices).require_valid(size=largest + 512)


def test_a_layout_becomes_the_options_of_qemu_img() -> None:
    layout = Layout("qcow2", "falloc", 65536, "1.1", lazy_refcounts=True, extended_l2=False, compression_type="zstd")
    assert layout.options() == {
        "preallocation": "falloc",
        "cluster_size": "65536",
        "compat": "1.1",
        "lazy_refcounts": "on",
        "extended_l2": "off",
        "compression_type": "zstd",
    }
    assert Layout("raw").options() == {}


def test_what_the_task_leaves_open_is_no_difference() -> None:
    assert Layout("qcow2").differences(qcow2(cluster_size=4096, compat="0.10")) == ({}, {})
    assert Layout("qcow2", preallocation="full").differences(qcow2()) == ({}, {})


def test_differences_are_told_apart_by_whether_they_can_be_amended() -> None:
    wanted = Layout("qcow2", None, 4096, "1.1", True, 8, True, "zstd")
    amendable, fixed = wanted.differences(qcow2(compat="0.10"))
    assert amendable == {"compat": "1.1", "lazy_refcounts": True, "refcount_bits": 8}
    assert fixed == {"cluster_size": 4096, "extended_l2": True, "compression_type": "zstd"}


def test_an_amended_image_keeps_what_the_task_leaves_open() -> None:
    amended = Layout("qcow2", preallocation="full", compat="0.10").amended(qcow2(refcount_bits=8))
    assert (amended.compat, amended.refcount_bits, amended.cluster_size) == ("0.10", 8, 65536)
    with pytest.raises(InvalidRequest, match=r"refcount_bits: 8 needs compat 1.1"):
        amended.require_valid()
    Layout("raw", preallocation="full").amended(raw()).require_valid()


@pytest.mark.parametrize(
    ("subformat", "has_extents", "is_plain"),
    [
        ("monolithicSparse", False, False),
        ("streamOptimized", False, False),
        ("monolithicFlat", True, True),
        ("twoGbMaxExtentSparse", True, False),
        ("twoGbMaxExtentFlat", True, True),
    ],
)
def test_it_is_known_which_kinds_of_vmdk_have_extents(subformat: str, has_extents: bool, is_plain: bool) -> None:
    layout = Layout("vmdk", subformat=subformat)
    layout.require_valid()
    assert (layout.has_extents, layout.is_plain) == (has_extents, is_plain)
    with pytest.raises(InvalidRequest, match="qcow2 images know no"):
        Layout("qcow2", subformat=subformat).require_valid()


@pytest.mark.parametrize(
    ("layout", "size", "clusters"),
    [
        (Layout("qcow2"), 10 << 30, 4),
        (Layout("qcow2"), 20 << 40, 8),
        (Layout("qcow2", extended_l2=True), 20 << 40, 13),
        (Layout("qcow2", cluster_size=512), 64 << 20, 35),
    ],
)
def test_an_empty_image_needs_a_header_the_refcounts_and_its_first_table(
    layout: Layout, size: int, clusters: int
) -> None:
    """So many clusters has the file that qemu-img makes."""
    assert layout.bytes_of_empty(size) == clusters * (layout.cluster_size or 65536)


def test_a_new_image_in_the_place_of_another_is_laid_out_like_it() -> None:
    old = qcow2(cluster_size=2 * MIB, lazy_refcounts=True, compression_type="zstd")
    options = {"cluster_size": "2097152", "compat": "1.1", "refcount_bits": "16"}
    assert layout_of(old).options() == {**options, "lazy_refcounts": "on", "compression_type": "zstd"}
    assert layout_of(qcow2(cluster_size=2 * MIB)).options() == options
    assert layout_of(raw(format="qed")).options() == {}
