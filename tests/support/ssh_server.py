# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An SSH server on the loopback interface, with a user who may become root by sudo, and whom only this server knows.

It lives in namespaces of its own: its accounts and its /run are not the host's, and nothing in it outlives it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from lab import sshd
from support.processes import children_of
from support.waits import wait_for

USER = "operator"
_UID = 64321
_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {directory}/host_key
PidFile {directory}/sshd.pid
AuthorizedKeysFile {directory}/user_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""
_PREPARE = """\
mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd
mount --bind {directory}/passwd /etc/passwd
mount --bind {directory}/shadow /etc/shadow
mount --bind {directory}/sudoers /etc/sudoers
{more}
exec {sshd} -D -E {directory}/log -f {directory}/sshd_config
"""


class SshServer:
    """The server, for the length of a `with` block; MORE are shell commands for its namespaces."""

    def __init__(self, directory: Path, more: str = "true") -> None:
        self.directory = directory
        self.home = directory / "home"
        self._more = more
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    def __enter__(self) -> SshServer:
        self._write_files()
        script = self.directory / "start"
        lines = _PREPARE.format(directory=self.directory, more=self._more, sshd=sshd.command())
        script.write_text(f"set -e\n{lines}", encoding="utf-8")
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen([*namespaces, "sh", script], stdin=subprocess.DEVNULL)
        self._wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def inventory(self, *names: str) -> str:
        """Hosts of these names, all of them this server."""
        options = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": USER,
            "ansible_ssh_private_key_file": self.directory / "user_key",
            "ansible_ssh_common_args": f"'-F none -o UserKnownHostsFile={self.directory}/known_hosts'",
        }
        text = " ".join(f"{key}={value}" for key, value in options.items())
        return "".join(f"{name} {text}\n" for name in names)

    def drop_connections(self) -> None:
        """Ends what serves the connections of now; new ones are answered."""
        (listener,) = children_of(self._process.pid)
        for child in children_of(listener):  # those whose parents died are among them: it is the first process there is
            if Path(f"/proc/{child}/comm").read_text(encoding="ascii").startswith("sshd"):
                os.kill(child, signal.SIGKILL)

    def _write_files(self) -> None:
        self.home.mkdir()
        os.chown(self.home, _UID, _UID)
        host_key = sshd.make_keys(self.directory)
        files = {
            "sshd_config": _CONFIG.format(port=self.port, directory=self.directory),
            "known_hosts": f"[127.0.0.1]:{self.port} {host_key}",
            "passwd": sshd.accounts() + f"{USER}:x:{_UID}:{_UID}::{self.home}:/bin/sh\n",
            "shadow": Path("/etc/shadow").read_text(encoding="utf-8") + f"{USER}:*:19000:0:99999:7:::\n",
            "sudoers": f"root ALL=(ALL:ALL) ALL\n{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n",
        }
        for name, text in files.items():
            (self.directory / name).write_text(text, encoding="utf-8")
        (self.directory / "shadow").chmod(0o600)
        (self.directory / "sudoers").chmod(0o440)

    def _wait(self) -> None:
        wait_for(lambda: self._process.poll() is not None or self._answers(), "sshd's answer")
        log = self.directory / "log"
        assert self._process.poll() is None, log.read_text(encoding="utf-8") if log.exists() else "no log"

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True
