# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An option list reads back, by QEMU's rules, as the pairs that it was made of (HAZARDS C2, C3)."""

from __future__ import annotations

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.keys import image_by_itself, option_list
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import subject
from hypothesis import given
from hypothesis import strategies as st

names = st.text(alphabet="abcdefghijklmnopqrstuvwxyz._-", min_size=1, max_size=12)
values = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
# Commas where they hurt.
nasty = st.lists(st.sampled_from([",", ",,", "=", "data_file", "a", "=on", " "]), max_size=8).map("".join)


def parsed(text: str) -> list[tuple[str, str]]:
    """QEMU's get_opt_name and get_opt_value (util/keyval.c, util/qemu-option.c): a doubled comma is a comma."""
    pairs = []
    at = 0
    while at < len(text):
        equals = text.index("=", at)
        name, at = text[at:equals], equals + 1
        value = ""
        while at < len(text):
            if text[at] == ",":
                if text[at + 1 : at + 2] != ",":
                    break
                at += 1
            value += text[at]
            at += 1
        at += 1
        pairs.append((name, value))
    return pairs


@given(st.dictionaries(names, values | nasty, min_size=1, max_size=6))
def test_options_read_back_as_they_were_given(options: dict[str, str]) -> None:
    flag, *lists = option_list(options)
    assert flag == "-o"
    assert len(lists) == 1
    assert parsed(lists[0]) == list(options.items())


def test_no_options_are_no_arguments() -> None:
    assert option_list({}) == []


@pytest.mark.parametrize("value", ["x,data_file=/victim", ",data_file=/victim", "x,,data_file=/victim,"])
def test_a_value_cannot_bring_in_another_option(value: str) -> None:
    (_flag, text) = option_list({"compression_type": value})
    assert [name for name, _value in parsed(text)] == ["compression_type"]


@given(values | nasty, st.sampled_from(["qcow2", "vmdk"]), st.booleans())
def test_an_image_by_itself_is_the_file_of_that_name_and_no_other(name: str, image_format: str, external: bool) -> None:
    path = f"/images/{name}"
    options = image_by_itself(path, image_format, external_data=external)
    said = [("driver", image_format), ("file.filename", path), ("backing", "")]
    assert parsed(options) == said + ([("data-file.driver", "null-co")] if external else [])
    assert subject(["qemu-img", "check", "--image-opts", "--", options]) == path
