# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A directory of another user, in which root manages images, and what only root may touch beside it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.tree import tree_state
from support.image_tools import MIB, NOBODY, create, overlay, qemu_io

TENANT = 65534
SECRET = b"root's own\n" * 400


@contextmanager
def open_place() -> Iterator[Path]:
    """A directory that others come through. Those of pytest are closed to them whenever another run of it begins."""
    with tempfile.TemporaryDirectory(prefix="kvmops-") as place:
        os.chmod(place, 0o711)
        yield Path(place)


@dataclass
class Ground:
    """DIRECTORY is the tenant's, RESERVED is root's."""

    directory: Path
    reserved: Path

    @classmethod
    def at(cls, place: Path) -> Ground:
        found = cls(place / "tenant", place / "reserved")
        found.directory.mkdir()
        os.chown(found.directory, TENANT, TENANT)
        found.reserved.mkdir(0o711)
        for name in ("shadow", "web.qcow2", "new.raw"):
            (found.reserved / name).write_bytes(SECRET)
            (found.reserved / name).chmod(0o600)
        return found

    def state(self) -> dict[str, Any]:
        """All that the tenant must not reach, with the number of names that each file has."""
        tree = {
            name: entry._replace(mtime_ns=0) if name == "." else entry
            for name, entry in tree_state(self.reserved).items()
        }
        links = {name: (self.reserved / name).lstat().st_nlink for name in tree if name != "."}
        return {"tree": tree, "links": links}

    def own(self, path: Path) -> Path:
        """PATH, which is the tenant's from now on."""
        os.chown(path, TENANT, TENANT, follow_symlinks=False)
        return path

    def image(self, name: str = "web.qcow2", image_format: str = "qcow2", size: int = MIB) -> Path:
        return self.own(create(self.directory / name, image_format, size))

    def overlay(self) -> Path:
        """An image with content over another one."""
        top = overlay(self.directory / "web.qcow2", self.image("base.qcow2"))
        qemu_io(top, "write -q -P 7 0 64k")
        return self.own(top)

    def exchange_all(self) -> None:
        """Puts a link to the reserved directory, or to a file in it, in the place of everything in the tenant's."""
        aside = self.directory / "aside"
        aside.mkdir()
        for name in sorted(os.listdir(self.directory)):
            path = self.directory / name
            if path == aside or path.is_symlink():
                continue
            is_directory = path.is_dir()
            os.rename(path, aside / name)
            twin = self.reserved / (name if name in ("web.qcow2", "new.raw") else "shadow")
            os.symlink(self.reserved if is_directory else twin, path)
            self.own(path)


# --- what can be planted at the name of a state file ---------------------------------------------------------------


def fifo(place: Path) -> None:
    os.mkfifo(place)


def a_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.open(place.parent, os.O_PATH)
        try:
            server.bind(f"/proc/self/fd/{directory}/{place.name}")
        finally:
            os.close(directory)


def a_directory(place: Path) -> None:
    place.mkdir()


def a_hole(place: Path) -> None:
    place.touch()
    os.truncate(place, 200 << 30)


def of_json(written: Any) -> Callable[[Path], None]:
    def plant(place: Path) -> None:
        place.write_text(json.dumps(written), encoding="utf-8")

    return plant


def nested(place: Path) -> None:
    place.write_text("[" * 200_000, encoding="utf-8")


PLANTS: Mapping[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a socket": a_socket,
    "a directory": a_directory,
    "a hole of 200 GiB": a_hole,
    "deep nesting": nested,
    "a list": of_json([]),
    "a wrong verb": of_json({"verb": ["x"]}),
    "a NUL": of_json({"verb": "commit", "bases": {"/a\0b": []}}),
    "half a character": of_json({"verb": "commit", "bases": {"/\ud800": []}}),
}


def params_of(module: str, ground: Ground) -> dict[str, Any]:
    """A wish that MODULE has work for, about an image of the tenant."""
    path, wish = ground.directory / "web.qcow2", {"uri": NOBODY}
    if module == "qcow2_commit":
        return {
            **wish,
            "path": str(ground.overlay()),
            "overlay": "remove",
            "base": str(ground.directory / "base.qcow2"),
            "base_format": "qcow2",
        }
    ground.image()
    if module == "qcow2_convert":
        return {
            **wish,
            "src": str(path),
            "src_format": "qcow2",
            "dest": str(ground.directory / "new.raw"),
            "format": "raw",
        }
    by_module: dict[str, dict[str, Any]] = {
        "qcow2_image": {"size": "2M", "mode": "0640"},
        "qcow2_check": {"repair": "all"},
        "qcow2_snapshot": {"snapshot": "one"},
        "qcow2_bitmap": {"bitmap": "one"},
    }
    return {**wish, "path": str(path), **by_module[module]}


MODULES = ("qcow2_image", "qcow2_check", "qcow2_snapshot", "qcow2_bitmap", "qcow2_commit", "qcow2_convert")


def clear(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
