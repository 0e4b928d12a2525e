# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image gets another backing file, or none: what is done for it.

``qemu-img rebase`` writes the new reference before all that it copied (HAZARDS A1), so it works on a copy of the image,
which is byte for byte the same, with its layout and its bitmaps, until then.
"""

from __future__ import annotations

import typing as t
from contextlib import AbstractContextManager, contextmanager

from ansible_collections.kvmops.disk.plugins.module_utils._content import rebase as _rebase
from ansible_collections.kvmops.disk.plugins.module_utils._content.exchange import Exchange
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._host.file_copy import copy_file
from ansible_collections.kvmops.disk.plugins.module_utils._image import graph as _graph
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.rebase import Rebase
    from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

#: Begins a part of the work: a verb, and the bytes that it is about. None: nobody asks.
Phases = t.Callable[[str, int], AbstractContextManager[t.Optional[Phase]]]


@contextmanager
def unwatched(_verb: str, _total: int) -> t.Iterator[None]:
    """A phase of which nobody is told."""
    yield None


def plan_rebase(
    found: Rebase, qemu_img: QemuImg, encryption: EncryptionWish | None = None, phases: Phases = unwatched
) -> Plan:
    """The plan that gives the image its new backing file. *encryption* has the secrets of what is encrypted, and each
    of the *phases* is told how far it is."""
    before, after = _rebase.facts_before(found), _rebase.facts_after(found)
    image = found.image
    if found.rewrites and found.wanted is not None:
        wanted = found.wanted
        return Plan(before, after, (Step(str(found), lambda: qemu_img.refer(image.path, image.format, wanted)),))
    exchange = Exchange((image, *found.below, *found.base), "rebase it")
    step = Step(
        str(found),
        lambda: _rebase_in_new_file(found, exchange, qemu_img, encryption, phases),
        exchange.withdraw,
        commits=True,
    )
    return Plan(before, after, (step,))


def _rebase_in_new_file(
    found: Rebase, exchange: Exchange, qemu_img: QemuImg, encryption: EncryptionWish | None, phases: Phases
) -> None:
    image_format = found.image.format
    exchange.begin()
    copy_file(exchange.file, exchange.name)
    _graph.require_same_references(exchange.name, found.image)
    copy = replace(found.image, path=exchange.name)
    before = after = qemu_img
    if encryption is not None:
        before = before.unlocking(encryption.layers((copy, *found.below)))
        before = before.unlocking(encryption.layers(found.base, encryption.below)) if found.base else before
        after = after.unlocking(encryption.layers((copy, *found.base)))
    if found.below:  # a relative name means another file from there
        before.refer(exchange.name, image_format, (found.below[0].path, found.below[0].format))
    with phases("rebase", found.image.virtual_size) as phase:
        before.rebase(exchange.name, image_format, found.wanted, report=phase.percent if phase else None)
    _require_rebased(found, _image.inspect(qemu_img, exchange.name, image_format))
    with phases("compare", found.image.virtual_size) as phase:
        exchange.require_same_content(image_format, after, phase.percent if phase else None)
    exchange.dress()
    exchange.put_in_place()
    exchange.finish()


def _require_rebased(found: Rebase, image: _image.Image) -> None:
    reads = (image.backing_file, image.backing_format) if image.backing_file is not None else None
    if reads != found.wanted:
        raise DiskError(
            f"{found.image.path}: the new image has the backing file {image.backing_file or 'none'} after its rebase, "
            f"wanted {found.wanted[0] if found.wanted else 'none'}: it was removed, and the old one is as it was",
            path=found.image.path,
        )
