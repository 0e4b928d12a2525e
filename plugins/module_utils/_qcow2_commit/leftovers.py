# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dead merge left: its record beside each image of the chain, and what it was about to remove."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import beside as _beside
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.decision import Rest
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import verbs as _verbs

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Step
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


def record(observed: Observed, removed: t.Iterable[str], stage: str) -> dict[str, t.Any]:
    """What a merge notes beside each image: a half merged base is one that only the overlay can repair."""
    return {
        "stage": stage,
        "overlay": observed.overlay.path,
        "base": observed.base.path,
        "base_format": observed.base.format,
        "images": [image.path for image in observed.images],
        "removes": {path: _same_file.file_identity(path) for path in removed},
    }


def with_noted(paths: t.Sequence[str], operation: Operation | None) -> list[str]:
    """*paths*, and the further ones of a dead merge of these: an emptied overlay does not read all of them now."""
    noted = [path for known in paths for path in _note(known, operation).get("images", ())]
    return list(dict.fromkeys([*paths, *(path for path in noted if _note(path, operation))]))


def settling(
    paths: t.Iterable[str],
    formats: t.Mapping[str, str],
    above: t.Sequence[Image],
    operation: Operation | None,
    qemu_img: QemuImg,
) -> tuple[Step, ...]:
    """What is to be done first where a run died on *paths*, whose *formats* are known of images that are there.

    Raises UnsafeImage where it died while it merged another overlay than those *above* the base: that has to be done
    first.
    """
    steps: list[Step] = []
    for path in paths:
        left = _leftovers.left_on(path, formats.get(path), operation)
        own = left.half_merged is not None and any(is_same(left.half_merged, one.path) for one in above)
        steps += _settle.settle(left, qemu_img, finishing=_verbs.COMMIT if own else None)
    return tuple(steps)


def rest(wish: CommitWish, operation: Operation | None) -> Rest:
    """What is left where the overlay has gone. Raises MissingImage where its base is not there either."""
    note = _note(wish.path, operation)
    base = wish.base or note.get("base")
    if base is not None and not os.path.exists(base):
        raise MissingImage(f"{wish.path}: neither it nor its base, {base}, exists: check the paths", path=wish.path)
    images = [name for name in note.get("removes", {}) if name != wish.path and _is_to_go(name, operation)]
    return Rest(base, wish.base_format or note.get("base_format"), tuple(images))


def _is_to_go(path: str, operation: Operation | None) -> bool:
    """Whether the record beside the image at *path* itself says that it goes."""
    return _same_file.is_file(path, _note(path, operation).get("removes", {}).get(path))


def is_same(one: str, other: str) -> bool:
    """Whether two names mean one file that is there."""
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _note(path: str, operation: Operation | None) -> dict[str, t.Any]:
    """What a dead run that merged noted beside *path*; nothing of any other."""
    note = _beside.notes(operation)(path)
    is_ours = note is not None and not note.get("alive") and note.get("verb") == _verbs.COMMIT
    return note if note and is_ours else {}
