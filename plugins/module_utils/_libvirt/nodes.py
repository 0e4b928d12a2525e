# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What QEMU's monitor says of a domain's images, in libvirt's numbers of them. Pure.

libvirt names a job after the disk and the image at its top (``commit-vda-libvirt-3-format``), and QEMU's nodes after
the images.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass


@dataclass(frozen=True)
class CommitNodes:
    """The images of a commit into a backing file: its *top*, and all that are open for *writing* meanwhile."""

    top: str
    writing: frozenset[str]


def commit_nodes(
    target: str, jobs: t.Iterable[t.Mapping[str, t.Any]], nodes: t.Iterable[t.Mapping[str, t.Any]]
) -> CommitNodes | None:
    """The commit below the disk *target*, by ``query-block-jobs`` and ``query-named-block-nodes``; None where there is
    none, or none of libvirt's.

    QEMU has a backing file open for writing only while something is committed into it.
    """
    prefix = f"commit-{target}-"
    names = [str(job["device"]) for job in jobs]
    tops = [number for name in names if name.startswith(prefix) for number, _kind in [_image_of(name[len(prefix) :])]]
    if len(tops) != 1 or tops[0] is None:
        return None
    writing: dict[str | None, bool] = {}
    for node in nodes:
        number, kind = _image_of(str(node["node-name"]))
        if kind == "format" or number not in writing:  # the file below a format is always open for writing
            writing[number] = not node["ro"]
    return CommitNodes(tops[0], frozenset(number for number, is_open in writing.items() if number and is_open))


@dataclass(frozen=True)
class MadeForBackup:
    """What libvirt has had QEMU make for one backup: jobs, whose names begin with one of *jobs*, the *bitmaps* of those
    names, and nodes of the *files* that are filled."""

    jobs: tuple[str, ...]
    bitmaps: frozenset[str]
    files: frozenset[str]


def forgetting(
    made: MadeForBackup, jobs: t.Iterable[t.Mapping[str, t.Any]], nodes: t.Sequence[t.Mapping[str, t.Any]]
) -> list[tuple[str, dict[str, str]]]:
    """The commands that have QEMU forget what is there of *made*, by ``query-jobs`` and ``query-named-block-nodes``.

    The jobs come first, which hold the rest, and a node before that of the file below it. None where nothing is there.
    An image is known by the node of its file: that of its format may have a ``json:`` name, which tells of its chain.
    """
    commands = [
        ("job-dismiss" if job["status"] == "concluded" else "job-cancel", {"id": str(job["id"])})
        for job in jobs
        if str(job["id"]).startswith(made.jobs)
    ]
    own = [node for node in nodes if _image_of(str(node["node-name"]))[0]]  # QEMU's own go with these
    commands += [
        ("block-dirty-bitmap-remove", {"node": str(node["node-name"]), "name": str(bitmap["name"])})
        for node in own
        for bitmap in node.get("dirty-bitmaps", ())
        if bitmap.get("name") in made.bitmaps
    ]
    images = {_image_of(str(node["node-name"]))[0] for node in own if node.get("file") in made.files}
    filled = [name for node in own for name in [str(node["node-name"])] if _image_of(name)[0] in images]
    commands += [("blockdev-del", {"node-name": name}) for name in sorted(filled)]  # -format, then -storage
    return commands


def _image_of(node: str) -> tuple[str | None, str | None]:
    """libvirt's number of the image that a node is of, and what it is: the format or the storage; a raw image may have
    no node for its format. None for a node of something else."""
    words = node.split("-")
    is_image = len(words) == 3 and words[0] == "libvirt" and words[2] in ("format", "storage")
    return (words[1], words[2]) if is_image else (None, None)
