# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only door to qemu-img: every verb a method, no decisions.

Paths are absolute, so that a colon in them is no protocol, and stand behind ``--``; formats are always given, never
probed; sizes are bytes. What a verb means for an image that others use or depend on is not this file's business.
"""

from __future__ import annotations

import json
import os
import time
import typing as t
from contextlib import contextmanager

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import qemu_nbd as _qemu_nbd
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.keys import Unlocking, option_list
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.runner import (
    LOOK_SECONDS,
    Report,
    is_locked_out,
    parsed,
)
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Layer, node

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.process import Done

#: Coroutines of a conversion: the most that qemu-img takes (MAX_COROUTINES in qemu-img.c).
COROUTINES = 16
#: Seconds for which a repair waits until others have looked at the image.
_LOOKED_AT_SECONDS = 5.0


#: A disk is measured in whole clusters, of this size unless another one is asked for.
_MEASURED_CLUSTER = 64 << 10


@dataclass(frozen=True)
class Measure:
    """Bytes that a new image needs now, and once its guest has written everything."""

    required: int
    fully_allocated: int

    def data(self, size: int) -> int:
        """The bytes of the data alone, of a disk of *size* bytes that was measured as qcow2: the tables, which are for
        the whole disk, are in both figures (qcow2_measure in block/qcow2.c)."""
        clusters = -(-size // _MEASURED_CLUSTER) * _MEASURED_CLUSTER
        return max(0, self.required - self.fully_allocated + clusters)


@dataclass(frozen=True)
class CheckResult:
    """What ``qemu-img check`` found; *result* is good, leaks, corrupt or unsupported."""

    result: str
    corruptions: int = 0
    leaks: int = 0
    corruptions_fixed: int = 0
    leaks_fixed: int = 0
    check_errors: int = 0


@dataclass(frozen=True)
class Range:
    """A part of a disk, in bytes, whose content has one kind of place: a row of ``qemu-img map``.

    *depth* counts the images down the chain, 0 for the top. *present*: one of them has it. *zero*: it reads as zeros.
    *data*: it takes space. *offset* is where it lies in the file; None where it has no one place there.
    """

    start: int
    length: int
    depth: int
    present: bool
    zero: bool
    data: bool
    offset: int | None


#: Exit statuses of ``qemu-img check`` that are answers (docs/tools/qemu-img); 1 is a failure to check.
_CHECK_RESULTS = {0: "good", 2: "corrupt", 3: "leaks", 63: "unsupported"}


@dataclass(frozen=True)
class QemuImg(Unlocking):
    """The verbs of qemu-img as it is installed on this host."""

    def require_driver(self, image_format: str, path: str) -> None:
        """Raises DiskError where this qemu-img was built without the driver for *image_format*, which *path* needs."""
        said = self._run("--help", seconds=LOOK_SECONDS).stdout.decode(errors="replace")
        _before, found, listed = said.partition("Supported formats:")
        if found and image_format not in listed.split():
            raise DiskError(
                f"{path}: this QEMU has no driver for the format {image_format} ({self.executable}): install a QEMU "
                "that was built with it, or convert the image elsewhere",
                path=path,
                format=image_format,
            )

    def info(self, path: str, image_format: str) -> dict[str, t.Any]:
        """The top level of ``info --output=json``; safe beside a running guest (-U), opens no backing file."""
        answer = self._json("info", "-U", "--output=json", "-f", image_format, "--", path)
        return t.cast("dict[str, t.Any]", answer)

    def measure(
        self,
        path: str,
        image_format: str,
        target_format: str,
        options: t.Mapping[str, str],
        *,
        snapshot: tuple[str, str] | None = None,
        alone: bool = False,
    ) -> Measure:
        """What the content of *path* would need as *target_format*: an estimate beside whoever writes it.

        No lock of QEMU is asked for, so that nobody who looks is in another's way; what works on the image then does.
        *snapshot* is the ID and the name of an internal snapshot to measure instead; *alone* leaves out what the
        backing file holds.
        """
        argv = ["measure", "--output=json", "-U", *_snapshot(snapshot)]
        source = self._named(path, image_format)
        if alone:
            source = ["--", node(self.unlocked.get(path, (Layer(path, image_format),)), alone=True)]
        answer = self._json(*argv, "-O", target_format, *option_list(options), *source, seconds=None)
        return Measure(answer["required"], answer["fully-allocated"])

    def measure_empty(self, size: int, target_format: str, options: t.Mapping[str, str]) -> Measure:
        """What a new disk of *size* bytes needs as *target_format*."""
        answer = self._json("measure", "--output=json", "--size", str(size), "-O", target_format, *option_list(options))
        return Measure(answer["required"], answer["fully-allocated"])

    def create(
        self,
        path: str,
        image_format: str,
        size: int | None,
        options: t.Mapping[str, str],
        backing: tuple[str, str] | None = None,
        *,
        unopened: bool = False,
    ) -> None:
        """A new image at *path*, which must be a name of ours: qemu-img overwrites, and deletes when it fails.

        *backing* is the backing file and its format; *size* may then be None for the same size. *unopened*: nothing
        looks at the backing file, nor at what that refers to; *size* is needed then.
        """
        argv = ["create", "-q", *(["-u"] if unopened else []), "-f", image_format, *option_list(options)]
        if backing:
            argv += ["-b", backing[0], "-F", backing[1]]
        self._write(*argv, "--", path, *([str(size)] if size is not None else []))

    def convert(
        self,
        source: str,
        source_format: str,
        target: str,
        target_format: str,
        options: t.Mapping[str, str],
        *,
        compress: bool = False,
        out_of_order: bool = False,
        snapshot: tuple[str, str] | None = None,
        backing: tuple[str, str] | None = None,
        bitmaps: bool = False,
        rate: int | None = None,
        report: Report | None = None,
    ) -> None:
        """Copies what a guest sees in *source*, its chain included, to *target*, a name of ours. Not synced.

        *snapshot*: what it saw at that one, by its ID and name. *backing*: a backing file and its format, for a target
        that only gets what lies in *source* itself. *bitmaps*: its dirty bitmaps, too, but for broken ones. *rate*:
        bytes in a second. *report* is told how much of the data has been copied.
        """
        argv = ["convert", "-p" if report else "-q", "-m", str(COROUTINES), *_snapshot(snapshot)]
        source_options, name = self._name(source, source_format)
        argv += [*source_options, "-O", target_format, *option_list(options)]
        argv += ["-c"] if compress else []
        argv += ["-W"] if out_of_order else []
        argv += ["--bitmaps", "--skip-broken-bitmaps"] if bitmaps else []
        argv += ["-r", str(rate)] if rate else []
        argv += ["-B", backing[0], "-F", backing[1]] if backing else []
        self._write(*argv, "--", name, target, report=report)

    def map(self, path: str, image_format: str) -> list[Range]:
        """Where the content of the disk lies, its chain included, as it is on stable storage now: a running guest's
        QEMU may have more in its memory."""
        return self._map(*self._named(path, image_format))

    def allocated(self, path: str, image_format: str, images: int) -> list[tuple[int, int]]:
        """The ranges of the disk, as (start, end), that the first *images* images of the chain hold, by its map."""
        rows = self.map(path, image_format)
        return [(row.start, row.start + row.length) for row in rows if row.present and row.depth < images]

    def held(self, path: str, image_format: str, *, data: bool = False) -> list[tuple[int, int]]:
        """The ranges of the disk, as (start, end), that the image itself holds. Nothing below it is opened.

        With *data* without what only is known to be zeros.
        """
        rows = self.own_map(path, image_format)
        return [(row.start, row.start + row.length) for row in rows if row.present and (row.data or not data)]

    def own_map(self, path: str, image_format: str) -> list[Range]:
        """The same as map() tells of the image itself. Nothing below it is opened."""
        return self._map("--", node(self.unlocked.get(path, (Layer(path, image_format),)), alone=True))

    def commit(
        self,
        path: str,
        image_format: str,
        base: str | None = None,
        *,
        rate: int | None = None,
        report: Report | None = None,
    ) -> None:
        """Writes what *path* holds into its backing file, or, with what lies between, into *base*, one further down as
        the chain calls it. *path* is left as it is (``-d``), and reads the same at any moment.

        A run that is killed has changed the base already; another one finishes it. Both stay locked meanwhile.
        *rate*: bytes in a second. *report* is told how much has been written.
        """
        argv = ["commit", "-p" if report else "-q", "-d"]
        argv += ["-r", str(rate)] if rate else []
        argv += ["-b", base] if base else []
        chain = [layer.path for layer in self.unlocked.get(path, ())] or [path, *([base] if base else [])]
        with self._writing(image_format, *chain) as (own, _writer):
            own._write(*argv, *self._named(path, image_format), in_place=True, report=report)

    def rebase(
        self, path: str, image_format: str, backing: tuple[str, str] | None, *, report: Report | None = None
    ) -> None:
        """Gives *path*, a new file of ours, another backing file (and its format) or none, and the same content.

        What it read from the old one and would not from the new one is copied. A run that is killed leaves a worthless
        file (HAZARDS A1). *report* is told how much of the disk has been looked at.
        """
        argv = ["rebase", *(["-p"] if report else ["-q"])]
        unlocked = self.unlocked.get(backing[0]) if backing else None
        if backing:
            argv += ["-b", node(unlocked) if unlocked else backing[0], "-F", backing[1]]
        else:
            argv += ["-b", ""]
        self._write(*argv, *self._named(path, image_format), report=report)
        if backing and unlocked:  # the name with which it was opened is the one that was written
            self.refer(path, image_format, backing)

    def refer(self, path: str, image_format: str, backing: tuple[str, str]) -> None:
        """Writes another backing file, and its format, into the header of *path*, and copies nothing."""
        argv = ["rebase", "-q", "-u", "-b", backing[0], "-F", backing[1]]
        with self._writing(image_format, path) as (own, writer):  # it opens nothing that the image reads
            known = self.unlocked.get(path, (Layer(path, image_format),) if writer.name else ())[:1]
            top = [replace(layer, path=writer.name or path) for layer in known]
            own._write(*argv, *(["--", node(top)] if top else ["-f", image_format, "--", path]), in_place=True)

    def same_content(
        self, one: str, one_format: str, other: str, other_format: str, *, report: Report | None = None
    ) -> bool:
        """Whether a guest would see the same in both. Raises QemuImgFailed where they could not be compared.

        *report* is told how much of the disk has been compared.
        """
        return self._same(*self._pair(one, one_format, other, other_format), report=report)

    def identical(
        self, one: str, one_format: str, other: str, other_format: str, *, report: Report | None = None
    ) -> bool:
        """The same, where a difference in size or allocation is one, too (``compare -s``)."""
        return self._same("-s", *self._pair(one, one_format, other, other_format), report=report)

    def _pair(self, one: str, one_format: str, other: str, other_format: str) -> list[str]:
        options, name = self._name(one, one_format)
        other_options, other_name = self._name(other, other_format, "-F")
        return [*options, *other_options, "--", name, other_name]

    def same_as_snapshot(
        self,
        path: str,
        image_format: str,
        snapshot: tuple[str, str],
        other: str,
        other_format: str,
        *,
        report: Report | None = None,
    ) -> bool:
        """Whether a guest would see the same in *other* as in *path* at *snapshot*, an ID and a name.

        ``compare`` knows no snapshots, so that qemu-nbd, of the same package, serves it to ``compare``: to nobody
        else, on a socket in a directory of ours.
        """
        with self.served(path, image_format, snapshot) as socket:
            served = {"driver": "raw", "file": {"driver": "nbd", "server": {"type": "unix", "path": socket}}}
            nodes = (f"json:{json.dumps(served)}", node(self.unlocked.get(other, (Layer(other, other_format),))))
            return self._same("--", *nodes, report=report)

    @contextmanager
    def served(self, path: str, image_format: str, snapshot: tuple[str, str] | None = None) -> t.Iterator[str]:
        """The socket at which qemu-nbd serves the image, or a *snapshot* within it, for the length of the block."""
        named = [*self._definitions(), *self._named(path, image_format)]
        option = _snapshot(snapshot)[1] if snapshot else None
        with _qemu_nbd.serving(path, named, option, self._ways(writes=True)) as socket:
            yield socket

    def resize(
        self, path: str, image_format: str, size: int, *, shrink: bool = False, preallocation: str | None = None
    ) -> None:
        argv = ["resize", "-q"]
        argv += ["--shrink"] if shrink else []
        argv += [f"--preallocation={preallocation}"] if preallocation else []
        with self._writing(image_format, path) as (own, writer):
            own._write(*argv, *self._named_to_write(path, image_format, writer), str(size), in_place=True)

    def amend(self, path: str, image_format: str, options: t.Mapping[str, str]) -> None:
        with self._writing(image_format, path) as (own, writer):
            named = self._named_to_write(path, image_format, writer)
            own._write("amend", "-q", *option_list(options), *named, in_place=True)

    def check(
        self, path: str, image_format: str, repair: str | None = None, *, external_data: bool = False
    ) -> CheckResult:
        """The consistency of the metadata; *repair* is leaks or all. Raises QemuImgFailed where it cannot be known.

        Nothing but *path* is opened: no backing file, and, where the image has *external_data*, no data file.
        """
        if repair is None:
            alone = self._by_itself(path, image_format, external_data=external_data)
            done = self._run("check", "--output=json", "--image-opts", "--", alone, seconds=None)
        else:
            done = self._repaired(path, image_format, repair, external_data)
        if done.returncode not in _CHECK_RESULTS:
            raise self._failure(done)
        found = parsed(done.stdout) if done.returncode != 63 else {}
        return CheckResult(
            _CHECK_RESULTS[done.returncode],
            found.get("corruptions", 0),
            found.get("leaks", 0),
            found.get("corruptions-fixed", 0),
            found.get("leaks-fixed", 0),
            found.get("check-errors", 0),
        )

    def take_snapshot(self, path: str, name: bytes) -> None:
        """An internal snapshot of the qcow2 image at *path*. QEMU takes any name, also one that is taken already."""
        self._work_on_snapshot("-c", os.fsdecode(name), path)

    def delete_snapshot(self, path: str, name: bytes) -> None:
        """Deletes the first internal snapshot of that *name* (HAZARDS E1, E2)."""
        self._work_on_snapshot("-d", os.fsdecode(name), path)

    def revert_to_snapshot(self, path: str, identifier: str) -> None:
        """Makes the active layer what the snapshot with that ID holds; QEMU looks for an ID first (HAZARDS E2)."""
        self._work_on_snapshot("-a", identifier, path)

    def bitmap(
        self, path: str, name: bytes, *actions: str, granularity: int | None = None, source: str | None = None
    ) -> None:
        """Does *actions* (add, remove, clear, enable, disable, merge=OTHER), in order, on a dirty bitmap of the qcow2
        image at *path*. *source* is another qcow2 image, which has what is merged.

        Neither's backing file is opened.
        """
        argv = ["bitmap", *(f"--{action}" for action in actions)]
        argv += ["-g", str(granularity)] if granularity else []
        argv += ["-b", node(self.unlocked.get(source, (Layer(source, "qcow2"),)), alone=True)] if source else []
        with self._writing("qcow2", path) as (own, writer):
            alone = self._by_itself(path, "qcow2", writer)
            own._write(*argv, "--image-opts", "--", alone, os.fsdecode(name), in_place=True)

    def _map(self, *named: str) -> list[Range]:
        rows = self._json("map", "-U", "--output=json", *named, seconds=None)
        return [
            Range(
                row["start"],
                row["length"],
                row["depth"],
                row["present"],
                row["zero"],
                row["data"],
                row.get("offset"),
            )
            for row in rows
        ]

    def _work_on_snapshot(self, option: str, which: str, path: str) -> None:
        """The verb knows no format flag before QEMU 10.1 (HAZARDS E6)."""
        with self._writing("qcow2", path) as (own, writer):
            alone = self._by_itself(path, "qcow2", writer)
            own._write("snapshot", "-q", option, which, "--image-opts", "--", alone, in_place=True)

    def _repaired(self, path: str, image_format: str, repair: str, external_data: bool) -> Done:
        with self._writing(image_format, path) as (own, writer):
            alone = self._by_itself(path, image_format, writer, external_data=external_data)
            argv = ["check", "--output=json", "-r", repair, "--image-opts", "--", alone]
            patience = time.monotonic() + _LOOKED_AT_SECONDS
            while True:
                done = own._run(*argv, seconds=None, writes=True, in_place=True)
                if not is_locked_out(done) or time.monotonic() >= patience:
                    return done
                time.sleep(0.05)  # another run looks at it: nothing was done

    def _same(self, *arguments: str, report: Report | None) -> bool:
        done = self._run("compare", "-p" if report else "-q", *arguments, seconds=None, writes=True, report=report)
        if done.returncode not in (0, 1):
            raise self._failure(done)
        return done.returncode == 0


def _snapshot(snapshot: tuple[str, str] | None) -> list[str]:
    """The option for an internal snapshot, by ID and name, so that neither is taken for the other (HAZARDS E2)."""
    if snapshot is None:
        return []
    identity, name = (value.replace(",", ",,") for value in snapshot)
    return ["-l", f"snapshot.id={identity},snapshot.name={name}"]
