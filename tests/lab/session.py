# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirtd of a user without rights: `qemu:///session` as a desktop or a CI job has it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.hypervisor import Hypervisor
from lab.namespaces import ENVIRONMENT, Mount

# A uid that no package of Debian takes; it gets its passwd entry inside of the namespaces only.
USER = "lab-user"
UID = 65533


class SessionHypervisor(Hypervisor):
    """A hypervisor whose libvirtd and QEMU run as UID 65533; started by root, who makes the namespaces."""

    driver = "session"
    uid = UID

    @property
    def environment(self) -> dict[str, str]:
        """The user's environment, for programs outside of the namespaces as well."""
        return {
            **ENVIRONMENT,
            "HOME": str(self.directory / "home"),
            "USER": USER,
            "LOGNAME": USER,
            "XDG_RUNTIME_DIR": str(self.directory / "user-run"),
            "XDG_CONFIG_HOME": str(self.directory / "home/config"),
            "XDG_CACHE_HOME": str(self.directory / "home/cache"),
            "XDG_DATA_HOME": str(self.directory / "home/data"),
        }

    @property
    def socket(self) -> Path:
        return self.directory / "user-run/libvirt/libvirt-sock"

    def run(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs ARGV as the user, inside of the namespaces; OPTIONS are those of subprocess.run."""
        return self.exec(self._as_user(argv), env=self.environment, **options)

    @property
    def _pid_file(self) -> Path:
        return self.directory / "user-run/libvirt/libvirtd.pid"

    @property
    def _guest_pids(self) -> Path:
        return self.directory / "user-run/libvirt/qemu/run"

    @property
    def _log_file(self) -> Path:
        return self.directory / "home/libvirtd.log"

    @property
    def _capabilities(self) -> Path:
        return self.directory / "home/cache/libvirt/qemu/capabilities"

    @property
    def _libvirtd_environment(self) -> dict[str, str]:
        return self.environment

    def _libvirtd(self) -> list[str]:
        return self._as_user(["libvirtd", "--daemon", "--pid-file", self._pid_file])

    def _as_user(self, argv: Sequence[str | Path]) -> list[str]:
        return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs", *map(str, argv)]

    def _make_directories(self) -> None:
        super()._make_directories()
        for name in ("user-run/libvirt", "home/config/libvirt/qemu", "home/cache", "home/data"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        for name in ("user-run", "home"):
            (self.directory / name).chmod(0o700)
        entries = {"passwd": f"{USER}:x:{UID}:{UID}:lab:{self.directory}/home:/bin/sh", "group": f"{USER}:x:{UID}:"}
        for name, entry in entries.items():
            known = Path(f"{self.root or ''}/etc/{name}").read_text(encoding="utf-8")
            (self.directory / name).write_text(f"{known}{entry}\n", encoding="utf-8")

    def _configure(self) -> None:
        configuration = self.directory / "home/config/libvirt"
        self._write_libvirtd_conf(configuration / "libvirtd.conf")
        (configuration / "qemu.conf").write_text('security_driver = "none"\nstdio_handler = "file"\n', encoding="utf-8")
        for top in ("user-run", "home", "images", "serial"):
            for directory, _folders, files in os.walk(self.directory / top):
                for path in (directory, *(os.path.join(directory, name) for name in files)):
                    os.chown(path, UID, UID)

    def _mounts(self) -> list[Mount]:
        users = [Mount.bind(self.directory / name, f"{self.root or ''}/etc/{name}") for name in ("passwd", "group")]
        return [*super()._mounts(), *users]
