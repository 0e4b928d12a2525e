# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision what is to be done for the destination and the source of a conversion."""

from __future__ import annotations

import typing as t
from enum import Enum

from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import file_set as _file_set
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._files.names import Names
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_convert.wish import ImageConvertWish


class Source(Enum):
    """What there is of a source: all of it, the rest that a dead run left which had begun to remove it, or nothing."""

    WHOLE = "whole"
    GOING = "going"
    GONE = "gone"


class Course(Enum):
    """What is to be done: nothing, make the image, make it where the one that is there differs, remove the source
    where that one is the same, or remove the rest of the source."""

    KEEP = "keep"
    MAKE = "make"
    COMPARE = "compare"
    REMOVE_IF_SAME = "remove if same"
    REMOVE_REST = "remove rest"


def require_apart(wish: ImageConvertWish, names: Names) -> None:
    """Raises InvalidRequest where files that have to be several are one, or where the destination's name does not fit
    an image of several files."""
    if names.same(wish.src, wish.dest):
        raise InvalidRequest(f"dest: is the same file as src, {wish.dest}: give another dest")
    for name, path in (("src", wish.src), ("dest", wish.dest)):
        if wish.backing_file is not None and names.same(wish.backing_file, path):
            raise InvalidRequest(
                f"backing_file: is the same file as {name}, {path}: an overlay of an image is made with "
                "kvmops.disk.qcow2_image"
            )
    if wish.layout.has_extents:
        _file_set.require_fit_name(wish.dest)


def course(wish: ImageConvertWish, dest: Image | None, source: Source) -> Course:
    """What is to be done with *dest* (None: nothing is there) as the image at the destination.

    Raises UnsafeImage where the image is left alone that is there, and is in the clear, and is not to be.
    """
    if dest is None:
        return Course.MAKE
    goes = wish.remove_src and source is not Source.WHOLE
    if wish.update != "missing" and not goes:
        return Course.COMPARE
    return course_beside_right(wish, dest, source)


def course_beside_right(wish: ImageConvertWish, dest: Image, source: Source) -> Course:
    """What is to be done where *dest* is left as it is."""
    require_kept(wish, dest)
    if not wish.remove_src or source is Source.GONE:
        return Course.KEEP
    return Course.REMOVE_REST if source is Source.GOING else Course.REMOVE_IF_SAME


def require_kept(wish: ImageConvertWish, dest: Image) -> None:
    """Raises UnsafeImage where the image that is to be left alone is in the clear, and is not to be."""
    if wish.encryption is not None and not dest.encrypted:
        raise UnsafeImage(
            f"{dest.path}: is not encrypted, asked for encryption, and for update={wish.update}, which leaves it "
            "alone: set update to changed to replace it",
            path=dest.path,
            differences=["encryption"],
        )


def plan_nothing(dest: Image) -> Plan:
    """The plan where the image is left as it is, and the source, too."""
    return Plan(facts(dest), facts(dest))


def facts(image: Image) -> dict[str, t.Any]:
    """What a diff shows of a destination."""
    shown = {"path": image.path, "state": "present", "format": image.format, "virtual_size": image.virtual_size}
    below = {"backing_file": image.backing_file, "backing_format": image.backing_format}
    encrypted = {"encrypted": True} if image.encrypted else {}
    return {**shown, **(below if image.backing_file else {}), **encrypted}
