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
import re
import signal
import subprocess
import typing as t
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ansible.module_utils.common.process import get_bin_path
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, QemuImgFailed

#: Seconds that a look at an image may take; it reads a header, so a longer one means a dead file system.
LOOK_SECONDS = 60
#: Seconds between two reports of how far a verb is.
REPORT_SECONDS = 0.5
#: Is told how far a verb is, in percent.
Report = t.Callable[[float], None]
#: Coroutines of a conversion: the most that qemu-img takes (MAX_COROUTINES in qemu-img.c).
COROUTINES = 16

_LOCKED = re.compile(r'Failed to get (?:shared )?"[^"]*" lock')
_PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)")
_WARNING = re.compile(r"^qemu-img: warning: .*\n?", re.MULTILINE)
_FILE = re.compile(r"driver=[^,]*,file\.filename=((?:[^,]|,,)*)")
_NO_SPACE = "No space left on device"
_PR_SET_PDEATHSIG = 1
_MOST_OUTPUT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Measure:
    """Bytes that a new image needs now, and once its guest has written everything."""

    required: int
    fully_allocated: int


@dataclass(frozen=True)
class CheckResult:
    """What ``qemu-img check`` found; *result* is good, leaks, corrupt or unsupported."""

    result: str
    corruptions: int = 0
    leaks: int = 0
    corruptions_fixed: int = 0
    leaks_fixed: int = 0
    check_errors: int = 0


#: Exit statuses of ``qemu-img check`` that are answers (docs/tools/qemu-img); 1 is a failure to check.
_CHECK_RESULTS = {0: "good", 2: "corrupt", 3: "leaks", 63: "unsupported"}


@dataclass(frozen=True)
class QemuImg:
    """qemu-img as it is installed on this host.

    *hold* are file descriptors that its writing verbs keep open: the locks of the operation that they serve, so
    that a lock outlives a killed module for as long as its qemu-img still writes.
    """

    executable: str
    hold: tuple[int, ...] = ()

    @classmethod
    def find(cls) -> QemuImg:
        """The qemu-img on the search path. Raises DiskError where none is installed."""
        try:
            return cls(get_bin_path("qemu-img", opt_dirs=["/usr/bin", "/usr/local/bin"]))
        except ValueError as error:
            raise DiskError(
                "qemu-img was not found on this host: install the package qemu-utils (Debian, Ubuntu) or qemu-img "
                "(openEuler, Red Hat family), or apply the role kvmops.disk.hypervisor"
            ) from error

    def holding(self, *descriptors: int) -> QemuImg:
        return replace(self, hold=tuple(descriptors))

    def info(self, path: str, image_format: str) -> dict[str, t.Any]:
        """The top level of ``info --output=json``; safe beside a running guest (-U), opens no backing file."""
        answer = self._json("info", "-U", "--output=json", "-f", image_format, "--", path)
        return t.cast("dict[str, t.Any]", answer)

    def measure(
        self, path: str, image_format: str, target_format: str, options: t.Mapping[str, str], *, share: bool = False
    ) -> Measure:
        """What the content of *path* would need as *target_format*. *share*: an estimate beside a running guest."""
        argv = ["measure", "--output=json", *(["-U"] if share else []), "-f", image_format, "-O", target_format]
        answer = self._json(*argv, *_options(options), "--", path, seconds=None)
        return Measure(answer["required"], answer["fully-allocated"])

    def measure_empty(self, size: int, target_format: str, options: t.Mapping[str, str]) -> Measure:
        """What a new disk of *size* bytes needs as *target_format*."""
        answer = self._json("measure", "--output=json", "--size", str(size), "-O", target_format, *_options(options))
        return Measure(answer["required"], answer["fully-allocated"])

    def create(
        self,
        path: str,
        image_format: str,
        size: int | None,
        options: t.Mapping[str, str],
        backing: tuple[str, str] | None = None,
    ) -> None:
        """A new image at *path*, which must be a name of ours: qemu-img overwrites, and deletes when it fails.

        *backing* is the backing file and its format; *size* may then be None for the same size.
        """
        argv = ["create", "-q", "-f", image_format, *_options(options)]
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
        report: Report | None = None,
    ) -> None:
        """Copies what a guest sees in *source*, its chain included, to *target*, a name of ours. Not synced.

        *report* is told how much of the data has been copied.
        """
        argv = ["convert", "-p" if report else "-q", "-m", str(COROUTINES)]
        argv += ["-f", source_format, "-O", target_format, *_options(options)]
        argv += ["-c"] if compress else []
        argv += ["-W"] if out_of_order else []
        self._write(*argv, "--", source, target, report=report)

    def same_content(
        self, one: str, one_format: str, other: str, other_format: str, *, report: Report | None = None
    ) -> bool:
        """Whether a guest would see the same in both. Raises QemuImgFailed where they could not be compared.

        *report* is told how much of the disk has been compared.
        """
        argv = ["compare", "-p" if report else "-q", "-f", one_format, "-F", other_format, "--", one, other]
        done = self._run(*argv, seconds=None, writes=True, report=report)
        if done.returncode not in (0, 1):
            raise self._failure(done)
        return done.returncode == 0

    def resize(
        self, path: str, image_format: str, size: int, *, shrink: bool = False, preallocation: str | None = None
    ) -> None:
        argv = ["resize", "-q", "-f", image_format]
        argv += ["--shrink"] if shrink else []
        argv += [f"--preallocation={preallocation}"] if preallocation else []
        self._write(*argv, "--", path, str(size), in_place=True)

    def amend(self, path: str, image_format: str, options: t.Mapping[str, str]) -> None:
        self._write("amend", "-q", "-f", image_format, *_options(options), "--", path, in_place=True)

    def check(
        self, path: str, image_format: str, repair: str | None = None, *, external_data: bool = False
    ) -> CheckResult:
        """The consistency of the metadata; *repair* is leaks or all. Raises QemuImgFailed where it cannot be known.

        Nothing but *path* is opened: no backing file, and, where the image has *external_data*, no data file.
        """
        argv = ["check", "--output=json", *(["-r", repair] if repair else [])]
        alone = image_by_itself(path, image_format, external_data=external_data)
        done = self._run(*argv, "--image-opts", "--", alone, seconds=None, writes=bool(repair), in_place=True)
        if done.returncode not in _CHECK_RESULTS:
            raise self._failure(done)
        found = _parsed(done.stdout) if done.returncode != 63 else {}
        return CheckResult(
            _CHECK_RESULTS[done.returncode],
            found.get("corruptions", 0),
            found.get("leaks", 0),
            found.get("corruptions-fixed", 0),
            found.get("leaks-fixed", 0),
            found.get("check-errors", 0),
        )

    def take_snapshot(self, path: str, name: str | bytes) -> None:
        """An internal snapshot of the qcow2 image at *path*. QEMU takes any name, also one that is taken already."""
        self._snapshot("-c", name, path)

    def delete_snapshot(self, path: str, name: str | bytes) -> None:
        """Deletes the first internal snapshot of that *name* (HAZARDS E1, E2)."""
        self._snapshot("-d", name, path)

    def revert_to_snapshot(self, path: str, identifier: str) -> None:
        """Makes the active layer what the snapshot with that ID holds; QEMU looks for an ID first (HAZARDS E2)."""
        self._snapshot("-a", identifier, path)

    def _snapshot(self, verb: str, name: str | bytes, path: str) -> None:
        """The verb knows no format flag before QEMU 10.1 (HAZARDS E6)."""
        self._write("snapshot", "-q", verb, name, "--image-opts", "--", image_by_itself(path, "qcow2"), in_place=True)

    def _json(self, *arguments: str, seconds: int | None = LOOK_SECONDS) -> t.Any:
        done = self._run(*arguments, seconds=seconds)
        if done.returncode:
            raise self._failure(done)
        return _parsed(done.stdout)

    def _write(self, *arguments: str | bytes, in_place: bool = False, report: Report | None = None) -> None:
        done = self._run(*arguments, seconds=None, writes=True, in_place=in_place, report=report)
        if done.returncode:
            raise self._failure(done)

    def _run(
        self,
        *arguments: str | bytes,
        seconds: int | None,
        writes: bool = False,
        in_place: bool = False,
        report: Report | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs qemu-img to its end.

        A verb that fills a new file dies with us: what it writes is worthless then. One that changes an image *in
        place* is left to finish, whatever happens to us, and keeps the locks of the operation meanwhile.
        *report* is for a verb with ``-p``, that may take as long as it takes.
        """
        argv = [self.executable, *map(os.fsdecode, arguments)]
        try:
            with (
                subprocess.Popen(  # pylint: disable=subprocess-popen-preexec-fn,ansible-bad-function
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "LC_ALL": "C", "LANGUAGE": "C"},
                    pass_fds=self.hold if writes else (),
                    start_new_session=in_place,
                    preexec_fn=_death_with_parent() if writes and not in_place else None,
                ) as process,
                ExitStack() as cut_short,
            ):
                cut_short.callback(process.communicate if in_place else process.kill)
                said, complained = _answer(process, report) if report else process.communicate(timeout=seconds)
                cut_short.pop_all()
            return subprocess.CompletedProcess(argv, process.returncode, said, complained)
        except subprocess.TimeoutExpired as error:
            raise QemuImgFailed(
                f"qemu-img {argv[1]} did not answer within {seconds} s for {_subject(argv)}: is its file system alive?"
            ) from error
        except ValueError as error:  # an embedded NUL byte
            raise QemuImgFailed(f"qemu-img cannot be given {_subject(argv)!r}: {error}") from error

    def _failure(self, done: subprocess.CompletedProcess[bytes]) -> DiskError:
        """The typed error for a failed run; decided by the exit status, worded by the text (HAZARDS C12, I)."""
        verb, path = done.args[1], _subject(done.args)
        said = done.stderr.decode(errors="replace").strip()[-4000:]
        said = re.sub(r"^qemu-img: ", "", _WARNING.sub("", said))
        said = said.replace(done.args[-1], path) if _FILE.match(done.args[-1]) else said
        facts = {"rc": done.returncode, "stderr": said, "command": done.args}
        if _LOCKED.search(said):
            return ImageInUse(f"qemu-img {verb}: an image is open in another process: {said}", in_use_by=[], **facts)
        if done.returncode < 0 or done.returncode >= 128:
            number = abs(done.returncode) & 127
            name = signal.Signals(number).name if number in set(signal.Signals) else str(done.returncode)
            return QemuImgFailed(
                f"qemu-img {verb} was ended by {name} on {path}; the state of what it wrote is unknown. {said}", **facts
            )
        if _NO_SPACE in said:
            return QemuImgFailed(f"qemu-img {verb}: the file system is full: {said}", **facts)
        return QemuImgFailed(f"qemu-img {verb} failed ({done.returncode}): {said}", **facts)


def _answer(process: subprocess.Popen[bytes], report: Report) -> tuple[bytes, bytes]:
    """What *process* says until its end; what it has said of how far it is goes to *report* meanwhile."""
    while True:
        try:
            return process.communicate(timeout=REPORT_SECONDS)
        except subprocess.TimeoutExpired as so_far:
            percents = _PERCENT.findall(so_far.output or b"")
            if percents:
                report(float(percents[-1]))


def _options(options: t.Mapping[str, str]) -> list[str]:
    """One ``-o`` list; a comma in a value is doubled, so that it cannot start another option (HAZARDS C2, C3)."""
    if not options:
        return []
    return ["-o", ",".join(f"{key}={value.replace(',', ',,')}" for key, value in options.items())]


def image_by_itself(path: str, image_format: str, *, external_data: bool = False) -> str:
    """The ``--image-opts`` for the image at *path*, and for no file that it refers to; a comma in *path* is doubled.

    An empty ``backing`` is QEMU's word for none. With *external_data* a device without content stands in for the data
    file.
    """
    data = ",data-file.driver=null-co" if external_data else ""
    return f"driver={image_format},file.filename={path.replace(',', ',,')},backing={data}"


def _subject(argv: t.Sequence[str]) -> str:
    """The image that a command line is about: what follows its ``--``, or the file in such a set of options."""
    found = argv[argv.index("--") + 1] if "--" in argv else argv[-1]
    options = _FILE.match(found)
    return options.group(1).replace(",,", ",") if options else found


def _parsed(output: bytes) -> t.Any:
    if len(output) > _MOST_OUTPUT:
        raise QemuImgFailed(f"qemu-img printed {len(output)} bytes: more than an answer may have")
    try:
        return json.loads(output)
    except ValueError as error:
        raise QemuImgFailed(f"qemu-img printed no JSON: {output[:200]!r}") from error


def _death_with_parent() -> t.Callable[[], object]:
    """For the child: to be killed when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG)."""
    import ctypes  # loaded where something is written, and before the fork

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
