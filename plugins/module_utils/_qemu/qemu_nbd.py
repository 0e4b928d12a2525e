# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only door to qemu-nbd, which serves what qemu-img does not compare: a snapshot, or what it would not read."""

from __future__ import annotations

import os
import typing as t
from contextlib import contextmanager

from ansible.module_utils.common.process import get_bin_path
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import process as _process

#: Seconds that it may take to open an image.
_READY_SECONDS = 60


@contextmanager
def serving(path: str, named: t.Sequence[str], snapshot: str | None, ways: _process.Ways) -> t.Iterator[str]:
    """The socket at which qemu-nbd serves the image at *path* for the length of the block, read-only.

    *named* are the arguments that say which image that is, as qemu-img has them. *snapshot* is an option of its own
    kind, as qemu-img has it, too; None for what the image holds now. The socket is in a directory that only we may
    enter. Raises DiskError where there is no qemu-nbd, or it does not open the image.
    """
    import tempfile  # loaded where a disk is served

    try:
        server = get_bin_path("qemu-nbd", opt_dirs=["/usr/bin", "/usr/local/bin"])
    except ValueError as error:
        raise DiskError(
            "qemu-nbd was not found on this host, without which snapshots, and files on a file system that may not "
            "tell holes truly, cannot be compared: install it (it is in the package of qemu-img), or set verify=false",
            path=path,
        ) from error
    with tempfile.TemporaryDirectory(prefix="kvmops-") as directory:
        socket, ready = os.path.join(directory, "nbd"), os.path.join(directory, "pid")
        argv = [server, "--read-only", "--persistent", *([f"--load-snapshot={snapshot}"] if snapshot else [])]
        argv += [f"--socket={socket}", f"--pid-file={ready}", *named]
        try:
            with _process.serving(argv, ways, lambda: os.path.exists(ready), _READY_SECONDS):
                yield socket
        except ChildProcessError as error:
            raise QemuImgFailed(f"qemu-nbd cannot serve {path}: {error}") from error
        except _process.TooLong as error:
            raise QemuImgFailed(f"qemu-nbd cannot serve {path} within {_READY_SECONDS} s") from error
