# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of another image, and the plan that makes it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import Estimate
from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Encryption, Image
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import facts
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_image import (
    Observed,
    SourceFiles,
    plan_conversion,
    plan_removal,
    predicted,
    recipe,
    space,
    summary,
    visible_difference,
)
from unit._qcow2_convert.images import BASE, GIB, KEY, LUKS, NIGHTLY, OVER_BASE, SOURCE, wish


@pytest.mark.parametrize(
    ("dest", "reason"),
    [
        (SOURCE, None),
        (replace(SOURCE, cluster_size=512, compression_type="zstd", actual_size=5), None),
        (replace(SOURCE, virtual_size=GIB), "has 1 GiB, its source 10 GiB"),
        (replace(SOURCE, virtual_size=11 * GIB), "has 11 GiB, its source 10 GiB"),
        (replace(SOURCE, backing_file="/b"), "has the backing file /b, asked for none"),
        (replace(SOURCE, corrupt=True), "is marked corrupt"),
    ],
)
def test_a_destination_is_told_apart_before_it_is_read_where_that_can_be(dest: Image, reason: str | None) -> None:
    assert visible_difference(wish(), Observed((SOURCE,)), dest) == reason


def test_a_wanted_backing_file_is_looked_for_by_its_place() -> None:
    found = Observed((SOURCE,), (BASE,))
    assert (
        visible_difference(wish(**OVER_BASE), found, replace(SOURCE, backing_file="/images/x/../golden.qcow2")) is None
    )
    assert visible_difference(wish(**OVER_BASE), found, SOURCE) == f"has the backing file none, asked for {BASE.path}"


def test_a_source_that_reads_the_backing_file_itself_is_known() -> None:
    direct = replace(SOURCE, backing_file="/images/./golden.qcow2", backing_format="qcow2")
    assert recipe(wish(**OVER_BASE), Observed((direct, BASE), (BASE,))).reads_base
    through = replace(SOURCE, backing_file="/images/middle", backing_format="qcow2")
    assert not recipe(wish(**OVER_BASE), Observed((through, BASE), (BASE,))).reads_base
    assert not recipe(wish(), Observed((direct, BASE))).reads_base


def test_only_what_has_a_place_anyway_or_is_compressed_is_written_out_of_order() -> None:
    found = Observed((SOURCE,))
    assert recipe(wish("raw"), found).out_of_order
    assert recipe(wish(compress=True), found).out_of_order
    assert not recipe(wish(), found).out_of_order
    stream = Layout("vmdk", subformat="streamOptimized")
    assert not recipe(wish(layout=stream, compress=True), found).out_of_order


def test_a_prediction_says_what_the_image_will_be() -> None:
    found = Observed((SOURCE,), (BASE,), replace(NIGHTLY, virtual_size=9 * GIB))
    wanted = wish(snapshot="nightly", layout=Layout("qcow2", cluster_size=4096), **OVER_BASE)
    image = predicted(wanted, found)
    assert (image.path, image.virtual_size, image.cluster_size) == ("/images/new", 9 * GIB, 4096)
    assert facts(image) == {
        "path": "/images/new",
        "state": "present",
        "format": "qcow2",
        "virtual_size": 9 * GIB,
        "backing_file": BASE.path,
        "backing_format": "qcow2",
    }
    assert summary(wanted, found, None) == (
        "convert /images/web.qcow2 (qcow2) at its snapshot nightly to /images/new (qcow2) over /images/golden.qcow2"
    )
    assert summary(wish(compress=True), Observed((SOURCE,)), "has other content").endswith(
        "to /images/new (compressed qcow2), in place of the one that has other content"
    )


def test_what_is_encrypted_takes_its_header_and_its_zeros_where_nothing_tells_of_them() -> None:
    found, header, estimate = Observed((SOURCE,)), 4 << 20, Estimate(GIB, GIB // 2)
    assert space(wish(), found, estimate) == GIB
    assert space(wish(encryption=KEY), found, estimate) == GIB + header
    assert space(wish("luks", encryption=KEY), found, estimate) == 10 * GIB + header
    layout = Layout("qcow2", preallocation="metadata")
    assert space(wish(layout=layout, encryption=KEY), found, estimate) == 10 * GIB + header


def test_an_image_in_the_clear_is_not_taken_for_an_encrypted_one() -> None:
    found = Observed((SOURCE,))
    assert visible_difference(wish(encryption=KEY), found, SOURCE) == "is not encrypted"
    assert visible_difference(wish(encryption=KEY), found, LUKS) is None
    other = replace(LUKS, encryption=Encryption("luks", cipher_alg="aes-128"))
    wanted = wish(encryption=replace(KEY, cipher_alg="aes-256"))
    assert visible_difference(wanted, found, other) == "is encrypted with another cipher_alg"


def test_a_link_to_the_wanted_backing_file_is_that_file() -> None:
    names = Names({"/link": BASE.path})
    found = Observed((replace(SOURCE, backing_file="/link", backing_format="qcow2"), BASE), (BASE,), names=names)
    assert found.reads_base
    assert visible_difference(wish(**OVER_BASE), found, replace(SOURCE, backing_file="/link")) is None


class Said:
    """Work that says what it is asked for."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def convert(self, found: Observed, replaced: list[int] | None) -> None:
        self.said.append(("convert", found, replaced))

    def withdraw(self) -> None:
        self.said.append("withdraw")

    def remove_source(self, files: SourceFiles) -> None:
        self.said.append(("remove", files))


FILES = SourceFiles((SOURCE.path,), ((1, 2, 3),))


def test_a_conversion_makes_the_image_before_the_source_goes() -> None:
    found, work = Observed((SOURCE,)), Said()
    plan = plan_conversion(wish(remove_src=True), found, None, None, None, FILES, work)
    assert plan.report()["actions"] == [
        "convert /images/web.qcow2 (qcow2) to /images/new (qcow2)",
        "remove /images/web.qcow2",
    ]
    assert plan.before == {"path": "/images/new", "state": "absent"}
    assert plan.steps[0].commits, "what was made stays, whatever becomes of the source"
    plan.apply()
    assert work.said == [("convert", found, None), ("remove", FILES)]


def test_an_image_is_replaced_by_the_identity_of_its_file_and_the_source_stays_unless_asked() -> None:
    found, work = Observed((SOURCE,)), Said()
    plan = plan_conversion(wish(), found, SOURCE, "has other content", [7, 8], FILES, work)
    assert plan.before["state"] == "present"
    plan.apply()
    assert work.said == [("convert", found, [7, 8])]


def test_a_source_goes_with_its_extents_beside_an_image_that_is_right() -> None:
    files = SourceFiles(("/images/web.vmdk", "/images/web-s001.vmdk"), ((1,), (2,)))
    plan = plan_removal(wish(remove_src=True, src="/images/web.vmdk"), SOURCE, files, Said())
    assert plan.report()["actions"] == ["remove /images/web.vmdk and its 1 extent(s)"]
    assert plan.before == plan.after
    assert not plan_removal(wish(), SOURCE, files, Said())
