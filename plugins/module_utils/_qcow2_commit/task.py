# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An overlay merged into an image below it: the walk of the module qcow2_commit from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._content import merge as _merge
from ansible_collections.kvmops.disk.plugins.module_utils._content.merge import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    MissingImage,
    QemuImgFailed,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._formats import headers as _headers
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.creation import creation_options
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import EncryptionWish, Openers
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase, Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.survey import CommitSurvey, is_same
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_commit.wish import CommitWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer
from ansible_collections.kvmops.disk.plugins.module_utils._ranges import length
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import leftovers as _leftovers
from ansible_collections.kvmops.disk.plugins.module_utils._recovery import settle as _settle
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.hypervisor import refresh_pools
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users


class CommitTask(CommitSurvey):
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: CommitWish) -> None:
        super().__init__(module, wish)
        self.progress = Progress.wanted()
        self.verified = False
        self._paths = [wish.path]
        self._found: Observed | None = None
        self._base: tuple[str, str] | None = None
        self._invalid: list[str] = []
        self._removed: list[str] = []

    def paths(self) -> list[str]:
        """The images whose records are to be held: those from the overlay to the base."""
        return self._paths

    def decide(self, operation: Operation | None) -> Plan:
        """The plan that merges the overlay, or finishes what a dead run began.

        The overlay may go while another run of the same task ends.
        """
        if os.path.lexists(self.wish.path):
            try:
                return self._with_overlay(operation)
            except MissingImage:
                if os.path.lexists(self.wish.path):
                    raise
        return self._without_overlay(operation)

    def _with_overlay(self, operation: Operation | None) -> Plan:
        images = self.look()
        _merge.require_readable(images)
        self._paths = self._with_noted([image.path for image in images], operation)
        self.require_unused(images)
        first = self._settling(images, operation)
        observed = self._found = self._observe(images)
        self._base = (observed.base.path, observed.base.format)
        plan = _decision.plan_commit(self.wish, observed, self._deeds(observed, operation))
        if plan:
            self._invalid = _decision.invalid(self.wish, observed)
            self._removed = _decision.removed(self.wish, observed)
            self.require_possible(observed)
        return self._noted(first, plan, operation)

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; in check mode what it would."""
        if plan:
            refresh_pools(self.hypervisor(), {os.path.dirname(os.path.realpath(path)) for path in self._paths})
        if self._invalid:
            self.module.warn(
                f"{', '.join(self._invalid)}: what it reads was written to, so it is only valid below {self.wish.path}"
            )
        image: dict[str, t.Any] = {}
        if self._base is not None:
            base = _image.inspect(self.qemu_img, *self._base)
            size = plan.after.get("virtual_size", base.virtual_size)
            image = (replace(base, virtual_size=size) if self.module.check_mode else base).facts()
        return {
            **plan.full_report(),
            "image": image,
            "removed": self._removed,
            "invalid": self._invalid,
            "verified": self.verified,
        }

    def _settling(self, images: t.Sequence[_image.Image], operation: Operation | None) -> tuple[Step, ...]:
        """What is to be done first where a run died on the images.

        Raises UnsafeImage where it died while it merged another overlay, which has to be done first.
        """
        steps: list[Step] = []
        formats = {image.path: image.format for image in images}
        for path in self._paths:
            left = _leftovers.left_on(path, formats.get(path), operation)
            own = left.half_merged is not None and any(is_same(left.half_merged, one.path) for one in images[:-1])
            steps += _settle.settle(left, self.door(operation), finishing=_leftovers.COMMIT if own else None)
        return tuple(steps)

    def _with_noted(self, paths: list[str], operation: Operation | None) -> list[str]:
        """*paths*, and the further ones of a dead merge of these: an emptied overlay does not read all of them now."""
        notes = [_dead(_lock.notes(operation)(path)) for path in paths]
        return list(dict.fromkeys([*paths, *(path for note in notes for path in note.get("images", ()))]))

    def _observe(self, images: tuple[_image.Image, ...]) -> Observed:
        overlay, base = images[0], images[-1]
        held = self.qemu_img.allocated(overlay.path, overlay.format, len(images) - 1)
        observed = Observed(images, held)
        if self.wish.end == "keep" and held and base.virtual_size >= overlay.virtual_size:
            observed = replace(observed, differs=not self._is_same_content(observed))
        return observed

    def _deeds(self, observed: Observed, operation: Operation | None) -> _decision.Deeds:
        new_file = _staging.NewFile(observed.overlay.path)
        return _decision.Deeds(
            merge=self.kept(operation, lambda: self._merge(observed, operation)),
            empty=lambda: self._empty(observed, new_file),
            withdraw=new_file.withdraw,
            remove=_base_note.remove,
        )

    def _merge(self, observed: Observed, operation: Operation | None) -> None:
        """Writes the base, and proves that it then is what the overlay shows, which itself stays as it is."""
        overlay, base = observed.overlay, observed.base
        below = base.path if observed.between else None
        with self._phase(observed, "merge", length(observed.held)) as phase:
            self.door(operation).commit(overlay.path, overlay.format, below, rate=self.wish.rate, report=phase.percent)
        _staging.sync(base.path)
        after = _image.inspect(self.qemu_img, base.path, base.format)
        if after.virtual_size < overlay.virtual_size or not self._is_same_content(observed):
            raise QemuImgFailed(
                f"{base.path}: qemu-img reported success, but it is not what {overlay.path} shows: that one is as it "
                "was: check the host's memory and disks, and run again",
                path=base.path,
            )
        if operation is not None:
            self._note(operation, observed, _leftovers.MERGED)

    def _is_same_content(self, observed: Observed) -> bool:
        overlay, base = observed.overlay, observed.base
        with self._phase(observed, "compare", overlay.virtual_size) as phase:
            self.verified = self.qemu_img.same_content(
                overlay.path, overlay.format, base.path, base.format, report=phase.percent
            )
        return self.verified

    def _empty(self, observed: Observed, new_file: _staging.NewFile) -> None:
        """Puts an empty overlay on the base in the place of the one that was merged."""
        overlay, base = observed.overlay, observed.base
        expected = _staging.file_identity(overlay.path)
        encryption = None
        if self.openers is not None and overlay.encryption is not None:
            encryption = EncryptionWish.like(overlay.encryption, self.openers)
        options = creation_options(_decision.empty_layout(overlay), encryption)
        secret = encryption.secret if encryption else None
        qemu_img = self.qemu_img.unlocking([Layer(new_file.name, overlay.format, secret)])
        new_file.begin()
        qemu_img.create(
            new_file.name, overlay.format, overlay.virtual_size, options, (os.path.abspath(base.path), base.format)
        )
        with _headers.open_image(overlay.path) as stream:
            written = _headers.references(stream, overlay.format, overlay.path).backing_file
        if not observed.between and written and not os.path.isabs(written):
            qemu_img.refer(new_file.name, overlay.format, (written, base.format))
        _staging.resemble(new_file.name, overlay.path)
        _users.require_unused(overlay.path, (), "empty it after its merge")
        new_file.replace(expected)
        new_file.commit()

    def _noted(self, first: tuple[Step, ...], plan: Plan, operation: Operation | None) -> Plan:
        """*plan* after the steps that settle what a dead run left, and a note of what is in flight in between."""
        observed = self._found
        if operation is None or observed is None or not (first or plan):
            return replace(plan, steps=(*first, *plan.steps))
        stage = _leftovers.MERGED if observed.is_merged else _leftovers.MERGING

        def note() -> None:
            operation.settled(*operation.paths)
            self._note(operation, observed, stage)

        return replace(plan, steps=(*first, Step("", note), *plan.steps))

    def _note(self, operation: Operation, observed: Observed, stage: str) -> None:
        """Says beside each image what is done; a half merged base is one that only the overlay can repair."""
        facts: dict[str, t.Any] = {
            "overlay": observed.overlay.path,
            "base": observed.base.path,
            "base_format": observed.base.format,
            "images": [image.path for image in observed.images],
            "removes": {path: _staging.file_identity(path) for path in self._removed},
        }
        for path in operation.paths:
            operation.note(path, stage=stage, **facts)

    def _without_overlay(self, operation: Operation | None) -> Plan:
        """The plan where there is no overlay: a dead run may have removed it, and left what was between.

        Raises MissingImage unless the task wants it gone.
        """
        path = self.wish.path
        if self.wish.end != "remove":
            raise MissingImage(
                f"{path}: no such image, asked to merge it: if it may have been merged and removed before, set "
                "remove=true",
                path=path,
            )
        note = _dead(_lock.notes(operation)(path))
        base, image_format = self.wish.base or note.get("base"), self.wish.base_format or note.get("base_format")
        if base is not None and not os.path.exists(base):
            raise MissingImage(f"{path}: neither it nor its base, {base}, exists: check the paths", path=path)
        if base is not None and image_format is not None:
            _image.require_format(base, image_format)
            self._base = (base, image_format)
            self._unlock_base(_image.inspect(self.qemu_img, base, image_format))
        removes = note.get("removes", {})
        rest = [name for name, identity in removes.items() if name != path and _staging.is_file(name, identity)]
        self._paths = self._with_noted([path, *([base] if base else [])], operation)
        self._removed = rest
        first: list[Step] = []
        for name in self._paths:
            left = _leftovers.left_on(name, image_format if name == base else None, operation)
            first += _settle.settle(left, self.door(operation))
        self._require_removable(rest)
        facts = {"base": base, "overlay": "absent"}
        if first and operation is not None:
            first.append(Step("", partial(operation.settled, *operation.paths)))
        return Plan(
            facts, facts, (*first, *(Step(f"remove {name}", partial(_base_note.remove, name)) for name in rest))
        )

    def _unlock_base(self, base: _image.Image) -> None:
        """What is left of a chain, opened with the secret of what the overlay read."""
        if self.openers is not None:
            below = Openers(self.openers.below, self.openers.below)
            self.qemu_img = _key_slots.unlocked(self.qemu_img, [base], below)

    def _require_removable(self, rest: t.Sequence[str]) -> None:
        """Raises where somebody has come to use what a dead run was about to remove."""
        users = self.users() if rest else []
        readers = self.readers(rest, users) if rest else None
        for name in rest:
            _users.require_unused(name, users, "remove it after its merge")
            others = [path for path in readers.of(name) if path not in rest] if readers else []
            _dependents.require_none(name, others, "remove it after its merge", "remove its record")

    def _phase(self, observed: Observed, verb: str, total: int) -> AbstractContextManager[Phase]:
        return self.progress.phase(os.path.basename(observed.overlay.path), verb, total)


def _dead(note: dict[str, t.Any] | None) -> dict[str, t.Any]:
    """What a dead run that merged noted; nothing of any other."""
    is_ours = note is not None and not note.get("alive") and note.get("verb") == _leftovers.COMMIT
    return note if note and is_ours else {}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = CommitTask(module, wish_from(module.params))
    plan = carry_out(task.decide, _leftovers.COMMIT, task.paths, module)
    return task.result(plan)
