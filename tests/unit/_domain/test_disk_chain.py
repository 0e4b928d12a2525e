# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backing files of a domain's disk: who vouches for them, and whether all say the same of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._domain import disk_chain as _disk_chain
from ansible_collections.kvmops.disk.plugins.module_utils._errors import UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
from unit import samples

TOP, MIDDLE, BASE = "/images/vm.qcow2", "/images/middle.qcow2", "/images/base.raw"
CHAIN = (ChainLink(MIDDLE, "qcow2", "3"), ChainLink(BASE, "raw", "4"))
IMAGES = (samples.qcow2(TOP, backing_file=MIDDLE), samples.qcow2(MIDDLE, backing_file=BASE), samples.raw(BASE))
IMAGE = samples.raw("/images/vm.raw")
ELEMENT = samples.element("/images/vm.raw")


def test_references_must_be_in_the_definition_or_trusted() -> None:
    overlay = replace(IMAGE, backing_file="/base")
    with pytest.raises(UnsafeImage, match="has the backing file /base"):
        _disk_chain.require_known_references(samples.domain(), samples.disk(ELEMENT), [overlay], trusted=False)
    _disk_chain.require_known_references(samples.domain(), samples.disk(ELEMENT), [overlay], trusted=True)
    known = samples.disk(replace(ELEMENT, chain=(ChainLink("/base", "raw"),)))
    _disk_chain.require_known_references(samples.domain(), known, [overlay], trusted=False)


def test_a_data_file_is_never_in_the_definition() -> None:
    known = samples.disk(replace(ELEMENT, chain=(ChainLink("/data", "raw"),)))
    with pytest.raises(UnsafeImage, match="keeps its data in /data"):
        _disk_chain.require_known_references(
            samples.domain(), known, [replace(IMAGE, data_file="/data")], trusted=False
        )


@pytest.mark.parametrize(
    "chain",
    [
        (),
        CHAIN[:1],
        (CHAIN[1], CHAIN[0]),
        (CHAIN[0], ChainLink("/images/other.raw", "raw")),
        (CHAIN[0], ChainLink(BASE, "qcow2")),
    ],
)
def test_another_chain_than_that_of_the_images_is_refused(chain: tuple[ChainLink, ...]) -> None:
    with pytest.raises(UnsafeImage, match="bring the two together"):
        same_chain(chain)


def test_the_chain_may_be_unsaid_or_said_without_formats() -> None:
    same_chain(CHAIN)
    same_chain(None)
    same_chain((ChainLink(MIDDLE, None), ChainLink(BASE, None)))


def test_a_chain_may_be_named_by_links(tmp_path: Path) -> None:
    base, link = tmp_path / "base.raw", tmp_path / "link"
    base.touch()
    link.symlink_to(base)
    disk = samples.disk(samples.element(TOP, "qcow2", chain=(ChainLink(str(link), "raw"),)))
    assert _disk_chain.is_as_named(disk, [samples.qcow2(TOP), samples.raw(str(base))])


def same_chain(chain: tuple[ChainLink, ...] | None) -> None:
    disk = samples.disk(samples.element(TOP, "qcow2", chain=chain))
    _disk_chain.require_same_chain(samples.domain(disk), disk, IMAGES)
