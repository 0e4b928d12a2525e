# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task wants of the disks of a domain: their format and their place."""

from __future__ import annotations

import os
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import (
    KEEP_AUTO,
    KEEP_WORDS,
    OVERLAY_FORMATS,
)
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import Layout, known_suffixes, suffix
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._task.arguments import absolute, layout_from, overcommit_from
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: The formats that libvirt can give to a guest as a writable disk.
DISK_FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc")

#: Those of them into which a disk can be copied while its guest runs; QEMU fills others to their last byte.
LIVE_FORMATS = ("raw", "qcow2", "qed")


@dataclass(frozen=True)
class ConvertWish:
    """What a task wants of a domain's disks: in this format, at this place."""

    disks: tuple[str, ...]
    layout: Layout
    dest: str | None = None
    dest_dir: str | None = None
    mode: str = "auto"
    shutdown: str = "graceful"
    shutdown_timeout: int = 120
    restart: bool = True
    verify: bool = True
    keep_source: bool = True
    compress: bool = False
    trusted: bool = False
    shallow: bool = False
    block_device: bool = False
    bandwidth: int | None = None
    copy_timeout: int = 86400
    max_overcommit: float | None = None
    keep_bitmaps: str = KEEP_AUTO
    align_size: bool = False

    def require_valid(self) -> None:
        """Raises InvalidRequest where no world could grant the wish."""
        self.layout.require_valid(compressed=self.compress)
        if self.shallow and self.layout.format not in OVERLAY_FORMATS:
            raise InvalidRequest(
                f"shallow: {self.layout.format} images have no backing file: use {' or '.join(OVERLAY_FORMATS)}, "
                "or leave shallow out"
            )
        if self.block_device and self.dest is None:
            raise InvalidRequest("block_device: needs dest, the path of the device")
        if self.block_device and self.layout.preallocation not in (None, "off"):
            raise InvalidRequest("preallocation: a block device is fully allocated already: leave it out")
        if self.copy_timeout < 1:
            raise InvalidRequest(f"copy_timeout: {self.copy_timeout} s is too short: give 1 or more")
        if self.dest is not None and len(self.disks) != 1:
            raise InvalidRequest("dest: names one file, but several disks are asked for: use dest_dir")
        if self.shutdown_timeout < 1:
            raise InvalidRequest(f"shutdown_timeout: {self.shutdown_timeout} s is too short: give 1 or more")

    def destination(self, source: str) -> str:
        """The path of the new image for the one at *source*."""
        if self.dest is not None:
            return self.dest
        directory, name = os.path.split(source)
        stem, found = os.path.splitext(name)
        renamed = (stem if found.lower() in known_suffixes() else name) + suffix(self.layout.format)
        return os.path.join(self.dest_dir or directory, renamed)

    def numbered(self, source: str, number: int) -> str:
        """The same under another name, where that one is taken: x.1.qcow2 for x.qcow2."""
        stem, ending = os.path.splitext(self.destination(source))
        return f"{stem}.{number}{ending}"

    def is_numbered(self, source: str, path: str) -> bool:
        """Whether *path* is one of those names."""
        stem, ending = os.path.splitext(self.destination(source))
        number = path[len(stem) + 1 : len(path) - len(ending)]
        return self.dest is None and number.isdecimal() and path == self.numbered(source, int(number))

    def is_granted(self, path: str, image_format: str) -> bool:
        """Whether a disk at *path* in *image_format* is what the task wants."""
        if image_format != self.layout.format:
            return False
        if self.dest is not None:
            return os.path.normpath(path) == os.path.normpath(self.dest)
        return self.dest_dir is None or os.path.normpath(os.path.dirname(path)) == os.path.normpath(self.dest_dir)


def wish_from(params: dict[str, t.Any]) -> ConvertWish:
    """The wish that the parameters express. Raises InvalidRequest where they contradict themselves."""
    for name in ("dest", "dest_dir"):
        if params[name] is not None:
            absolute(params[name].rstrip("/") or "/" if name == "dest_dir" else params[name], name)
            _document.require_expressible(params[name], name)
    max_overcommit, bandwidth = overcommit_from(params), params["bandwidth"]
    wish = ConvertWish(
        disks=tuple(params["disks"] or [params["disk"]]),
        layout=layout_from(params),
        mode=params["method"],
        max_overcommit=max_overcommit,
        keep_bitmaps=KEEP_WORDS[params["keep_bitmaps"]],
        bandwidth=parse_size(bandwidth, "bandwidth") if bandwidth is not None else None,
        **{
            name: params[name]
            for name in (
                *("dest", "dest_dir", "shutdown", "shutdown_timeout", "restart", "verify", "keep_source"),
                *("compress", "trusted", "shallow", "block_device", "copy_timeout", "align_size"),
            )
        },
    )
    wish.require_valid()
    return wish
