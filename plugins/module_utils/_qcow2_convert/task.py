# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One image made of another as a task wants it: the walk of qcow2_convert from its parameters to its result."""

from __future__ import annotations

import os
import typing as t
from contextlib import AbstractContextManager
from dataclasses import replace

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._capacity import space as _space
from ansible_collections.kvmops.disk.plugins.module_utils._content import transcode as _transcode
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    InvalidRequest,
    MissingImage,
    UnsafeImage,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import staging as _staging
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image import encryption as _encryption
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image import key_slots as _key_slots
from ansible_collections.kvmops.disk.plugins.module_utils._image.encryption import Openers
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import Trust
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._progress import Phase, Progress
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert import decision as _decision
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.decision import Observed
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish, wish_from
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.leftovers import CONVERT
from ansible_collections.kvmops.disk.plugins.module_utils._recovery.settle import interrupted
from ansible_collections.kvmops.disk.plugins.module_utils._task import surroundings as _surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users

#: The formats that no QEMU is built without.
_ALWAYS_THERE = ("raw", "qcow2", "luks")


class ConversionTask:
    """The task at hand: looks at the world, decides by the pure functions, and says what became of it."""

    def __init__(self, module: AnsibleModule, wish: ImageConvertWish) -> None:
        self.module = module
        self.wish = wish
        self.progress = Progress.wanted()
        self.trust = Trust(module.params["trusted"], tuple(filter(None, [wish.backing_file])))
        self.qemu_img = QemuImg.find().limiting(not self.trust.trusted)
        self.surroundings = Surroundings(module.params["uri"], module.params["search_paths"])
        self.verified = False
        self._found: Observed | None = None
        self._left: dict[str, t.Any] | None = None
        self._compared: tuple[object, bool] | None = None

    def paths(self) -> list[str]:
        """The images whose records are to be held. A source that is only read may have many readers at once."""
        return [self.wish.dest, *([self.wish.src] if self.wish.remove_src else [])]

    def decide(self, operation: Operation | None) -> Plan:
        """The plan. A source may go while another run of the same task ends: its destination is there then."""
        missing = not os.path.lexists(self.wish.dest)
        try:
            return self._decide(operation)
        except MissingImage:
            if missing and os.path.lexists(self.wish.dest):
                return self._decide(operation)
            raise

    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns, read from the world again; attributes are the file modules' business."""
        report = {**plan.full_report(), "verified": self.verified}
        if plan:
            self.surroundings.refresh_pools(self.paths())
        if plan.after.get("state") == "present" and self.module.check_mode and self._found:
            return {**report, "image": _decision.predicted(self.wish, self._found).facts()}
        self._set_attributes(report)
        return {**report, "image": self._destination().facts()}

    def _decide(self, operation: Operation | None) -> Plan:
        self._found = None
        self._left = self._note_of(self.wish.src, operation)
        dest = self._destination() if self._is_there() else None
        if dest is not None and dest.encrypted and self.wish.update != "always":
            self._unlock_dest([dest])
        first = self._settling(dest, operation)
        if dest is None:
            plan = self._conversion(operation, None, None)
        elif self._source_is_going() or self.wish.update == "missing":
            plan = self._removal(dest, operation)
        else:
            reason = self._reason(dest)
            plan = self._conversion(operation, dest, reason) if reason else self._removal(dest, operation)
        return self._after(first, plan, operation)

    def _is_there(self) -> bool:
        path = self.wish.dest
        if os.path.islink(path):
            raise UnsafeImage(
                f"{path}: is a symbolic link whose target is missing: remove it, or make its target first", path=path
            )
        if os.path.isdir(path):
            raise InvalidRequest(f"dest: {path} is a directory: name the file in it")
        return os.path.lexists(_file_set.stands_at(path))

    def _destination(self) -> _image.Image:
        """The image that stands at the destination, or, where a run died while it replaced it, did and will again.

        Raises UnsafeImage where it has another format.
        """
        path = _file_set.stands_at(self.wish.dest)
        _image.require_regular_file(path)
        _image.require_format(path, self.wish.layout.format)
        image = _image.inspect(self.qemu_img, path, self.wish.layout.format)
        extents = (os.path.join(os.path.dirname(self.wish.dest), os.path.basename(extent)) for extent in image.extents)
        return replace(image, path=self.wish.dest, extents=tuple(extents))

    def _observe(self) -> Observed:
        """The source, and what the new image is to stand on. Raises DiskError where that cannot be read."""
        wish = self.wish
        for path, image_format in ((wish.src, wish.src_format), (wish.dest, wish.layout.format)):
            if image_format not in _ALWAYS_THERE:
                self.qemu_img.require_driver(image_format, path)
        base: tuple[_image.Image, ...] = ()
        if wish.backing_file is not None:  # first, since the source may refer to it
            base = self.trust.look(self.qemu_img, wish.backing_file, t.cast(str, wish.backing_format))
            self._unlock_below(base)
        source = self.trust.look(self.qemu_img, wish.src, wish.src_format)
        self._unlock(source)
        _surroundings.require_settled(self.qemu_img, wish.src, wish.src_format, self._left)
        snapshot = _decision.find_snapshot(source[0], wish.snapshot) if wish.snapshot is not None else None
        self._found = Observed(source, base, snapshot)
        _decision.require_convertible(wish, self._found)
        for image in (*source, *base):
            _surroundings.require_unwritten(image)
        return self._found

    def _unlock(self, source: tuple[_image.Image, ...]) -> None:
        """Has the source opened with its secrets from now on. Raises DiskError where it may not be, or they do not."""
        _decision.require_decryptable(self.wish, source)
        if self.wish.openers is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, source, self.wish.openers)

    def _unlock_below(self, base: tuple[_image.Image, ...]) -> None:
        """Has the wanted backing file opened with the secret that the task gives for it."""
        if self.wish.encryption is not None:
            below = Openers(self.wish.encryption.below, self.wish.encryption.below)
            self.qemu_img = _key_slots.unlocked(self.qemu_img, base, below)

    def _unlock_dest(self, chain: t.Sequence[_image.Image]) -> None:
        """Has the image at the destination opened with the secrets of the task, which have to be right."""
        if self.wish.encryption is not None:
            self.qemu_img = _key_slots.unlocked(self.qemu_img, chain, self.wish.encryption.openers)

    def _reason(self, dest: _image.Image) -> str | None:
        """Why the image that is there does not do; None where it does."""
        found = self._observe()
        _decision.require_replaceable(self.wish, dest)
        if self.wish.update == "always":
            return "is there"
        seen = _decision.visible_difference(self.wish, found, dest)
        return seen or (None if self._is_same(found, dest) else "has other content")

    def _is_same(self, found: Observed, dest: _image.Image) -> bool:
        """Whether the destination has the content of the source; asked once for files that nobody writes."""
        path = _file_set.stands_at(dest.path)
        own = Trust(self.trust.trusted, (*self.trust.declared, *_file_set.files(path)[1:]))
        chain = own.look(self.qemu_img, path, dest.format)
        self._unlock_dest(chain)
        wanted = self.wish.encryption
        _encryption.require_secret(chain, wanted.openers if wanted else None, "compare it")
        _surroundings.require_unwritten(chain[0])
        files = [_file_state(file) for image in (*found.source, *chain) for file in image.files]
        if self._compared is None or self._compared[0] != files:
            with self._phase("compare", found.size) as phase:
                recipe = _decision.recipe(self.wish, found)
                same = _transcode.same_content(self.qemu_img, recipe, path, phase.percent)
            self._compared = (files, same)
            self.verified = same
        return self._compared[1]

    def _conversion(self, operation: Operation | None, dest: _image.Image | None, reason: str | None) -> Plan:
        wish = self.wish
        _staging.require_directory(wish.dest, "dest")
        if wish.layout.has_extents:
            _file_set.require_free_places(wish.dest, dest.extents if dest else ())
        found = self._found or self._observe()
        self._require_unused(dest, operation)
        self._require_space(found)
        self._require_promise(found)
        expected = _staging.file_identity(_file_set.stands_at(wish.dest)) if dest else None
        new_file = self._new_file(dest)
        steps = [
            Step(
                _decision.summary(wish, found, reason),
                lambda: self._convert(found, new_file, expected, operation),
                new_file.withdraw,
                commits=True,
            ),
            *self._removal_steps(operation),
        ]
        after = _decision.facts(_decision.predicted(wish, found))
        before = _decision.facts(dest) if dest else {"path": wish.dest, "state": "absent"}
        return Plan(before, after, tuple(steps))

    def _convert(
        self, found: Observed, new_file: _staging.NewFile, expected: list[int] | None, operation: Operation | None
    ) -> None:
        recipe = _decision.recipe(self.wish, found)
        _transcode.make(self._door(operation), recipe, found.source, found.size, new_file, self._phase)
        for name in new_file.names():
            _staging.resemble(name, self.wish.dest if expected else self.wish.src)
            arguments = self.module.load_file_common_arguments(self.module.params, path=name)
            self.module.set_fs_attributes_if_different(arguments, False)
        if expected is None:
            new_file.publish()
        else:
            self._require_unlocked()
            new_file.replace(expected)
            new_file.commit()
        self.verified = self.wish.verify

    def _new_file(self, dest: _image.Image | None) -> _staging.NewFile:
        """The image on its way, where it, or the one in its place, may have extents: several files."""
        if self.wish.layout.has_extents or (dest is not None and dest.extents):
            return _file_set.NewFiles(self.wish.dest, dest.extents if dest else ())
        return _staging.NewFile(self.wish.dest)

    def _source_is_going(self) -> bool:
        """Whether the source has gone after its conversion, or a dead run has begun to remove the files of it."""
        began = self._left is not None and self._left.get("removing") == self.wish.dest
        return self.wish.remove_src and (began or not os.path.lexists(self.wish.src))

    def _removal(self, dest: _image.Image, operation: Operation | None) -> Plan:
        """The plan where the destination stands as wanted: the source may still have to go, if it is the same."""
        _decision.require_kept(self.wish, dest)
        facts = _decision.facts(dest)
        if not self.wish.remove_src or not os.path.lexists(self.wish.src):
            return Plan(facts, facts)
        if self._source_is_going():
            return Plan(facts, facts, self._removal_steps(operation))
        found = self._found or self._observe()
        self._require_source_removable()
        if _decision.visible_difference(self.wish, found, dest) or not self._is_same(found, dest):
            raise DiskError(
                f"{self.wish.src}: asked to remove it, but {dest.path} has other content, which update=missing "
                "leaves alone: set update to changed, or keep the source",
                path=self.wish.src,
            )
        return Plan(facts, facts, self._removal_steps(operation))

    def _removal_steps(self, operation: Operation | None) -> tuple[Step, ...]:
        src = self.wish.src
        if not self.wish.remove_src:
            return ()
        files = _file_set.files(src)
        as_found = [_file_state(file) for file in files]

        def remove() -> None:
            if [_file_state(file) for file in files] != as_found or any(map(_users.is_locked, files)):
                raise DiskError(f"{src}: is in use by now: the source was kept", path=src)
            if operation is not None and len(files) > 1:  # whoever is killed in between leaves only a part of it
                operation.note(src, source=src, dest=self.wish.dest, removing=self.wish.dest)
            _file_set.remove(src)

        extents = f" and its {len(files) - 1} extent(s)" if len(files) > 1 else ""
        return (Step(f"remove {src}{extents}", remove),)

    def _require_unused(self, dest: _image.Image | None, operation: Operation | None) -> None:
        """Raises where reading the source, or writing the destination, would hurt somebody."""
        self.surroundings.require_not_running(self.wish.src, "convert it", but="backing file")
        self.surroundings.require_not_running(self.wish.dest, "put a new image there")
        if dest is not None:
            self._require_unlocked()
            self.surroundings.require_not_suspended_on(self.wish.dest, "replace it")
            self.surroundings.require_no_dependents(self.wish.dest, "replace it", "choose another dest")
        if self.wish.remove_src:
            self._require_source_removable()

    def _require_unlocked(self) -> None:
        """Raises ImageInUse where somebody has the destination open. Other runs that compare it are waited for."""
        _surroundings.require_unlocked(self.wish.dest, "replace it", _lock.PATIENCE)

    def _require_source_removable(self) -> None:
        to_do = "remove it after its conversion (remove_src)"
        self.surroundings.require_unused(self.wish.src, to_do)
        self.surroundings.require_no_dependents(self.wish.src, to_do, "keep the source")

    def _require_space(self, found: Observed) -> None:
        """Raises NotEnoughSpace, as far as it can be known: not how far something shrinks, nor how much differs."""
        wish = self.wish
        if wish.compress or (found.base and not found.reads_base):
            return
        recipe = _decision.recipe(wish, found)
        options = wish.layout.options() if wish.layout.format == "qcow2" else {}
        measured = self.qemu_img.measure(
            wish.src, wish.src_format, "qcow2", options, snapshot=recipe.snapshot, alone=found.reads_base
        )
        _space.require_space([(wish.dest, _decision.space(wish, found, measured.required))])

    def _require_promise(self, found: Observed) -> None:
        """Raises NotEnoughSpace where the file system would promise too much with the new image."""
        new = _space.NewImage(self.wish.dest, found.size, self.wish.backing_file)
        gone = [self.wish.src] if self.wish.remove_src else []
        self.surroundings.require_ratio_for(new, self.module.params["max_overcommit"], self.qemu_img, gone=gone)

    def _settling(self, dest: _image.Image | None, operation: Operation | None) -> tuple[Step, ...]:
        """What is to be done first where a run died on the destination."""
        found = dest.format if dest else None
        return interrupted(self.wish.dest, found, operation, self._door(operation), finishing=CONVERT)

    def _note_of(self, path: str, operation: Operation | None) -> dict[str, t.Any] | None:
        """What a record beside *path* says: of those that we hold, what was in them before."""
        return operation.left_behind(path) if operation and path in operation.paths else _lock.look(path)

    def _after(self, first: tuple[Step, ...], plan: Plan, operation: Operation | None) -> Plan:
        """*plan* after the steps that settle what a dead run left, and a note of what is in flight."""
        if operation is None or not (first or plan):
            return Plan(plan.before, plan.after, (*first, *plan.steps))

        def note() -> None:
            for path in operation.paths:
                operation.settled(path)
                operation.note(path, source=self.wish.src, dest=self.wish.dest)

        return Plan(plan.before, plan.after, (*first, Step("", note), *plan.steps))

    def _set_attributes(self, report: dict[str, t.Any]) -> None:
        """As the file modules do, except on an image that a guest has open: that one libvirt owns for the time."""
        if _users.is_locked(self.wish.dest):
            return
        for path in _file_set.files(self.wish.dest):
            arguments = self.module.load_file_common_arguments(self.module.params, path=path)
            if self.module.set_fs_attributes_if_different(arguments, False, report["diff"]):
                report["changed"] = True
                report["actions"].append(f"set the owner, mode or attributes of {path}")

    def _phase(self, verb: str, total: int) -> AbstractContextManager[Phase]:
        return self.progress.phase(os.path.basename(self.wish.dest), verb, total)

    def _door(self, operation: Operation | None) -> QemuImg:
        return self.qemu_img.holding(*operation.descriptors) if operation else self.qemu_img


def _file_state(path: str) -> tuple[int, ...]:
    """Equal as long as the file at *path* is the same one and nobody writes to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """One run of the module."""
    task = ConversionTask(module, wish_from(module.params))
    plan = carry_out(task.decide, CONVERT, task.paths, module, counted=lambda: [os.path.dirname(task.wish.dest)])
    return task.result(plan)
