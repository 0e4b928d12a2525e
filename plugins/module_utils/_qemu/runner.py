# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How qemu-img is run: found, under which limits, holding which locks, and what its failures mean."""

from __future__ import annotations

import json
import re
import signal
import typing as t
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass, replace
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, QemuImgFailed
from ansible_collections.kvmops.disk.plugins.module_utils._qemu import process as _process

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._qemu.secrets import Secret

#: Seconds that a look at an image may take; it reads a header, so a longer one means a dead file system.
LOOK_SECONDS = 60
#: What a look at an image that a stranger wrote may cost: reading all tables of 64 TiB takes less.
LOOK_LIMITS = _process.Limits(cpu_seconds=300, address_space=4 << 30, seconds=3600)
#: What work on such an image may: it takes as long as its data needs, which nobody knows beforehand, but goes on.
WORK_LIMITS = _process.Limits(address_space=4 << 30, idle_seconds=600)
NO_LIMITS = _process.Limits()
#: Is told how far a verb is, in percent.
Report = t.Callable[[float], None]

#: Gives the way to change an image of a format in place, for as long as the context lasts. A merge names several.
Writers = t.Callable[[t.Sequence[str], str], AbstractContextManager["Writer"]]

_Self = t.TypeVar("_Self", bound="Runner")
_LOCKED = r'Failed to get (?:shared )?"[^"]*" lock'
_PERCENT = rb"\((\d+\.\d+)/100%\)"
#: Warnings say little of a failure, but for those that say why parts of a dmg image cannot be read.
_WARNING = r"(?m)^qemu-img: warning: (?!.*(?:chunks of unknown type|module is missing)).*\n?"
_FILE = r"driver=[^,]*,file\.filename=((?:[^,]|,,)*)"
_NO_SPACE = "No space left on device"
_NODE = 'json:{"driver": '
#: QEMU measures its key derivation by the CPU time that it takes, and gives up where that clock is too coarse to tell
#: (qcrypto_pbkdf2_count_iters), before it writes anything: another attempt may have better luck.
_COARSE = b"accurate CPU usage"
_ATTEMPTS = 60
_MOST_OUTPUT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Writer:
    """How an image is changed in place.

    *user*: with the rights of that user and group alone, by their numbers; None for ours. *descriptor*: of the image,
    which is opened by that; None where its name leads to it. *below* are its backing file and that one's format, where
    it is opened so.
    """

    user: tuple[int, int] | None = None
    descriptor: int | None = None
    below: tuple[str, str] | None = None

    @property
    def name(self) -> str | None:
        """What a program that has the descriptor, too, calls the image."""
        return None if self.descriptor is None else f"/proc/self/fd/{self.descriptor}"


#: An image is changed by its name, and with our rights.
BY_NAME = Writer()


@dataclass(frozen=True)
class Runner:
    """qemu-img as it is installed on this host.

    *hold* are file descriptors that its writing verbs keep open: the locks of the operation that they serve, so
    that a lock outlives a killed module for as long as its qemu-img still writes. *limited*: it runs under limits.
    *secrets* are those that it knows. *writers* say how images are changed in place, by default by their names and with
    our rights; *user* is with whose rights this one does.
    """

    executable: str
    hold: tuple[int, ...] = ()
    limited: bool = False
    secrets: tuple[Secret, ...] = ()
    writers: Writers | None = None
    user: tuple[int, int] | None = None

    def holding(self: _Self, *descriptors: int) -> _Self:
        return replace(self, hold=tuple(descriptors))

    def writing_by(self: _Self, writers: Writers | None) -> _Self:
        """The same, asking *writers* before it changes an image in place: whatever stands at its name, and whatever it
        refers to by the time when it is opened, nothing is written that was not meant."""
        return replace(self, writers=writers)

    def limiting(self: _Self, limited: bool = True) -> _Self:
        """The same under limits of CPU time and memory, for images that a stranger wrote (HAZARDS F)."""
        return replace(self, limited=limited)

    def knowing(self: _Self, *secrets: Secret) -> _Self:
        """The same, for verbs that name one of *secrets*."""
        return replace(self, secrets=tuple({secret.name: secret for secret in (*self.secrets, *secrets)}.values()))

    def _json(self, *arguments: str, seconds: int | None = LOOK_SECONDS) -> t.Any:
        done = self._run(*arguments, seconds=seconds)
        if done.returncode:
            raise self._failure(done)
        return parsed(done.stdout)

    @contextmanager
    def _writing(self: _Self, image_format: str, *paths: str) -> t.Iterator[tuple[_Self, Writer]]:
        """This one as it changes the image at the first of *paths* in place, with the others, and how it does."""
        with self.writers(paths, image_format) if self.writers else nullcontext(BY_NAME) as writer:
            held = self.hold if writer.descriptor is None else (*self.hold, writer.descriptor)
            yield replace(self, hold=held, user=writer.user), writer

    def _write(self, *arguments: str, in_place: bool = False, report: Report | None = None) -> None:
        for _attempt in range(_ATTEMPTS):
            done = self._run(*arguments, seconds=None, writes=True, in_place=in_place, report=report)
            if not (done.returncode and self.secrets and _COARSE in done.stderr):
                break
        if done.returncode:
            raise self._failure(done)

    def _run(
        self,
        *arguments: str,
        seconds: int | None,
        writes: bool = False,
        in_place: bool = False,
        report: Report | None = None,
    ) -> _process.Done:
        """Runs qemu-img to its end.

        A verb that fills a new file dies with us: what it writes is worthless then. One that changes an image *in
        place* is left to finish, whatever happens to us, and keeps the locks of the operation meanwhile.
        *report* is for a verb with ``-p``, that may take as long as it takes.
        """
        ways = self._ways(writes, in_place)
        argv = [self.executable, arguments[0], *self._definitions(), *arguments[1:]]
        listen = _percents(report) if report else None
        try:
            return _process.run(argv, ways, seconds=seconds, most=_MOST_OUTPUT, listen=listen)
        except _process.TooLong as error:
            limits = ways.limits
            took = (
                f"has neither read nor written anything for {limits.idle_seconds} s"
                if isinstance(error, _process.TooIdle)
                else f"did not answer within {seconds or limits.seconds} s"
            )
            raise QemuImgFailed(
                f"qemu-img {arguments[0]} {took} for {subject(arguments)}, and was ended: is its file system alive?"
            ) from error
        except _process.TooMuch as error:
            raise QemuImgFailed(
                f"qemu-img {arguments[0]} printed more than {_MOST_OUTPUT} bytes for {subject(arguments)}: "
                "more than an answer may have"
            ) from error
        except ValueError as error:  # an embedded NUL byte
            raise QemuImgFailed(f"qemu-img cannot be given {subject(arguments)!r}: {error}") from error

    def _definitions(self) -> list[str]:
        """The options that tell QEMU's tools of the secrets."""
        return [part for secret in self.secrets for part in secret.definition]

    def _ways(self, writes: bool, in_place: bool = False) -> _process.Ways:
        limits = (WORK_LIMITS if writes else LOOK_LIMITS) if self.limited else NO_LIMITS
        inherited = (*(self.hold if writes else ()), *(secret.descriptor for secret in self.secrets))
        return _process.Ways(inherited, in_place, writes and not in_place, limits, self.user)

    def _failure(self, done: _process.Done) -> DiskError:
        """The typed error for a failed run; decided by the exit status, worded by the text (HAZARDS C12, I)."""
        verb, path = done.args[1], subject(done.args)
        said = done.stderr.decode(errors="replace").strip()[-4000:]
        said = re.sub(r"^qemu-img: ", "", re.sub(_WARNING, "", said))
        for argument in done.args[2:]:
            said = said.replace(argument, subject([argument])) if _is_set_of_options(argument) else said
        facts = {"rc": done.returncode, "stderr": said, "command": done.args}
        if re.search(_LOCKED, said):
            return ImageInUse(f"qemu-img {verb}: an image is open in another process: {said}", in_use_by=[], **facts)
        if done.returncode < 0 or done.returncode >= 128:
            number = abs(done.returncode) & 127
            name = signal.Signals(number).name if number in set(signal.Signals) else str(done.returncode)
            if self.limited and number in (signal.SIGXCPU, signal.SIGKILL, signal.SIGABRT):
                return QemuImgFailed(
                    f"qemu-img {verb} was ended by {name} on {path}, which is not trusted: it wanted more time or "
                    f"memory than a sound image needs. {said}",
                    **facts,
                )
            return QemuImgFailed(
                f"qemu-img {verb} was ended by {name} on {path}; the state of what it wrote is unknown. {said}", **facts
            )
        if _NO_SPACE in said:
            return QemuImgFailed(f"qemu-img {verb}: the file system is full: {said}", **facts)
        return QemuImgFailed(f"qemu-img {verb} failed ({done.returncode}): {said}", **facts)


def is_locked_out(done: _process.Done) -> bool:
    """Whether qemu-img could not open an image, since another process has it open."""
    return bool(done.returncode) and re.search(_LOCKED, done.stderr.decode(errors="replace")) is not None


def _percents(report: Report) -> t.Callable[[bytes], None]:
    """Tells *report* the last percentage of what qemu-img has said."""

    def listen(said: bytes) -> None:
        percents = re.findall(_PERCENT, said)
        if percents:
            report(float(percents[-1]))

    return listen


def subject(argv: t.Sequence[str]) -> str:
    """The image that a command line is about: what follows its ``--``, or the file in such a set of options."""
    found = argv[argv.index("--") + 1] if "--" in argv else argv[-1]
    if found.startswith(_NODE):
        return str(json.loads(found[len("json:") :])["file"]["filename"])
    options = re.match(_FILE, found)
    return options.group(1).replace(",,", ",") if options else found


def _is_set_of_options(argument: str) -> bool:
    return argument.startswith(_NODE) or bool(re.match(_FILE, argument))


def parsed(output: bytes) -> t.Any:
    """The JSON that qemu-img printed. Raises QemuImgFailed where it is none."""
    try:
        return json.loads(output)
    except ValueError as error:
        raise QemuImgFailed(f"qemu-img printed no JSON: {output[:200]!r}") from error
