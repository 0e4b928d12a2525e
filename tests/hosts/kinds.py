# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of hosts: what each is made of, and what it is there for."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

_BASE = (
    *("acl", "apparmor", "attr", "busybox-static", "ca-certificates", "dbus", "e2fsprogs", "initramfs-tools"),
    *("iproute2", "kmod", "libpam-systemd", "linux-image-cloud-amd64", "openssh-server", "procps", "python3"),
    *("python3-apt", "sudo", "systemd-sysv", "udev", "zstd"),
)
_SELINUX = (
    *("policycoreutils", "policycoreutils-python-utils", "python3-selinux", "selinux-basics"),
    "selinux-policy-default",
)
_ROLE = Path(__file__).resolve().parents[2] / "roles" / "hypervisor" / "vars" / "Debian.yml"
# The name that the role's list makes of the host's architecture.
_EMULATOR = "qemu-system-x86"


def role_packages() -> tuple[str, ...]:
    """What the role ``hypervisor`` installs on a Debian of this architecture."""
    listed = yaml.safe_load(_ROLE.read_text(encoding="utf-8"))["__hypervisor_packages"]
    return tuple(_EMULATOR if "ansible_facts" in name else name for name in listed)


class Guard(enum.Enum):
    """What confines the guests' QEMU."""

    APPARMOR = "AppArmor"
    SELINUX = "SELinux"


@dataclass(frozen=True)
class Kind:
    """A kind of host. `offered` are packages that are in its own archive and not installed."""

    name: str
    suite: str
    guard: Guard
    packages: tuple[str, ...]
    offered: tuple[str, ...] = ()
    kernel_arguments: tuple[str, ...] = ()

    @property
    def is_hypervisor(self) -> bool:
        """Whether libvirt is there before the first playbook."""
        return not self.offered


def all_kinds() -> dict[str, Kind]:
    """By name, in the order in which they are run."""
    role = role_packages()
    hypervisor = (*_BASE, *role, "dnsmasq-base", "qemu-block-extra")
    kinds = (
        Kind("apparmor", "bookworm", Guard.APPARMOR, hypervisor),
        Kind("bare", "bookworm", Guard.APPARMOR, _BASE, offered=role),
        Kind(
            name="selinux",
            suite="bookworm",
            guard=Guard.SELINUX,
            packages=(*hypervisor, *_SELINUX),
            kernel_arguments=("security=selinux", "selinux=1", "enforcing=1"),
        ),
        Kind("trixie", "trixie", Guard.APPARMOR, hypervisor),
    )
    return {kind.name: kind for kind in kinds}


def chosen(names: Sequence[str]) -> list[Kind]:
    """The kinds of these names, all of them without names; KeyError names one that does not exist."""
    kinds = all_kinds()
    return [kinds[name] for name in names or kinds]
