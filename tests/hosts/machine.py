# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An emulated machine that is a host: it boots, is reached by ssh on the loopback interface, and can lose its power.

Its image stays as it was built. What it writes is in an overlay, which goes with the machine. It reaches no network.
"""

from __future__ import annotations

import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from lab.namespaces import LabError
from support.processes import is_gone

from hosts.image import HostImage
from hosts.kinds import Kind
from hosts.recipe import USER

_MEMORY_MIB = 3072
# Emulated by TCG on a loaded machine, a host boots for a minute. A deadline only ends a hang.
_BOOT_SECONDS = 1200
# An emulated machine reads the counter of the processor at once, and any other clock by leaving the emulated code. What
# guards against speculation costs time, and guards nothing here.
_QUICK = ("tsc=reliable", "clocksource=tsc", "mitigations=off")
_SSH_CONFIG = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known_hosts}
  HostKeyAlias {name}
  ConnectTimeout 60
  ServerAliveInterval 60
  ServerAliveCountMax 10
  LogLevel ERROR
"""


class Machine:
    """A host of this kind, for the length of a `with` block; it runs in it, until it loses its power."""

    def __init__(self, kind: Kind, image: HostImage, directory: Path) -> None:
        """DIRECTORY takes what belongs to this machine alone."""
        self.name = kind.name
        self._kind = kind
        self._image = image
        self._directory = directory
        self._overlay = directory / "disk.qcow2"
        self._key = directory / "user_key"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        self._write_files()
        try:
            self.boot()
        except BaseException:
            self.cut()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.cut()
        self._overlay.unlink()

    @property
    def ssh_config(self) -> Path:
        return self._directory / "ssh_config"

    @property
    def console(self) -> Path:
        """What the machine says while it boots."""
        return self._directory / "console"

    def boot(self) -> None:
        """Starts it, and waits until all that a boot starts has been started."""
        self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _BOOT_SECONDS
        while not self._answers():
            if is_gone(self._process.pid) or time.monotonic() > deadline:
                tail = self.console.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise LabError(f"{self.name} does not boot:\n{tail}")
            time.sleep(1)
        # `degraded` is an answer, too.
        self.run("systemctl is-system-running --wait || true")

    def cut(self) -> None:
        """Takes its power: what it had not written to its disk is lost."""
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def run(self, script: str, *arguments: str, interpreter: str = "bash -eu -s") -> str:
        """What SCRIPT prints, which INTERPRETER runs as root; LabError where it fails."""
        command: list[str | Path] = [
            "ssh",
            "-F",
            self.ssh_config,
            self.name,
            shlex.join(["sudo", *interpreter.split(), *arguments]),
        ]
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise LabError(f"{self.name}: a script ended with {done.returncode}:\n{tail}")
        return done.stdout

    def _answers(self) -> bool:
        quickly = ["-o", "ConnectTimeout=10", "-o", "BatchMode=yes"]
        asked = subprocess.run(
            ["ssh", "-F", self.ssh_config, *quickly, self.name, "true"], capture_output=True, check=False
        )
        return asked.returncode == 0

    def _write_files(self) -> None:
        shutil.copyfile(self._image.user_key, self._key)
        self._key.chmod(0o600)
        known_hosts = self._directory / "known_hosts"
        known_hosts.write_text(f"{self.name} {self._image.host_key}\n", encoding="ascii")
        config = _SSH_CONFIG.format(name=self.name, port=self._port, user=USER, key=self._key, known_hosts=known_hosts)
        self.ssh_config.write_text(config, encoding="utf-8")
        over = ["-F", "raw", "-b", str(self._image.disk)]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *over, self._overlay], check=True)

    def _command(self) -> list[str]:
        arguments = ["root=/dev/vda", "rw", "console=ttyS0", *_QUICK]
        return [
            # It does not outlive this process, however that ends.
            *("setpriv", "--pdeathsig", "KILL"),
            *("qemu-system-x86_64", "-name", self.name, "-no-user-config", "-nodefaults"),
            *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2"),
            *("-m", str(_MEMORY_MIB), "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)),
            *("-append", " ".join([*arguments, *self._kind.kernel_arguments])),
            *("-drive", f"file={self._overlay},if=virtio,format=qcow2,cache=writeback,discard=unmap"),
            *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
            *("-display", "none", "-serial", f"file:{self.console}", "-no-reboot"),
        ]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
