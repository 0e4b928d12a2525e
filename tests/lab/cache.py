# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where downloads and built guests are kept, outside the repository."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def cache_root() -> Path:
    """The cache's directory; made when it is missing."""
    if chosen := os.environ.get("KVMOPS_LAB_CACHE"):
        root = Path(chosen)
    elif xdg := os.environ.get("XDG_CACHE_HOME"):
        root = Path(xdg) / "kvmops-lab"
    else:
        root = Path.home() / ".cache" / "kvmops-lab"
    root.mkdir(parents=True, exist_ok=True)
    return root.resolve()


def cache_key(*inputs: str | bytes | Path) -> str:
    """A short hash of everything a build depends on; a Path stands for the file's content."""
    digest = hashlib.sha256()
    for item in inputs:
        content = item.read_bytes() if isinstance(item, Path) else item.encode() if isinstance(item, str) else item
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the cache's lock NAME; other processes wait."""
    locks = cache_root() / "locks"
    locks.mkdir(exist_ok=True)
    with open(locks / name, "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory KIND/KEY of the cache; when it is missing, BUILD fills it, once among all processes.

    BUILD gets an empty directory on the cache's file system, which takes its place only when BUILD has succeeded.
    """
    target = cache_root() / kind / key
    if target.exists():
        return target
    with locked(f"{kind}-{key}"):
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            staged = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=target.parent))
            try:
                staged.chmod(0o755)
                build(staged)
                staged.rename(target)
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    return target
