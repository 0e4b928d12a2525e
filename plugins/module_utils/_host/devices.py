# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether files and devices of the host are there. Only what is known to be missing counts as missing."""

from __future__ import annotations

import os

_BUS = "/sys/bus"
_NETWORK = "/sys/class/net"


def is_missing(path: str) -> bool:
    """Whether nothing is at *path*, by whatever link; who may not look there knows nothing."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def lacks_device(bus: str, name: str) -> bool:
    """Whether the host has no device of that *name* on the *bus*: pci, mdev."""
    return not is_missing(_BUS) and is_missing(os.path.join(_BUS, bus, "devices", name))


def lacks_interface(name: str) -> bool:
    """Whether the host has no network interface of that name."""
    return not is_missing(_NETWORK) and is_missing(os.path.join(_NETWORK, name))


def lacks_usb_device(vendor: str, product: str) -> bool:
    """Whether the host has no USB device of these two numbers, in hexadecimal digits."""
    devices = os.path.join(_BUS, "usb", "devices")
    try:
        names = os.listdir(devices) if not is_missing(devices) else []
    except OSError:
        return False
    wanted = (int(vendor, 16), int(product, 16))
    return not is_missing(_BUS) and wanted not in [_numbers(os.path.join(devices, name)) for name in names]


def _numbers(device: str) -> tuple[int, int] | None:
    """Vendor and product of a USB device; None for what is only a part of one."""
    try:
        return _number(device, "idVendor"), _number(device, "idProduct")
    except (OSError, ValueError):
        return None


def _number(device: str, name: str) -> int:
    with open(os.path.join(device, name), encoding="ascii") as stream:
        return int(stream.read(), 16)
