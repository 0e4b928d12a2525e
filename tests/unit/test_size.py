# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes are read strictly, and written so that nothing is rounded away."""

from __future__ import annotations

import contextlib

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, RelativeSize
from ansible_collections.kvmops.disk.plugins.module_utils._size import (
    LARGEST,
    SECTOR,
    exact_size,
    final_size,
    format_size,
    parse_size,
)
from hypothesis import example, given
from hypothesis import strategies as st

sectors = st.integers(1, LARGEST // SECTOR).map(lambda count: count * SECTOR)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        (1048576, 1048576),
        ("1K", 1024),
        ("1KiB", 1024),
        ("0.5K", 512),
        ("10M", 10 << 20),
        ("10G", 10 << 30),
        ("10GiB", 10 << 30),
        ("1.5T", 3 << 39),
        ("0.25G", 1 << 28),
        ("2P", 2 << 50),
        ("7E", 7 << 60),
        ("1k", 1024),
        ("20g", 20 << 30),
        ("1.5tib", 3 << 39),
        (str(LARGEST), LARGEST),
    ],
)
def test_a_size_is_bytes_or_a_number_with_an_iec_unit(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "010",
        "0x200",
        "+1M",
        "-1M",
        " 1M",
        "1M ",
        "1 M",
        "1M\n",
        "1e3",
        "1.M",
        ".5M",
        "1,5G",
        "1_024",
        "1Mi",
        "1B",
        "1iB",
        "1Z",
        "1Y",
        "nan",
        "inf",
        "10%",
        "٣G",
        "\uff11G",
        "1G1M",
        "1G,preallocation=full",
        "None",
        True,
        1.5,
        "9" * 5000,
        "1." + "0" * 5000,
    ],
)
def test_what_qemu_img_would_take_loosely_or_not_at_all_is_refused(text: str | int) -> None:
    with pytest.raises(InvalidRequest, match=r"^size: "):
        parse_size(text)


def test_a_growth_is_refused_with_the_size_that_is_meant() -> None:
    with pytest.raises(RelativeSize, match=r"^size: \+1G is not taken here: give the final size"):
        parse_size("+1G")
    for text, found, meant in [
        ("+1G", 20 << 30, "21G"),
        ("+1g", 20 << 20, "1044M"),
        ("+512", 512, "1K"),
        ("+512", 1024, "1536"),
    ]:
        error = RelativeSize(text, "size", parse_size(text[1:]))
        told = final_size(error, "/srv/web.qcow2", found)
        assert str(told).endswith(f"(/srv/web.qcow2 has {exact_size(found)}, so {meant})")
        assert parse_size(meant) == found + error.growth


def test_a_growth_beyond_what_qemu_can_address_names_no_size() -> None:
    error = RelativeSize("+7E", "size", 7 << 60)
    assert final_size(error, "/srv/web.qcow2", 7 << 60) is error


def test_a_decimal_unit_is_refused_with_a_hint_at_the_binary_one() -> None:
    with pytest.raises(InvalidRequest, match="10GiB is a power of 1024"):
        parse_size("10GB")


@pytest.mark.parametrize("text", ["0", "0K", "0.0G", 0])
def test_a_disk_of_nothing_is_refused(text: str | int) -> None:
    with pytest.raises(InvalidRequest, match="at least 512 bytes"):
        parse_size(text)


@pytest.mark.parametrize(("text", "above"), [("1000", 1024), ("513", 1024), ("1.3K", 1536), ("0.1K", 512)])
def test_a_broken_sector_is_refused_and_the_next_size_named(text: str, above: int) -> None:
    with pytest.raises(InvalidRequest, match=f"the next size is {above} bytes"):
        parse_size(text)


@pytest.mark.parametrize("text", ["8E", str(2**63), str(10**30), "9999999E"])
def test_more_than_qemu_can_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="more than QEMU can address"):
        parse_size(text)


def test_the_message_names_the_parameter() -> None:
    with pytest.raises(InvalidRequest, match=r"^cluster_size: "):
        parse_size("huge", "cluster_size")


@given(sectors)
def test_whole_sectors_are_taken_as_they_are(size: int) -> None:
    assert parse_size(size) == parse_size(str(size)) == size


@given(sectors)
@example(1024**4 + 512)
@example(LARGEST)
def test_an_exact_size_reads_back_as_the_same_size(size: int) -> None:
    assert parse_size(exact_size(size).replace(" bytes", "").replace(" ", "")) == size


@given(st.text(alphabet="0123456789.KMGTPEiB +-xekg,", max_size=24))
def test_whatever_is_taken_is_a_positive_number_of_sectors(text: str) -> None:
    try:
        size = parse_size(text)
    except InvalidRequest:
        return
    assert 0 < size <= LARGEST
    assert size % SECTOR == 0
    assert text[0] in "0123456789"
    assert set(text) <= set("0123456789.KMGTPEiBkmgtpe")


@given(st.text(max_size=30))
def test_no_text_at_all_makes_the_parser_fail_otherwise(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1000, "1000 bytes"),
        (1024, "1 KiB"),
        (40 << 30, "40 GiB"),
        (3 << 39, "1.5 TiB"),
        ((1 << 30) + 512, "1 GiB"),
        (LARGEST, "8 EiB"),
    ],
)
def test_a_size_is_written_in_the_largest_unit(size: int, text: str) -> None:
    assert format_size(size) == text


def test_two_sizes_that_differ_never_read_the_same() -> None:
    assert exact_size((40 << 30) - 512) == f"{(40 << 30) - 512} bytes"
    assert exact_size(40 << 30) == "40 GiB"
