# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host as a disk that an emulated machine boots: a Debian with systemd and an SSH server, made of packages.

mmdebstrap makes the tree, mke2fs the file system, and QEMU starts the kernel itself: no loop device, no partitions and
no boot loader. Only the tree needs root, because its files belong to many users.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from lab.cache import cache_key, cached
from lab.namespaces import LabError

from hosts.kinds import Guard, Kind
from hosts.recipe import ARCHIVE, USER, USER_ID, Laid, apt_sources, laid_files

_DISK_SIZE = "12G"
_HERE = Path(__file__).parent
# What an image depends on besides its packages.
_MAKERS = ("image.py", "recipe.py", "selinux.sh")
# Nothing works in the background of a test, and a boot does not wait for what no test needs.
_MASKED = (
    *("apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "systemd-networkd-wait-online.service"),
)
# An emulated machine compiles AppArmor's profiles for minutes. Debian's parser does it for a fixed set of features.
_COMPILED_PROFILES = (
    'if [ -d "$1/etc/apparmor.d" ]; then'
    ' chroot "$1" apparmor_parser --skip-kernel-load --write-cache --cache-loc /var/cache/apparmor /etc/apparmor.d; fi'
)
_OPTIONS = (
    *("--mode=root", "--variant=minbase", "--format=directory", "--components=main"),
    *('--aptopt=Apt::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"'),
    *("--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*"),
    *("--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=force-unsafe-io"),
)
_QUICK_INITRD = 'mkdir -p "$1/etc/initramfs-tools/conf.d"; echo COMPRESS=zstd >"$1/etc/initramfs-tools/conf.d/quick"'


@dataclass(frozen=True)
class HostImage:
    """The directory that holds what a machine boots from."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def user_key(self) -> Path:
        return self.directory / "user_key"

    @property
    def host_key(self) -> str:
        """The public key by which the host is known."""
        return (self.directory / "host_key.pub").read_text(encoding="ascii").strip()


def host_image(kind: Kind) -> HostImage:
    """The image of a host of this kind; built, in some minutes, when the cache does not have it."""
    sources = apt_sources(_index_targets(), platform.freedesktop_os_release()["VERSION_CODENAME"], kind.suite)
    key = cache_key(repr(kind), "\n".join(sources), *(_HERE / name for name in _MAKERS))
    return HostImage(cached("hosts", f"{kind.name}-{key}", lambda directory: _build(kind, sources, directory)))


def _build(kind: Kind, sources: Sequence[str], directory: Path) -> None:
    for name in ("user_key", "host_key"):
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hosts", "-f", directory / name])
    texts = [(directory / name).read_text("ascii") for name in ("user_key.pub", "host_key", "host_key.pub")]
    laid = directory / "laid.tar"
    _write_tar(laid, laid_files(kind, *texts))
    image, tree = HostImage(directory), directory / "tree"
    try:
        _run(_as_root(_make_tree(kind, sources, tree, laid)))
        if kind.guard is Guard.SELINUX:
            _run(_as_root(["unshare", "--mount", "--propagation", "private", "sh", _HERE / "selinux.sh", tree]))
        _run(["truncate", "--size", _DISK_SIZE, image.disk])
        lazily = "lazy_itable_init=1,lazy_journal_init=1"
        _run(_as_root(["mke2fs", "-q", "-t", "ext4", "-E", lazily, "-L", "root", "-d", tree, image.disk]))
        for made, name in ((image.kernel, "vmlinuz"), (image.initrd, "initrd.img")):
            (installed,) = (tree / "boot").glob(f"{name}-*")
            _run(_as_root(["install", f"--owner={os.getuid()}", "--mode=644", installed, made]))
    finally:
        _run(_as_root(["rm", "-rf", tree]))
        laid.unlink()


def _make_tree(kind: Kind, sources: Sequence[str], tree: Path, laid: Path) -> list[str]:
    """The command that makes the tree of a host, of the packages of SOURCES and the files of the archive LAID."""
    hooks = [
        *_archive(kind.offered),
        f'chroot "$1" useradd --create-home --shell /bin/bash --uid {USER_ID} {USER}',
        f"tar-in {laid} /",
        f'chroot "$1" chown --recursive {USER}: /home/{USER}',
        'chroot "$1" systemctl --quiet enable systemd-networkd ssh',
        f'chroot "$1" systemctl --quiet mask {" ".join(_MASKED)}',
        _COMPILED_PROFILES,
        'mkdir -p "$1/var/log/journal" "$1/srv/vm" "$1/srv/dest" "$1/srv/golden" "$1/srv/backup"',
    ]
    return [
        *("mmdebstrap", "--quiet", *_OPTIONS, f"--include={','.join(kind.packages)}"),
        f"--essential-hook={_QUICK_INITRD}",
        *(f"--customize-hook={hook}" for hook in hooks),
        *(kind.suite, str(tree), *sources),
    ]


def _archive(packages: Sequence[str]) -> list[str]:
    """The hooks that give the host an archive of its own with these packages and what they need, and no list of it."""
    if not packages:
        return []
    folder = f'"$1{ARCHIVE}"'
    fetch = f"apt-get --yes -oDir::Cache::Archives={folder} install --download-only {shlex.join(packages)}"
    return [
        f"mkdir -p {folder}",
        f'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" {fetch}',
        f"cd {folder} && rm -rf lock partial && dpkg-scanpackages --multiversion . >Packages",
    ]


def _write_tar(path: Path, files: Sequence[Laid]) -> None:
    with tarfile.open(path, "w") as archive:
        for directory in sorted({str(Path(file.path).parent) for file in files if "/.ssh/" in file.path}):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(entry)
        for file in files:
            content = file.text.encode()
            entry = tarfile.TarInfo(file.path)
            entry.size, entry.mode, entry.uid, entry.gid = len(content), file.mode, file.owner, file.owner
            archive.addfile(entry, BytesIO(content))


def _index_targets() -> str:
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    return subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout


def _as_root(command: Sequence[str | Path]) -> list[str | Path]:
    return list(command) if os.geteuid() == 0 else ["sudo", *command]


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise LabError(f"{shutil.which(str(command[0])) or command[0]} ended with {done.returncode}:\n{tail}")
