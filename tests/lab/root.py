# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another Debian release, with its own QEMU, libvirt and Python, in a directory of the cache."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.cache import cache_key, cached
from lab.enter_root import UNSHARE, enter_root
from lab.namespaces import ENVIRONMENT, LabError, Mount

PACKAGES = (
    *("qemu-utils", "qemu-system-x86", "libvirt-daemon-system", "libvirt-clients"),
    *("python3-libvirt", "python3-lxml", "python3-venv", "iproute2", "e2fsprogs", "acl", "attr", "ca-certificates"),
    *("btrfs-progs", "git", "openssh-client", "openssh-server", "ovmf", "sudo", "xfsprogs"),
)
# A release that debootstrap is too old to know is made like unstable.
DEBOOTSTRAP_SCRIPTS = Path("/usr/share/debootstrap/scripts")


class ReleaseRoot:
    """The root of release SUITE ("trixie"); it is built, in a minute or two, when `path` is first asked for."""

    def __init__(self, suite: str) -> None:
        self.suite = suite

    @property
    def path(self) -> Path:
        """Where the root is: for `Hypervisor(root=…)`."""
        key = f"{self.suite}-{cache_key(*PACKAGES, Path(__file__))}"
        return cached("roots", key, self._build)

    def command(self, argv: Sequence[str | Path], mounts: Sequence[Mount] = ()) -> list[str]:
        """lab.enter_root for this root."""
        return enter_root(self.path, argv, mounts)

    def _build(self, directory: Path) -> None:
        script = DEBOOTSTRAP_SCRIPTS / self.suite
        make = ["debootstrap", "--variant=minbase", self.suite, directory, host_mirror()]
        if not script.exists():
            make.append(DEBOOTSTRAP_SCRIPTS / "sid")
        _run([*UNSHARE, *map(str, make)])
        # No service starts in a root that is only a directory.
        policy = directory / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        policy.chmod(0o755)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
        _run(enter_root(directory, ["env", "DEBIAN_FRONTEND=noninteractive", *install]))
        _run(enter_root(directory, ["apt-get", "clean"]))


def host_mirror() -> str:
    """The mirror of the Debian archive that this host's apt uses."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for line in listed.stdout.splitlines():
        uri, _space, release = line.partition(" ")
        if release == codename:
            return uri
    raise LabError(f"apt's sources have no release {codename}: nothing to take another release from")


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise LabError(f"{shlex.join(command[-4:])} ended with {done.returncode}:\n{tail}")
