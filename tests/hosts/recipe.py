# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is made of besides its packages, and where these come from."""

from __future__ import annotations

from dataclasses import dataclass

from hosts.kinds import Kind

#: The user who comes in by ssh, and becomes root by sudo.
USER = "ops"
USER_ID = 1000
#: Where the host's own archive is, if it has one.
ARCHIVE = "/srv/packages"
# The host has one network, that of QEMU, whose addresses never change.
_NETWORK = "[Match]\nName=en* eth*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n"
_SSHD = "UseDNS no\nPasswordAuthentication no\n"
# Denials are counted, so none of them is to be left out of the journal. What is written stays in memory until somebody
# asks for it to be on the disk: that is what a power cut takes away.
_SYSCTL = "kernel.printk_ratelimit=0\nvm.dirty_writeback_centisecs=0\nvm.dirty_background_ratio=80\nvm.dirty_ratio=90\n"


@dataclass(frozen=True)
class Laid:
    """A file that belongs to the host and to no package."""

    path: str
    text: str
    mode: int = 0o644
    owner: int = 0


def apt_sources(targets: str, own: str, suite: str) -> list[str]:
    """The lines of sources.list for release SUITE, from those of this machine, which has release OWN.

    TARGETS has a line for each package list of this machine: URI, release, component. LookupError where there is none
    of its release.
    """
    lines = set()
    for line in targets.splitlines():
        uri, release, component = line.split()
        if component == "main" and release.split("-")[0] == own:
            lines.add(f"deb {uri} {release.replace(own, suite, 1)} main")
    if not lines:
        raise LookupError(f"apt's sources have no release {own}: there is nothing to make a host of")
    return sorted(lines)


def laid_files(kind: Kind, user_key: str, host_key: str, host_key_public: str) -> list[Laid]:
    """What makes a host of a tree of packages."""
    files = [
        Laid("etc/hostname", f"{kind.name}\n"),
        Laid("etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {kind.name}\n"),
        Laid("etc/fstab", "/dev/vda / ext4 defaults,noatime 0 1\n"),
        Laid("etc/systemd/network/20-user.network", _NETWORK),
        Laid("etc/sysctl.d/90-hosts.conf", _SYSCTL),
        Laid("etc/ssh/sshd_config.d/hosts.conf", _SSHD),
        Laid("etc/ssh/ssh_host_ed25519_key", host_key, 0o600),
        Laid("etc/ssh/ssh_host_ed25519_key.pub", host_key_public),
        Laid(f"etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n", 0o440),
        Laid("root/.ssh/authorized_keys", user_key, 0o600),
        Laid(f"home/{USER}/.ssh/authorized_keys", user_key, 0o600, USER_ID),
    ]
    if kind.offered:
        files.append(Laid("etc/apt/sources.list", f"deb [trusted=yes] file:{ARCHIVE} ./\n"))
    return files
