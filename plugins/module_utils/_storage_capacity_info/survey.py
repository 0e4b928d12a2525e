# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look for the places whose file systems are meant: of paths, of libvirt's pools, of the disks of all domains."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._capacity import file_systems as _file_systems
from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, field
from ansible_collections.kvmops.disk.plugins.module_utils._errors import MissingImage, NotPermitted
from ansible_collections.kvmops.disk.plugins.module_utils._xml import pools as _pools

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor, Pool
    from ansible_collections.kvmops.disk.plugins.module_utils._storage_capacity_info.wish import CapacityWish
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User


@dataclass
class Places:
    """What is looked at: *places* are directories, each of which means its file system.

    *below* are directories whose files count too. *pools* are those that are no directories, and *pool_names* the
    names of those that are, by their directory. *failures* are directories that cannot be read, each with the reason.
    """

    places: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    pool_names: dict[str, str] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)

    def add_path(self, path: str, *, recurse: bool) -> None:
        """Raises MissingImage where *path* names nothing that can be looked at."""
        if not os.path.exists(path):
            raise MissingImage(f"paths: {path} does not exist: name a directory, or a file, that is there", path=path)
        if not os.path.isdir(path):
            self.places.append(os.path.dirname(os.path.realpath(path)))
            return
        if not os.access(path, os.R_OK | os.X_OK):
            raise NotPermitted(f"paths: {path} cannot be read", path=path)
        self.places.append(path)
        if recurse:
            below, failed = _file_systems.directories_below(path)
            self.below += below
            self.failures += failed

    def add_pool(self, pool: Pool, *, named: bool) -> None:
        """A pool that is *named* has to be there; of all others those that are. The volumes of a pool without a
        directory are counted as libvirt tells."""
        xml = pool.xml()
        if _pools.kind(xml) not in _pools.OF_FILES:
            self.pools.append(pool)
            return
        directory = _pools.path(xml)
        if directory and os.path.isdir(directory):
            self.places.append(directory)
            self.pool_names[directory] = pool.name
        elif named:
            raise MissingImage(f"pools: {pool.name} has no directory {directory} on this host", path=directory)


def places(wish: CapacityWish, hypervisors: t.Sequence[Hypervisor], users: t.Iterable[User]) -> Places:
    """The places that *wish* means; the first of *hypervisors* has the pools that it names.

    Raises MissingImage where one that it names is not there.
    """
    found = Places()
    for path in wish.paths:
        found.add_path(path, recurse=wish.recurse)
    for name in wish.pools:
        found.add_pool(hypervisors[0].pool(name), named=True)
    for number, hypervisor in enumerate(hypervisors if wish.everything else ()):
        for pool in hypervisor.pools():
            if number or pool.name not in wish.pools:
                found.add_pool(pool, named=False)
    if wish.everything:
        disks = {one.path for one in users if os.path.isfile(one.path)}
        found.places += sorted({os.path.dirname(os.path.realpath(path)) for path in disks})
    return found
