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
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "ahci",
    "ata_piix",
    "button",
    "evdev",
    "virtio_console",
    "virtio_net",
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
    archive.file("bin/busybox", _program(busybox, "busybox").read_bytes())
    archive.link("bin/sh", "busybox")
    for script in SCRIPTS.iterdir():
        archive.file("init" if script.name == "init" else f"bin/{script.name}", script.read_bytes())
    archive.link("etc/acpi/PWRF/00000080", "/bin/power-off")
    if agent:
        _add_agent(archive, _program(agent, "qemu-ga"))
    load_order = _add_modules(archive, kernel)
    archive.file("modules/order", "\n".join([*load_order, ""]).encode(), 0o644)
    archive.write(directory / "initrd.gz")
    shutil.copyfile(next(path for tree in kernel for path in tree.rglob("vmlinuz*")), directory / "vmlinuz")


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


def _add_modules(archive: Initramfs, kernel: list[Path]) -> list[str]:
    """Adds the modules that the kernel has of MODULES, with what they need; returns them in loading order."""
    # Debian moved modules from /lib to /usr/lib, and compresses them since trixie.
    paths = [path for tree in kernel for path in tree.rglob("*.ko*")]
    found = {path.name.partition(".ko")[0].replace("-", "_"): path for path in paths}
    load_order: list[str] = []

    def add(name: str) -> None:
        if name in load_order or name not in found:  # not found: built into the kernel, or not configured at all
            return
        content = _module_content(found[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in depends.group(1).decode().split(",") if depends else []:
            add(other.replace("-", "_"))
        archive.file(f"modules/{name}.ko", content, 0o644)
        load_order.append(name)

    for wanted in MODULES:
        add(wanted)
    return load_order


def _module_content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content
