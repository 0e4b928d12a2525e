# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a merge does: writes the base and proves it, then empties or removes the overlay."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._content.thickness import staying_thick
from ansible_collections.kvmops.disk.plugins.module_utils._errors import QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import durable as _durable
from ansible_collections.kvmops.disk.plugins.module_utils._files import rest as _rest
from ansible_collections.kvmops.disk.plugins.module_utils._files import same_file as _same_file
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import length
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.verbs import MERGED
from ansible_collections.kvmops.disk.plugins.module_utils._task.task import holding, keeping
from ansible_collections.kvmops.disk.plugins.module_utils._usage import unused as _unused

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phases
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.survey import CommitSurvey
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish


class Work:
    """The steps of one plan, which was made by *survey*, while *operation* holds the records; *warn* tells a person."""

    def __init__(
        self,
        wish: CommitWish,
        survey: CommitSurvey,
        operation: Operation | None,
        phases: Phases,
        warn: t.Callable[[str], object],
    ) -> None:
        self._wish = wish
        self._survey = survey
        self._operation = operation
        self._phases = phases
        self._warn = warn
        self._new_file = _staging.NewFile(wish.path, wish.path)

    def merge(self, observed: Observed) -> None:
        """Writes the base, and proves that it then is what the overlay shows, which itself stays as it is.

        Raises QemuImgFailed where it is not.
        """
        with keeping(self._operation):
            self._merge(observed)
            self._require_merged(observed)
            self._note_merged(observed)

    def empty(self, observed: Observed) -> None:
        """Puts an empty overlay on the base in the place of the one that was merged."""
        overlay, new_file = observed.overlay, self._new_file
        expected = _same_file.file_identity(overlay.path)
        self._make_empty(observed)
        _rest.resemble(new_file.name, overlay.path)
        _unused.require_unused(overlay.path, (), "empty it after its merge")
        new_file.replace(expected)
        new_file.commit()

    def withdraw(self) -> None:
        """Removes what there is of the empty overlay; the merged one is put back."""
        self._new_file.withdraw()

    def remove(self, path: str) -> None:
        """Removes an image, and what is noted of it as a base."""
        _base_note.remove(path)

    def settle(self) -> None:
        """Lets go of what a dead run noted."""
        if self._operation is not None:
            self._operation.settled(*self._operation.paths)

    def _merge(self, observed: Observed) -> None:
        overlay, base = observed.overlay, observed.base
        below = base.path if observed.between else None
        qemu_img = holding(self._survey.qemu_img, self._operation)
        _durable.sync_before_reading(*(file for image in observed.images for file in image.files))
        kept = staying_thick(self._survey.qemu_img, base.path, base.format, self._warn)
        with kept, self._phases("merge", length(observed.held)) as phase:
            qemu_img.commit(overlay.path, overlay.format, below, rate=self._wish.rate, report=phase.percent)
        _durable.sync(base.path)

    def _require_merged(self, observed: Observed) -> None:
        overlay, base = observed.overlay, observed.base
        after = _image.inspect(self._survey.qemu_img, base.path, base.format)
        if after.virtual_size < overlay.virtual_size or not self._survey.is_same_content(observed):
            raise QemuImgFailed(
                f"{base.path}: qemu-img reported success, but it is not what {overlay.path} shows: that one is as it "
                "was: check the host's memory and disks, and run again",
                path=base.path,
            )

    def _note_merged(self, observed: Observed) -> None:
        if self._operation is not None:
            note = _leftovers.record(observed, _decision.removed(self._wish, observed), MERGED)
            for path in self._operation.paths:
                self._operation.note(path, **note)

    def _make_empty(self, observed: Observed) -> None:
        self._new_file.begin()
        overlay, base, name = observed.overlay, observed.base, self._new_file.name
        encryption = self._encryption(overlay)
        options = creation_options(_decision.empty_layout(overlay), encryption)
        secret = encryption.secret if encryption else None
        qemu_img = self._survey.qemu_img.unlocking([Layer(name, overlay.format, secret)])
        backing = os.path.abspath(base.path), base.format
        qemu_img.create(name, overlay.format, overlay.virtual_size, options, backing)
        with _headers.open_image(overlay.path) as stream:
            written = _headers.references(stream, overlay.format, overlay.path).backing_file
        if not observed.between and written and not os.path.isabs(written):
            qemu_img.refer(name, overlay.format, (written, base.format))

    def _encryption(self, overlay: Image) -> EncryptionWish | None:
        """That of the overlay, under the secret of the task."""
        if self._wish.openers is None or overlay.encryption is None:
            return None
        return EncryptionWish.like(overlay.encryption, self._wish.openers)
