# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The qemu-img of this host: found at once, and loaded with the first verb, since many runs ask it nothing."""

from __future__ import annotations

import typing as t
from functools import cached_property

from ansible.module_utils.common.process import get_bin_path
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import Writers


def find(*, limited: bool = True) -> QemuImg:
    """The qemu-img on the search path. Raises DiskError where none is installed.

    *limited*: it runs under limits, as an image wants that a stranger wrote: no task knows who wrote one, but by what
    it is told.
    """
    try:
        executable = get_bin_path("qemu-img", opt_dirs=["/usr/bin", "/usr/local/bin"])
    except ValueError as error:
        raise DiskError(
            "qemu-img was not found on this host: install the package qemu-utils (Debian, Ubuntu) or qemu-img "
            "(openEuler, Red Hat family), or apply the role kvmops.disk.hypervisor"
        ) from error
    return t.cast("QemuImg", _Closed(executable, limited))


class _Closed:
    """Stands for a QemuImg until something is asked of it."""

    def __init__(self, executable: str, limited: bool, writers: Writers | None = None) -> None:
        self._executable, self._limited, self._writers = executable, limited, writers

    @cached_property
    def _opened(self) -> QemuImg:
        from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg

        return QemuImg(self._executable, limited=self._limited, writers=self._writers)

    def limiting(self, limited: bool = True) -> _Closed:
        """As QemuImg does."""
        return _Closed(self._executable, limited, self._writers)

    def writing_by(self, writers: Writers | None) -> _Closed:
        """As QemuImg does."""
        return _Closed(self._executable, self._limited, writers)

    def __getattr__(self, name: str) -> t.Any:
        return getattr(self._opened, name)
