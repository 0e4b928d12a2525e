# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Strict sizes: what a person writes, as bytes, and bytes as a person reads them.

qemu-img takes ``010``, ``0x200`` and ``+1M`` for sizes and rounds what is no whole sector; a disk's size is no
place for surprises, so only plain decimal numbers with IEC units are taken here and everything else is refused. A unit
may be written small, as qemu-img takes it.
"""

from __future__ import annotations

import re

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, RelativeSize

SECTOR = 512
#: QEMU counts bytes in a signed 64-bit integer and disks in whole sectors (block/io.c, BDRV_MAX_LENGTH).
LARGEST = 2**63 - SECTOR

_UNITS = "KMGTPE"
_LONGEST = 40  # characters; the largest size in bytes has 19
_SIZE = r"(?a)(?P<number>(?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?:(?P<unit>[KMGTPEkmgtpe])(?:[iI][bB])?)?"
_GUIDANCE = "write bytes, or a number with K, M, G, T, P or E (KiB, MiB, GiB, ...; powers of 1024), such as 30G or 1.5T"


def parse_size(value: str | int, what: str = "size") -> int:
    """Bytes from a size as a task gives it: ``10G``, ``10GiB``, ``1.5T`` or bytes.

    *what* names the parameter in the message. Raises InvalidRequest for anything but a positive whole number of
    512-byte sectors that QEMU can address: RelativeSize for a growth, such as ``+1G``.
    """
    text = str(value)
    _require_final(text, what)
    match = re.fullmatch(_SIZE, text)
    if not match or len(text) > _LONGEST:
        hint = f"; {text[:-1]}iB is a power of 1024" if re.fullmatch(r"[0-9.]+[KMGTPEkmgtpe][bB]", text) else ""
        raise InvalidRequest(f"{what}: {text[:_LONGEST]!r} is not a size{hint}: {_GUIDANCE}")
    dividend, divisor = _bytes(match["number"], match["unit"])
    if dividend == 0:
        raise InvalidRequest(f"{what}: {text} is too small: a disk has at least {SECTOR} bytes")
    if dividend % (divisor * SECTOR):
        above = (dividend // (divisor * SECTOR) + 1) * SECTOR
        raise InvalidRequest(
            f"{what}: {text} is not a whole number of {SECTOR}-byte sectors: the next size is {above} bytes"
        )
    size = dividend // divisor
    if size > LARGEST:
        raise InvalidRequest(f"{what}: {text} is more than QEMU can address ({LARGEST} bytes)")
    return size


def _require_final(text: str, what: str) -> None:
    """Raises RelativeSize where *text* is a plus and a size."""
    if text.startswith("+") and len(text) <= _LONGEST and re.fullmatch(_SIZE, text[1:]):
        raise RelativeSize(text, what, parse_size(text[1:], what))


def final_size(error: RelativeSize, path: str, found: int) -> InvalidRequest:
    """*error*, with the size that is meant, where the disk at *path* has *found* bytes."""
    meant = found + error.growth
    if meant > LARGEST:
        return error
    return InvalidRequest(
        f"{error.what}: {error.text} is not taken here: give the final size ({path} has {exact_size(found)}, so "
        f"{_written(meant)})",
        path=path,
        virtual_size=found,
    )


def _written(size: int) -> str:
    """*size* as a task would give it, exactly: with the largest unit of which it is a whole number."""
    power = next((power for power in range(len(_UNITS), 0, -1) if size % 1024**power == 0), 0)
    return f"{size // 1024**power}{_UNITS[power - 1] if power else ''}"


def rounded_up(size: int, step: int) -> int:
    """The next multiple of *step* bytes."""
    return -(-size // step) * step


def format_size(size: int) -> str:
    """Bytes in the largest IEC unit, exact where two decimals are enough: ``40 GiB``, ``1.5 TiB``, ``1000 bytes``."""
    power = min((abs(size).bit_length() - 1) // 10, len(_UNITS)) if size else 0
    if power <= 0:
        return f"{size} bytes"
    number = f"{size / 1024**power:.2f}".rstrip("0").rstrip(".")
    return f"{number} {_UNITS[power - 1]}iB"


def exact_size(size: int) -> str:
    """The same, but in bytes where two decimals would round: two sizes that differ never read the same."""
    text = format_size(size)
    number, unit = text.split(" ", 1)
    dividend, divisor = _bytes(number, unit[0] if unit != "bytes" else None)
    return text if dividend == size * divisor else f"{size} bytes"


def _bytes(number: str, unit: str | None) -> tuple[int, int]:
    """The bytes of a decimal *number* in *unit*, exactly: a dividend and its divisor."""
    whole, _point, decimals = number.partition(".")
    power = _UNITS.index(unit.upper()) + 1 if unit else 0
    return int(whole + decimals) * 1024**power, 10 ** len(decimals)
