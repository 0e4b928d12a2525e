# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What will be made: images and definitions of clones, before anything is there."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_definition import (
    Definition,
    Identity,
)
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_source import SourceDisk
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec

#: The verbs of the records of runs that make clones, and that remove them.
MAKE = "clone"

REMOVE = "remove-clone"

_DEFAULT_CLUSTER = 64 << 10


@dataclass(frozen=True)
class NewImage:
    """An image to be made at *path* for a disk of the source, with *size* bytes, in *format*."""

    disk: SourceDisk
    path: str
    size: int
    format: str


@dataclass
class Blueprint:
    """A clone that is to be made. *nvram*: the source's variable store and the clone's, where there is one to copy.

    *left*: where a dead run was at work, and *debris*, where it left something that is removed first. *validate*:
    libvirt is to check the definition by its schema.
    """

    spec: CloneSpec
    identity: Identity
    definition: Definition
    images: tuple[NewImage, ...]
    nvram: tuple[str, str] | None = None
    left: tuple[str, ...] = ()
    debris: tuple[str, ...] = ()
    validate: bool = False

    @property
    def paths(self) -> list[str]:
        """The files that are the clone's own, to be held while it is made."""
        return [*(image.path for image in self.images), *([self.nvram[1]] if self.nvram else []), *self.left]


def overlay_bytes(size: int, cluster_size: int | None) -> int:
    """The bytes of an empty overlay: a header, the refcounts, and a first table with 8 bytes for each second one."""
    cluster = cluster_size or _DEFAULT_CLUSTER
    entries = -(-size // (cluster * cluster // 8))
    return (3 + -(-entries * 8 // cluster)) * cluster
