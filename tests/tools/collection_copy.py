# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of the work tree at the place that ansible-test insists on: …/ansible_collections/kvmops/disk.

The copy holds what git tracks or would track, committed or not, and is a git repository of its own, so that
ansible-test sees exactly these files. tests/output of the copy outlives a refresh: the caches are there. Runs of
ansible-test at the same time need a copy each: KVMOPS_COPY is a name for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / ".cache" / os.environ.get("KVMOPS_COPY", "") / "ansible_collections" / "kvmops" / "disk"
OUTLIVES = (".git", "tests/output")


def refresh_copy() -> Path:
    """Make the copy equal to the work tree and return its path."""
    wanted = work_tree_files()
    COPY.mkdir(parents=True, exist_ok=True)
    remove_what_is_gone(wanted)
    for name in wanted:
        copy_if_different(ROOT / name, COPY / name)
    subprocess.run(["git", "init", "--quiet"], cwd=COPY, check=True)
    subprocess.run(["git", "add", "--all"], cwd=COPY, check=True)
    return COPY


def work_tree_files() -> set[str]:
    """Paths, relative to the root, of the files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listing.split("\0") if name and os.path.lexists(ROOT / name)}


def remove_what_is_gone(wanted: set[str]) -> None:
    for folder, folders, files in os.walk(COPY, topdown=True):
        here = Path(folder).relative_to(COPY)
        folders[:] = [name for name in folders if (here / name).as_posix() not in OUTLIVES]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in files + links:
            if (here / name).as_posix() not in wanted:
                (Path(folder) / name).unlink()
    for folder, folders, files in os.walk(COPY, topdown=False):
        if not folders and not files and not Path(folder).relative_to(COPY).as_posix().startswith(OUTLIVES):
            Path(folder).rmdir()


def copy_if_different(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        target.unlink(missing_ok=True)
        target.symlink_to(os.readlink(source))
    elif not same(source, target):
        target.unlink(missing_ok=True)
        shutil.copy2(source, target)


def same(source: Path, target: Path) -> bool:
    if target.is_symlink() or not target.is_file():
        return False
    there, here = target.stat(), source.stat()
    return (there.st_size, there.st_mtime_ns, there.st_mode) == (here.st_size, here.st_mtime_ns, here.st_mode)


if __name__ == "__main__":
    print(refresh_copy())
