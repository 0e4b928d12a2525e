# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a new clone must have for itself, and another domain has. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.decision_existing import Neighbour
    from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone.wish import CloneSpec


@dataclass
class Taken:
    """What other domains have that a clone must have for itself, with the name of who has it; *files* by real names."""

    uuids: dict[str, str]
    macs: dict[str, str]
    files: dict[str, str]

    @classmethod
    def by(cls, neighbours: t.Iterable[Neighbour], files: dict[str, str]) -> Taken:
        """What the *neighbours* have; *files* are theirs by their real names."""
        uuids: dict[str, str] = {}
        macs: dict[str, str] = {}
        for other in neighbours:
            uuids[other.looks.uuid] = other.looks.name
            macs.update(dict.fromkeys(other.macs, other.looks.name))
        return cls(uuids, macs, files)

    def require_free(self, spec: CloneSpec, macs: t.Iterable[str], paths: t.Mapping[str, str]) -> None:
        """Raises DiskError where another domain has something that is to be the new clone's.

        *paths* are its files, each with its real name. The addresses *macs* are taken from now on.
        """
        if spec.uuid in self.uuids:
            raise DiskError(
                f"{spec.name}: uuid: {spec.uuid} is that of the domain {self.uuids[spec.uuid]}: choose another"
            )
        for mac in macs:
            if mac in self.macs:
                given = (
                    "choose another" if mac in spec.macs else ("it is derived from the name: give another one with mac")
                )
                raise DiskError(f"{spec.name}: mac: {mac} is that of the domain {self.macs[mac]}: {given}", mac=mac)
            self.macs[mac] = spec.name
        for path, file in paths.items():
            owner = self.files.get(file)
            if owner is not None:
                raise DiskError(
                    f"{spec.name}: {path} is a disk of the domain {owner} already: choose another name or disk_dir",
                    path=path,
                )
