# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A private root libvirtd in its own namespaces; the host's libvirt is not touched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import libvirt

from lab import capabilities
from lab.domain import Disk, domain_xml
from lab.guest import Guest
from lab.guest_image import GuestImage, guest_image
from lab.namespaces import ENVIRONMENT, LabError, Mount, Namespaces, Plan
from lab.processes import is_alive, wait_gone
from lab.saved_guest import saved_state, write_save_file

# sockaddr_un.sun_path is 108 bytes with its terminator; libvirtd's own sockets are the longest names after a base.
SOCKET_PATH_MAX = 107
STATE = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)

libvirt.registerErrorHandler(lambda _context, _error: None, None)


class Hypervisor:
    """`with Hypervisor(base, name) as hv:` gives a running libvirtd with everything it needs under base/name.

    BASE must be short (the limit of Unix sockets) and traversable for every user, /tmp for example.
    Without DETACH the hypervisor and its guests end with this process, even if this process is killed.
    ROOT is the root of another release (lab.root.ReleaseRoot), whose libvirtd and QEMU are used then.
    """

    driver = "system"

    def __init__(
        self, base: Path, name: str, dynamic_ownership: bool = True, *, root: Path | None = None, detach: bool = False
    ) -> None:
        self.name = name
        self.directory = Path(base).resolve() / name
        self.dynamic_ownership = dynamic_ownership
        self.root = root
        self.detach = detach
        self.images = self.directory / "images"
        self._namespaces = Namespaces(self.directory, root)
        longest = max((self.socket, self.serial("x" * 24)), key=lambda path: len(str(path)))
        if len(str(longest)) > SOCKET_PATH_MAX:
            raise LabError(f"{longest}: a Unix socket has at most {SOCKET_PATH_MAX} characters: choose a shorter base")

    @staticmethod
    def running(base: Path, name: str) -> Hypervisor | None:
        """The hypervisor that another process left running with `detach`; None when there is none."""
        try:
            state = json.loads((Path(base).resolve() / name / "lab.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        root = Path(state["root"]) if state["root"] else None
        kinds: list[type[Hypervisor]] = [Hypervisor, *Hypervisor.__subclasses__()]
        kind = next(kind for kind in kinds if kind.driver == state["driver"])
        found = kind(base, name, state["dynamic_ownership"], root=root, detach=True)
        return found if found._namespaces.holder_pid else None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_error: object) -> None:
        self.down()

    # The hypervisor's life

    def up(self) -> None:
        """Makes the namespaces and starts libvirtd."""
        if self._namespaces.holder_pid:
            raise LabError(f"{self.directory}: this hypervisor is up already")
        if self.directory.exists() and not (self.directory / "lab.json").exists():
            raise LabError(f"{self.directory}: is there and was not made by the lab")
        self._namespaces.stop()
        with contextlib.ExitStack() as half_up:
            half_up.callback(self._namespaces.stop)
            self._make_directories()
            self._configure()
            self._namespaces.start(self._plan())
            self.start_libvirtd()
            half_up.pop_all()

    def down(self) -> None:
        """Ends libvirtd and all guests and removes the state, images included."""
        with contextlib.suppress(OSError):
            capabilities.keep(self._capabilities, self._kind)
        self._namespaces.stop()

    def start_libvirtd(self) -> None:
        """Starts libvirtd and waits until it answers and knows which guests still run."""
        status, complaint = self._namespaces.start_daemon()
        deadline = time.monotonic() + 60
        while status == 0 and time.monotonic() < deadline:
            try:
                with contextlib.closing(self.connect()) as connection:
                    _wait_reconnected(connection, deadline)
                return
            except libvirt.libvirtError as error:
                complaint = str(error)
                time.sleep(0.02)
        tail = "\n".join(self.log().splitlines()[-20:])
        raise LabError(f"{self.name}: libvirtd did not come up: {complaint}\n{tail}")

    def stop_libvirtd(self) -> None:
        """Ends libvirtd in order, or after 3 seconds by force; guests run on."""
        pid = self.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not wait_gone([pid], 3):
            self.kill_libvirtd()

    def kill_libvirtd(self) -> None:
        """Kills libvirtd (SIGKILL); guests run on."""
        pid = self.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_gone([pid], 10)

    def restart(self) -> None:
        """Restarts libvirtd; guests run on."""
        self.stop_libvirtd()
        self.start_libvirtd()

    # What it is

    @property
    def pid(self) -> int:
        """libvirtd's process id."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            pid = 0
        if not pid or not is_alive(pid):
            raise LabError(f"{self.name}: libvirtd does not run")
        return pid

    @property
    def socket(self) -> Path:
        """libvirtd's socket, for clients outside of the namespaces."""
        return self.directory / "run/libvirt-sock"

    @property
    def uri(self) -> str:
        """The connection URI, for clients inside and outside of the namespaces."""
        return f"qemu+unix:///{self.driver}?socket={self.socket}"

    def connect(self) -> libvirt.virConnect:
        """A new connection, which the caller closes."""
        return libvirt.open(self.uri)

    def log(self) -> str:
        """The text of libvirtd's log (warnings and errors)."""
        try:
            return self._log_file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def exec(self, argv: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs ARGV inside of the namespaces; OPTIONS are those of subprocess.run, output is captured as text."""
        usual: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "env": ENVIRONMENT}
        check = options.pop("check", False)
        return subprocess.run(self._namespaces.command(argv), check=check, **{**usual, **options})

    # Domains and pools

    def serial(self, domain: str) -> Path:
        """The socket of DOMAIN's serial console."""
        return self.directory / "serial" / f"{domain}.sock"

    def kernel(self, agent: bool = False) -> GuestImage:
        """The lab guest's kernel and initramfs, where this hypervisor's QEMU can read them."""
        directory = self.directory / ("boot-agent" if agent else "boot")
        if not directory.exists():
            staged = directory.with_suffix(".new")
            guest_image(agent).copied_to(staged)
            staged.rename(directory)
        return GuestImage(directory / "vmlinuz", directory / "initrd.gz")

    def domain_xml(
        self, name: str, disks: Sequence[Disk] = (), *, kernel: bool = True, agent: bool = False, **options: Any
    ) -> str:
        """lab.domain.domain_xml with this hypervisor's console socket and, with KERNEL, the lab's guest."""
        image = self.kernel(agent) if kernel else None
        return domain_xml(name, list(disks), self.serial(name), image, agent=agent, **options)

    def define(self, xml: str) -> str:
        """Defines a domain; returns its name."""
        with contextlib.closing(self.connect()) as connection:
            return str(connection.defineXML(xml).name())

    def start(self, name: str) -> Guest:
        """Starts domain NAME."""
        with contextlib.closing(self.connect()) as connection:
            connection.lookupByName(name).create()
        return Guest(self, name)

    def boot(self, xml: str, timeout: float = 120) -> Guest:
        """Defines and starts a domain, and waits until its guest answers."""
        guest = self.start(self.define(xml))
        guest.wait_ready(timeout)
        return guest

    def wake(self, name: str) -> Guest:
        """Has domain NAME run, with a guest that answers and was restored (lab.saved_guest) where that is possible."""
        with contextlib.closing(self.connect()) as connection:
            domain = connection.lookupByName(name)
            definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            state = saved_state(self, definition)
            if state is None:
                guest = self.start(name)
                guest.wait_ready()
                return guest
            file = self.images / f"{name}.save"
            try:
                write_save_file(file, definition, state)
                connection.restore(str(file))
            finally:
                file.unlink(missing_ok=True)
        guest = Guest(self, name)
        guest.must("find-devices")
        return guest

    def remove(self, name: str) -> None:
        """Destroys and undefines domain NAME with snapshot metadata, saved state and NVRAM; a missing one is fine."""
        with contextlib.closing(self.connect()) as connection:
            try:
                domain = connection.lookupByName(name)
            except libvirt.libvirtError:
                return
            if domain.isActive():
                with contextlib.suppress(libvirt.libvirtError):  # it went off just now
                    domain.destroy()
            with contextlib.suppress(libvirt.libvirtError):  # it was transient
                domain.undefineFlags(UNDEFINE)

    def qemu_pid(self, name: str) -> int:
        """The process id of running domain NAME's QEMU."""
        return int((self._guest_pids / f"{name}.pid").read_text(encoding="ascii"))

    def pool(self, name: str, path: Path) -> None:
        """Defines and starts a directory pool."""
        with contextlib.closing(self.connect()) as connection:
            xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
            connection.storagePoolDefineXML(xml).create()

    # How it is made; a session differs here

    def _plan(self) -> Plan:
        return Plan(
            directory=str(self.directory),
            hostname=self.name,
            mounts=tuple(self._mounts()),
            daemon=tuple(self._namespaces.in_root(self._libvirtd())),
            environment=self._libvirtd_environment,
            attached=not self.detach,
        )

    @property
    def _pid_file(self) -> Path:
        return self.directory / "run/libvirtd.pid"

    @property
    def _guest_pids(self) -> Path:
        return self.directory / "run/qemu"

    @property
    def _log_file(self) -> Path:
        return self.directory / "log/libvirtd.log"

    @property
    def _libvirtd_environment(self) -> dict[str, str]:
        return ENVIRONMENT

    @property
    def _capabilities(self) -> Path:
        return self.directory / "cache/qemu/capabilities"

    @property
    def _kind(self) -> str:
        return f"{self.driver}-{self.root.name if self.root else 'host'}"

    def _libvirtd(self) -> list[str]:
        return ["libvirtd", "--daemon", "--pid-file", "/run/libvirt/libvirtd.pid"]

    def _make_directories(self) -> None:
        self.directory.mkdir(parents=True, mode=0o711)
        self.directory.chmod(0o711)
        root = str(self.root) if self.root else None
        state = {"driver": self.driver, "dynamic_ownership": self.dynamic_ownership, "root": root}
        (self.directory / "lab.json").write_text(json.dumps(state), encoding="utf-8")
        for name in (*STATE, "lib/images", "log/qemu", "etc/qemu/networks"):
            (self.directory / name).mkdir(parents=True, mode=0o755)
        self.images.mkdir()
        self.images.chmod(0o711)
        # QEMU opens the console's log itself, as its own user.
        (self.directory / "serial").mkdir()
        (self.directory / "serial").chmod(0o1777)
        (self.directory / "no-kvm").touch(mode=0o000)
        capabilities.hand_out(self._capabilities, self._kind)

    def _configure(self) -> None:
        qemu = (
            'security_driver = "none"',
            "cgroup_controllers = []",
            "namespaces = []",
            'stdio_handler = "file"',
            f"dynamic_ownership = {int(self.dynamic_ownership)}",
        )
        (self.directory / "etc/qemu.conf").write_text("\n".join([*qemu, ""]), encoding="utf-8")
        self._write_libvirtd_conf(self.directory / "etc/libvirtd.conf")

    def _write_libvirtd_conf(self, path: Path) -> None:
        # In the namespaces, /var/log/libvirt is this hypervisor's own.
        log = self._log_file if self.driver == "session" else "/var/log/libvirt/libvirtd.log"
        settings = (
            'auth_unix_rw = "none"',
            f'host_uuid = "{uuid.uuid4()}"',
            f'log_outputs = "3:file:{log}"',
            # A new network namespace may hold devices that do not answer to ethtool.
            'log_filters = "4:util.netdev"',
        )
        path.write_text("\n".join([*settings, ""]), encoding="utf-8")

    def _mounts(self) -> list[Mount]:
        root = str(self.root) if self.root else ""
        mounts = [Mount.marked_tmpfs(self.directory, f"{root}/run")]
        if root:
            mounts += [
                Mount(("-t", "proc", "proc"), f"{root}/proc"),
                Mount(("-t", "sysfs", "sysfs"), f"{root}/sys"),
                Mount(("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts"), f"{root}/dev/pts"),
                Mount(("-t", "tmpfs", "-o", "mode=1777", "tmpfs"), f"{root}/dev/shm"),
                Mount(("-t", "tmpfs", "-o", "mode=1777", "tmpfs"), f"{root}/tmp"),
                Mount.bind(self.directory, f"{root}{self.directory}", make_target=True),
            ]
        elif os.path.exists("/dev/kvm"):
            # A /dev/kvm for root only makes libvirtd probe QEMU anew at every define, half a minute each.
            mounts.append(Mount.bind(self.directory / "no-kvm", "/dev/kvm"))
        # /run is a new tmpfs; the other places come with libvirt's packages.
        for name, place in STATE.items():
            mounts.append(Mount.bind(self.directory / name, f"{root}{place}", make_target=name == "run"))
        return mounts


def _wait_reconnected(connection: libvirt.virConnect, deadline: float) -> None:
    """Waits until libvirtd, which has just started, has asked the QEMU of each domain whether it still runs.

    Until then a domain whose QEMU has died is said to run. libvirtd holds the domain's job meanwhile, which
    virDomainGetControlInfo tells without waiting for it (qemuProcessReconnect in src/qemu/qemu_process.c); a QEMU that
    ends while it is asked is an error there until libvirtd has seen to it.
    """
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        with contextlib.suppress(libvirt.libvirtError):  # it is off meanwhile
            while domain.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OK and time.monotonic() < deadline:
                time.sleep(0.01)
