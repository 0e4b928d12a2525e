# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walk of every task that may change something: look and decide, hold the records and decide again, do it, tell."""

from __future__ import annotations

import typing as t
from abc import ABC, abstractmethod
from contextlib import contextmanager

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._errors import Interrupted, QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._task.carry_out import carry_out
from ansible_collections.kvmops.disk.plugins.module_utils._task.places import writing_safely

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
    from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._task.libvirts import Libvirts
    from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings


class Task(ABC):
    """A task at hand: its way to qemu-img, and who else has to do with images. *verb* is its name in the records.

    *libvirts* finds those of the task, once it matters. Raises DiskError where one that has to answer does not.
    """

    verb: str

    def __init__(self, module: AnsibleModule, qemu_img: QemuImg, libvirts: t.Callable[[], Libvirts]) -> None:
        self.module = module
        self.check_mode: bool = module.check_mode
        self.qemu_img = writing_safely(qemu_img, module)
        self._libvirts = libvirts
        self._warned: set[str] = set()
        self._surroundings: Surroundings | None = None

    def warn(self, sentence: str) -> None:
        """Warns, once, however often the task decides."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self.module.warn(sentence)

    def walk(self) -> dict[str, t.Any]:
        """Decides, does what is to be done, and says what became of it: what the module returns."""
        return self.result(self.carried_out())

    def carried_out(self) -> Plan:
        """The plan of the task, which has been carried out, except in check mode."""
        return carry_out(self.decide, self.verb, self.paths, self.module, counted=self.counted)

    def decide(self, operation: Operation | None) -> Plan:
        """The plan, from a new look at the world; the second time *operation* holds the records of paths().

        Raises DiskError, too, where something is to be done, and a libvirt that the task names does not answer.
        """
        self._surroundings = None
        plan = self._plan(operation)
        if plan:
            self.surroundings.require_libvirts()
        return plan

    @property
    def surroundings(self) -> Surroundings:
        """The look around that belongs to the last decision."""
        if self._surroundings is None:
            from ansible_collections.kvmops.disk.plugins.module_utils._task.surroundings import Surroundings

            search_paths = self.module.params.get("search_paths", ())
            self._surroundings = Surroundings(self._libvirts, search_paths, warn=self.warn)
        return self._surroundings

    @abstractmethod
    def paths(self) -> t.Iterable[str]:
        """The images whose records are to be held, as the last decision has found them."""

    def counted(self) -> t.Iterable[str]:
        """The directories in which images are made or grow, where the task limits what these may promise."""
        return ()

    @abstractmethod
    def result(self, plan: Plan) -> dict[str, t.Any]:
        """What the module returns; in check mode what it would."""

    @abstractmethod
    def _plan(self, operation: Operation | None) -> Plan:
        """The plan that grants the wish. Raises DiskError where it must not be granted."""

    def holding(self, operation: Operation | None) -> QemuImg:
        """The way to qemu-img, which keeps the records of *operation* held for as long as it works."""
        return holding(self.qemu_img, operation)


def holding(qemu_img: QemuImg, operation: Operation | None) -> QemuImg:
    """*qemu_img*, which keeps the records of *operation*, if there is one, held for as long as it works."""
    return qemu_img if operation is None else qemu_img.holding(*operation.descriptors)


@contextmanager
def keeping(operation: Operation | None) -> t.Iterator[None]:
    """Work after whose failure the records of *operation* stay, so that the next run verifies what it left of the
    images."""
    try:
        yield
    except (QemuImgFailed, Interrupted):
        if operation is not None:
            for path in operation.paths:
                operation.keep(path)
        raise
