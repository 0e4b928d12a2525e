# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a conversion does: makes the new image, puts it in its place, removes its source."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._host import image_locks as _image_locks
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision_image as _decision_image
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.survey_comparison import file_state
from ansible_collections.kvmops.disk.plugins.module_utils._task import still as _still

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision_image import Observed, SourceFiles
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg


class Work:
    """The steps of one plan, in which *dest* is what stands at the destination.

    *qemu_img* opens what is read, and keeps the records of *operation*. *dress* gives a new file the owner, mode and
    attributes that the task wants. *verified* is None until the image is made; then it tells whether it was compared.
    """

    def __init__(
        self,
        wish: ImageConvertWish,
        dest: Image | None,
        qemu_img: QemuImg,
        operation: Operation | None,
        dress: t.Callable[[str], object],
        phases: Phases,
    ) -> None:
        self.verified: bool | None = None
        self._wish = wish
        self._new_file = _new_file(wish, dest)
        self._qemu_img = qemu_img
        self._operation = operation
        self._dress = dress
        self._phases = phases

    def convert(self, found: Observed, replaced: list[int] | None) -> None:
        """Makes the image, in the place of the file with the identity *replaced* (None: of nothing).

        Raises DiskError where it is not what was to be made, or where somebody uses what it replaces.
        """
        wish, new_file = self._wish, self._new_file
        recipe = _decision_image.recipe(wish, found)
        _transcode.make(self._qemu_img, recipe, found.source, found.content_size, new_file, self._phases)
        for name in new_file.names():
            _rest.resemble(name, wish.dest if replaced else wish.src)
            self._dress(name)
        if replaced is None:
            new_file.publish()
        else:
            _still.require_unlocked(wish.dest, "replace it", _lock.PATIENCE)
            new_file.replace(replaced)
            new_file.commit()
        self.verified = wish.verify

    def withdraw(self) -> None:
        """Removes what there is of the new image; what it replaced is put back."""
        self._new_file.withdraw()

    def remove_source(self, files: SourceFiles) -> None:
        """Removes the source. Raises DiskError where somebody has touched or opened *files* meanwhile."""
        src, paths = self._wish.src, files.paths
        states = tuple(map(file_state, paths))
        if states != files.states or any(map(_image_locks.is_locked, paths)):
            raise DiskError(f"{src}: is in use by now: the source was kept", path=src)
        if self._operation is not None and len(paths) > 1:  # whoever is killed in between leaves only a part of it
            self._operation.note(src, source=src, dest=self._wish.dest, removing=self._wish.dest)
        _file_set.remove(src)


def _new_file(wish: ImageConvertWish, dest: Image | None) -> _staging.NewFile:
    """The image on its way, where it, or the one in its place, may have extents: several files."""
    model = wish.dest if dest else wish.src
    if wish.layout.has_extents or (dest is not None and dest.extents):
        return _file_set.NewFiles(wish.dest, model, dest.extents if dest else ())
    return _staging.NewFile(wish.dest, model)
