# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's guest: Debian's cloud kernel and a small initramfs around busybox."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import debs
from lab.cache import cache_key, cached
from lab.initramfs import Initramfs

# Without the checks that take seconds, or fail, on an emulated processor.
COMMAND_LINE = (
    "console=ttyS0 quiet no_timer_check lpj=4000000 mitigations=off nokaslr cryptomgr.notests audit=0 apparmor=0"
)
SCRIPTS = Path(__file__).parent / "guest"
DIRECTORIES = (
    *("bin", "sbin", "dev", "proc", "sys", "mnt", "data", "tmp", "modules", "var", "var/run"),
    *("etc", "etc/acpi", "etc/acpi/PWRF"),
)
# Drivers; the guest loads those of what its machine has.
MODULES = (
    "button",
    "evdev",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_scsi",
    "sd_mod",
    "ata_piix",
    "virtio_pci",
)


@dataclass(frozen=True)
class GuestImage:
    """A kernel and its initramfs, to be started directly or from a boot disk."""

    kernel: Path
    initrd: Path

    def copied_to(self, directory: Path) -> GuestImage:
        """A copy that QEMU's user may read: libvirt changes the owner of what it starts."""
        directory.mkdir(exist_ok=True)
        return GuestImage(*(Path(shutil.copy(path, directory)) for path in (self.kernel, self.initrd)))


def guest_image(agent: bool = False) -> GuestImage:
    """The built guest from the cache; AGENT puts the real qemu-guest-agent into it."""
    kernel = _kernel_packages()
    others = ["busybox-static"] + (["qemu-guest-agent"] if agent else [])
    sources = [Path(__file__), Path(__file__).with_name("initramfs.py"), *sorted(SCRIPTS.iterdir())]
    key = cache_key(*(f"{name}={debs.version(name)}" for name in (*kernel, *others)), *sources)

    def build(directory: Path) -> None:
        _build(directory, [debs.unpacked(name) for name in kernel], *(debs.unpacked(name) for name in others))

    directory = cached("guests", key, build)
    return GuestImage(directory / "vmlinuz", directory / "initrd.gz")


def _kernel_packages() -> list[str]:
    """The packages of Debian's current cloud kernel: one, or since forky one for the kernel and one for its modules."""
    image = next(name for name in debs.dependencies("linux-image-cloud-amd64") if name.startswith("linux-image-"))
    parts = [name for name in debs.dependencies(image) if name.startswith(("linux-binary-", "linux-modules-"))]
    return parts or [image]


def _build(directory: Path, kernel: list[Path], busybox: Path, agent: Path | None = None) -> None:
    archive = Initramfs()
    for name in DIRECTORIES:
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    _add_busybox(archive, _program(busybox, "busybox"))
    for script in SCRIPTS.iterdir():
        archive.file("init" if script.name == "init" else f"bin/{script.name}", script.read_bytes())
    archive.link("etc/acpi/PWRF/00000080", "/bin/power-off")
    if agent:
        _add_agent(archive, _program(agent, "qemu-ga"))
    _add_modules(archive, kernel)
    archive.write(directory / "initrd.gz")
    shutil.copyfile(next(path for tree in kernel for path in tree.rglob("vmlinuz*")), directory / "vmlinuz")


def _add_busybox(archive: Initramfs, binary: Path) -> None:
    """busybox, and its commands as links to it."""
    archive.file("bin/busybox", binary.read_bytes())
    for command in subprocess.run([binary, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        if command != "busybox":
            archive.link(f"bin/{command}", "busybox")


def _program(tree: Path, name: str) -> Path:
    """The program NAME in an unpacked package."""
    return next(path for path in tree.rglob(name) if path.is_file() and path.stat().st_mode & 0o111)


def _add_agent(archive: Initramfs, binary: Path) -> None:
    """qemu-ga with its shared libraries, which are the host's; its shutdown command is the lab's power-off."""
    archive.file("bin/qemu-ga", binary.read_bytes())
    archive.link("sbin/shutdown", "/bin/power-off")
    archive.directory("lib")
    archive.directory("lib64")
    listed = subprocess.run(["ldd", binary], stdout=subprocess.PIPE, text=True, check=True).stdout
    if "not found" in listed:
        raise debs.PackageError(f"qemu-ga needs libraries that this host lacks:\n{listed}")
    for library in re.findall(r"(/\S+) \(", listed):
        folder = "lib64" if "ld-linux" in library else "lib"
        archive.file(f"{folder}/{Path(library).name}", Path(library).read_bytes())


def _add_modules(archive: Initramfs, kernel: list[Path]) -> None:
    """Adds the modules that the kernel has of MODULES, with what they need; NAME.order lists these in loading order."""
    # Debian moved modules from /lib to /usr/lib, and compresses them since trixie.
    paths = [path for tree in kernel for path in tree.rglob("*.ko*")]
    found = {path.name.partition(".ko")[0].replace("-", "_"): path for path in paths}
    needs: dict[str, list[str]] = {}

    def add(name: str) -> list[str]:
        """The loading order of module NAME."""
        if name not in found:  # built into the kernel, or not configured at all
            return []
        if name not in needs:
            content = _module_content(found[name])
            archive.file(f"modules/{name}.ko", content, 0o644)
            depends = re.search(rb"\0depends=([^\0]*)\0", content)
            others = depends.group(1).decode().split(",") if depends else []
            needs[name] = [*(module for other in others for module in add(other.replace("-", "_"))), name]
        return needs[name]

    for wanted in MODULES:
        archive.file(f"modules/{wanted}.order", "\n".join([*add(wanted), ""]).encode(), 0o644)


def _module_content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content
