# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is run on the hosts: playbooks as users write them, and the machines that they work on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hosts.kinds import Kind

_PLAYBOOKS = Path(__file__).parent / "playbooks"
_IMAGES = "/var/lib/libvirt/images"
_ARCHIVE = f"disk archive raw {_IMAGES}/archive.raw"
_WEB = "disk web raw /srv/vm/web.raw; chown libvirt-qemu:kvm /srv/vm/web.raw; chmod 640 /srv/vm/web.raw"
_MAIL = "disk mail qcow2 /srv/vm/mail.qcow2"
_DB = f"disk db qcow2 {_IMAGES}/db.qcow2; chmod 600 {_IMAGES}/db.qcow2"
# What is there in each scene: it shows what libvirt itself does with a disk and its backing file.
_CONTROL = (
    "disk golden qcow2 /srv/golden/golden.qcow2",
    "chmod 444 /srv/golden/golden.qcow2",
    "overlay control golden /srv/vm/control.qcow2",
)


@dataclass(frozen=True)
class Playbook:
    """A playbook. `since` is the libvirt that it needs; `can_be_cut`, whether it changes what a power cut may tear."""

    name: str
    since: tuple[int, int] = (0, 0)
    can_be_cut: bool = True

    @property
    def path(self) -> Path:
        return _PLAYBOOKS / f"{self.name}.yml"


@dataclass(frozen=True)
class Chapter:
    """Playbooks that are run one after the other.

    `scene` are lines for on_host/scene.sh, without which the host is left as it was built. The machines of `running`
    run, and the playbooks of `prepared_by` have been run. `private` are folders in which files have owners of their
    own, as the documentation of the module says.
    """

    playbooks: tuple[Playbook, ...]
    scene: str = ""
    running: tuple[str, ...] = ()
    prepared_by: tuple[Playbook, ...] = ()
    private: tuple[str, ...] = ()

    def part(self, names: Collection[str]) -> Chapter:
        """The chapter, ended after the last playbook of these names."""
        places = [place for place, playbook in enumerate(self.playbooks, start=1) if playbook.name in names]
        return replace(self, playbooks=self.playbooks[: max(places, default=0)])


def _scene(*lines: str) -> str:
    return "; ".join((*_CONTROL, *lines))


def _clone(name: str) -> str:
    return f"overlay {name} golden /srv/vm/{name}.qcow2"


_BARE = (Chapter((Playbook("hypervisor"),)),)
_HYPERVISOR = (
    Chapter((Playbook("convert_live"),), _scene(_WEB, _DB), running=("web", "db")),
    Chapter((Playbook("convert_offline"),), _scene(_ARCHIVE, _MAIL)),
    Chapter((Playbook("resize"),), _scene(_ARCHIVE, _WEB), running=("web",)),
    Chapter((Playbook("snapshot_take"), Playbook("snapshot_merge")), _scene(_DB, _MAIL), running=("db",)),
    Chapter(
        (Playbook("snapshot_revert", since=(9, 10)),),
        _scene(_DB, _MAIL),
        prepared_by=(Playbook("snapshot_take"),),
    ),
    Chapter((Playbook("flatten"),), _scene(_clone("clone-1"), _clone("clone-2")), running=("clone-2",)),
    Chapter((Playbook("clones"),), _scene()),
    Chapter((Playbook("report", can_be_cut=False),), _scene(_ARCHIVE, _WEB), running=("web",)),
    Chapter((Playbook("attach"), Playbook("detach")), _scene(_ARCHIVE, _WEB), running=("web",)),
    Chapter((Playbook("reclaim"),), _scene(_ARCHIVE, f"fallocate -o 16M -l 20M {_IMAGES}/archive.raw")),
    Chapter((Playbook("backup"),), _scene(_ARCHIVE, _DB), running=("db",), private=("/srv/backup",)),
)


def chapters_for(kind: Kind, names: Sequence[str] = ()) -> list[Chapter]:
    """The chapters of a host that hold playbooks of these names, each as far as the last of them; all without names."""
    chapters = _HYPERVISOR if kind.is_hypervisor else _BARE
    return list(chapters) if not names else [part for chapter in chapters if (part := chapter.part(names)).playbooks]


def all_names() -> list[str]:
    """The names of all playbooks."""
    return sorted({playbook.name for chapter in (*_BARE, *_HYPERVISOR) for playbook in chapter.playbooks})
