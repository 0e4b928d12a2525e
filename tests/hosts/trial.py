# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tries playbooks on a machine: run, run again, restarted from what they made, and with the power cut."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hosts.chapters import Chapter, Playbook
from hosts.cuts import instants
from hosts.denials import Denials, denials
from hosts.machine import Machine
from hosts.play import Played, play
from hosts.rest import CONTROL, Made, Restarted, faults
from hosts.table import Row

_ON_HOST = Path(__file__).parent / "on_host"
Tell = Callable[[str], None]


def _script(name: str) -> str:
    return (_ON_HOST / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Choice:
    """Which playbooks are tried, all without names, and how many power cuts each has to survive."""

    playbooks: tuple[str, ...]
    cuts: int
    seed: int

    def has(self, playbook: Playbook) -> bool:
        return not self.playbooks or playbook.name in self.playbooks


class Trial:
    """Tries playbooks on MACHINE; OUTPUT takes their logs, and TELL what is being done."""

    def __init__(self, machine: Machine, output: Path, choice: Choice, tell: Tell) -> None:
        self._machine = machine
        self._output = output
        self._choice = choice
        self._tell = tell
        self._libvirt: tuple[int, int] | None = None

    def rows(self, chapter: Chapter) -> Iterator[Row]:
        """A row for each chosen playbook of the chapter, once it has been tried."""
        reasons = [self._cannot(playbook) for playbook in chapter.playbooks]
        made = None if all(reasons) else self._set_scene(chapter, chapter.running)
        failed = ""
        for playbook, reason in zip(chapter.playbooks, reasons, strict=True):
            row = Row(self._machine.name, playbook.name, not_run=reason or failed)
            if not row.not_run:
                row = self._try(chapter, playbook, made, row)
            if row.faults:
                failed = f"it follows {playbook.name}"
            if self._choice.has(playbook):
                yield row

    def _try(self, chapter: Chapter, playbook: Playbook, made: Made | None, row: Row) -> Row:
        since = self._now()
        first = self._play(playbook, "first")
        if not first.is_done:
            return replace(row, faults=(f"failed: see {self._log(playbook, 'first')}",))
        again = self._play(playbook, "second")
        wrong = [] if first.changed else ["the first run changed nothing"]
        if not again.is_done:
            wrong.append(f"the second run failed: see {self._log(playbook, 'second')}")
        if made:
            running = chapter.running if playbook != chapter.playbooks[-1] else ()
            wrong += faults(made, self._restarted(running), chapter.private)
        else:
            wrong += self._services()
        denied = self._denials(since, playbook)
        wrong += denied.enforced
        row = replace(row, changed=first.changed, again=again.changed, denials=len(denied.enforced), faults=(*wrong,))
        if made and row.is_good and playbook.can_be_cut and self._choice.has(playbook):
            row = self._cut(chapter, playbook, first.seconds, row)
        return row

    def _cut(self, chapter: Chapter, playbook: Playbook, seconds: float, row: Row) -> Row:
        """The row, with the cuts that the playbook has survived; one run of it takes so many SECONDS."""
        fractions = instants(self._choice.seed, self._machine.name, playbook.name, self._choice.cuts)
        row = replace(row, cuts=len(fractions))
        for fraction in fractions:
            wrong = self._survive(chapter, playbook, fraction, fraction * seconds)
            outcome = "not survived: " + "; ".join(wrong) if wrong else "survived"
            self._tell(f"{playbook.name}: the cut at {fraction:.3f} was {outcome}")
            row = replace(
                row,
                survived=row.survived + (not wrong),
                faults=(*row.faults, *(f"cut at {fraction:.3f}: {one}" for one in wrong)),
            )
        return row

    def _survive(self, chapter: Chapter, playbook: Playbook, fraction: float, seconds: float) -> list[str]:
        """What is wrong after the power was cut SECONDS after the playbook's begin, or when it was through."""
        # libvirt forgets at a boot whose the files of a running machine were: the control has to show that, too.
        made = self._set_scene(chapter, (*chapter.running, CONTROL) if chapter.running else ())
        assert made, "what is cut has a scene"
        for earlier in chapter.playbooks[: chapter.playbooks.index(playbook)]:
            self._play(earlier, "before")
        self._machine.run("sync")
        self._tell(f"{playbook.name}: the power will be cut at {fraction:.3f} of it")
        is_through = self._play(playbook, "cut", None if fraction == 1.0 else self._cutter(seconds)).is_done
        self._machine.cut()
        self._machine.boot()
        converged = self._play(playbook, "rerun")
        if not converged.is_done:
            return [f"the next run failed: see {self._keep(playbook, 'rerun', fraction)}"]
        third = self._play(playbook, "third")
        wrong = [] if third.is_done and not third.changed else ["the third run changed something"]
        if is_through and converged.changed > len(chapter.running):
            wrong.append("what had been reported as done was not there")
        return wrong + faults(made, self._restarted(), chapter.private)

    def _cutter(self, seconds: float) -> Callable[[subprocess.Popen[bytes]], None]:
        def cut(process: subprocess.Popen[bytes]) -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            self._machine.cut()
            process.terminate()

        return cut

    def _set_scene(self, chapter: Chapter, running: Sequence[str]) -> Made | None:
        """Makes the machines of the chapter, of which those of RUNNING run; None where it has none."""
        if not chapter.scene:
            return None
        self._tell(f"sets the scene of {chapter.playbooks[0].name}")
        self._machine.run(f"{_script('scene.sh')}\n{chapter.scene}\n")
        made = Made.read(self._survey("made", running))
        for playbook in chapter.prepared_by:
            self._play(playbook, "before")
        self._machine.run("sync")
        return made

    def _restarted(self, running: Sequence[str] = ()) -> Restarted:
        """The host with each machine started from its disk; those of RUNNING run afterwards, and no others."""
        self._tell("starts each machine from its disk, and looks at whose the files are")
        return Restarted.read(self._survey("restarted", running))

    def _survey(self, what: str, running: Sequence[str]) -> dict[str, Any]:
        printed: dict[str, Any] = json.loads(
            self._machine.run(_script("survey.py"), what, *running, interpreter="python3 -")
        )
        return printed

    def _services(self) -> list[str]:
        """What is wrong with the services of a hypervisor that a playbook has made."""
        asked = "for word in is-active is-enabled; do systemctl $word libvirtd.socket || true; done; virsh list >&2"
        said = self._machine.run(asked).split()
        return [] if said == ["active", "enabled"] else [f"libvirtd.socket is {' and '.join(said)}"]

    def _cannot(self, playbook: Playbook) -> str:
        """Why the playbook cannot be run on this host; empty where it can."""
        if playbook.since == (0, 0):
            return ""
        if self._libvirt is None:
            printed = self._machine.run("libvirtd --version").split()[-1]
            major, minor = (int(part) for part in printed.split(".")[:2])
            self._libvirt = (major, minor)
        major, minor = self._libvirt
        return "" if self._libvirt >= playbook.since else f"libvirt {major}.{minor} cannot do it"

    def _play(
        self,
        playbook: Playbook,
        when: str,
        meanwhile: Callable[[subprocess.Popen[bytes]], None] | None = None,
    ) -> Played:
        self._tell(f"{playbook.name}: {when} run")
        return play(self._machine, playbook.path, self._log(playbook, when), meanwhile)

    def _log(self, playbook: Playbook, when: str) -> Path:
        return self._output / f"{playbook.name}.{when}.log"

    def _keep(self, playbook: Playbook, when: str, fraction: float) -> Path:
        """The log under a name that no later cut takes."""
        return self._log(playbook, when).rename(self._log(playbook, f"{when}-{fraction:.3f}"))

    def _now(self) -> str:
        """Where the journal ends."""
        return self._machine.run("journalctl --lines=0 --show-cursor").split("-- cursor: ")[-1].strip()

    def _denials(self, since: str, playbook: Playbook) -> Denials:
        journal = self._machine.run(f"journalctl --output=cat --after-cursor='{since}'")
        self._log(playbook, "journal").write_text(journal, encoding="utf-8")
        found = denials(journal)
        if found.permitted:
            self._tell(
                f"{playbook.name}: {len(found.permitted)} times the policy would have denied what it lets libvirtd do"
            )
        return found
