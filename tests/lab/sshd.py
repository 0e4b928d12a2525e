# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An SSH server inside of a hypervisor's namespaces, which then is a host that Ansible reaches by ssh.

It listens nowhere: each connection has a server of its own, which speaks through the pipe that ssh calls a
ProxyCommand (`python -m lab serve-ssh NAME`). So there is no network, and nothing that anybody else could reach.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.debs import unpacked
from lab.hypervisor import Hypervisor

#: The account of the part of sshd that meets strangers; its name is fixed.
SEPARATED = "sshd"
SEPARATED_UID = 64322
INSTALLED = Path("/usr/sbin/sshd")
_CONFIG = """\
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/user_key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
Subsystem sftp internal-sftp
"""
_FURNISH = """\
mkdir -p -m 755 /run/sshd
mount --bind {directory}/passwd /etc/passwd
mount --bind {directory}/shadow /etc/shadow
"""


def open_door(hv: Hypervisor) -> None:
    """Makes keys and accounts for the hypervisor: root of its namespaces comes in by ``ssh/user_key``, nobody else."""
    directory = _directory(hv)
    home = directory / "home"
    home.mkdir(parents=True, mode=0o700)
    host_key = make_keys(directory)
    root = f"root:x:0:0::{home}:/bin/sh\n"
    files = {
        "sshd_config": _CONFIG.format(directory=directory),
        "serve": f"exec {command()} -i -f {directory}/sshd_config -E {directory}/log\n",
        "known_hosts": f"{hv.name} {host_key}",
        "passwd": root + without_account("root", accounts()),
        "shadow": "root:*:19000:0:99999:7:::\n" + without_account("root", Path("/etc/shadow").read_text("utf-8")),
    }
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "shadow").chmod(0o600)
    hv.exec(["sh", "-ec", _FURNISH.format(directory=directory)], check=True)


def serve(hv: Hypervisor) -> int:
    """Serves one connection, on standard input and output, until that ends."""
    return hv.exec(["sh", _directory(hv) / "serve"], stdin=None, capture_output=False).returncode


def make_keys(directory: Path) -> str:
    """Makes host_key and user_key in DIRECTORY; returns the public part of the first."""
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True)
    return (directory / "host_key.pub").read_text(encoding="ascii")


def accounts() -> str:
    """The host's passwd, with sshd's own account."""
    separated = f"{SEPARATED}:x:{SEPARATED_UID}:{SEPARATED_UID}::/run/sshd:/bin/false\n"
    return without_account(SEPARATED, Path("/etc/passwd").read_text(encoding="utf-8")) + separated


def without_account(account: str, passwd: str) -> str:
    return "".join(line for line in passwd.splitlines(keepends=True) if not line.startswith(f"{account}:"))


def command() -> str:
    """The command of sshd: of an unpacked package where none is installed, since installing it would open the host."""
    if INSTALLED.exists():
        return str(INSTALLED)
    packages = [unpacked(name) for name in ("libwrap0", "libnsl2", "libtirpc3")]
    libraries = {str(path.parent) for tree in packages for path in tree.rglob("lib*.so.*")}
    return f"env LD_LIBRARY_PATH={':'.join(sorted(libraries))} {unpacked('openssh-server')}/usr/sbin/sshd"


def _directory(hv: Hypervisor) -> Path:
    return hv.directory / "ssh"
