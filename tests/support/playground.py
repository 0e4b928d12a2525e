# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks that run beside a test, with what Ansible leaves on a target in directories of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from lab import Hypervisor
from support.waits import wait_for

ROOT = Path(__file__).resolve().parents[2]
MODULE = "kvmops.disk.vm_disk_convert"
LINE = re.compile(
    r"^\[(?P<host>[\w.]+)\] (?P<subject>\S+ \w+): "
    r"(?P<verb>convert|compare|copy|merge|pull|rebase) (?P<percent>\d+) % of (?P<rest>.*)$"
)
#: Mebibytes of data: ten times what qemu-img copies at once, so that it says how far it is that often.
LARGE_MIB = 20


class Run:
    """A running ansible-playbook."""

    def __init__(self, process: subprocess.Popen[str], output: Path, registered: Path) -> None:
        self.process = process
        self._output = output
        self._registered = registered

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait(self) -> Run:
        try:
            wait_for(lambda: self.process.poll() is not None, "the end of the playbook")
        except AssertionError:
            self.process.kill()
            raise AssertionError(f"it does not end: {self.output}") from None
        return self

    def wait_for(self, pattern: str) -> None:
        """Waits until a line of its output has PATTERN."""
        wait_for(
            lambda: re.search(pattern, self.output) or self.process.poll() is not None, f"{pattern!r} in its output"
        )
        assert re.search(pattern, self.output), f"it ended before it said {pattern!r}: {self.output}"

    def lines(self) -> list[re.Match[str]]:
        """What it printed of how far it is."""
        return [found for line in self.output.splitlines() if (found := LINE.match(line))]

    def result(self, name: str) -> dict[str, Any]:
        found = json.loads(self._registered.read_text(encoding="utf-8"))[name]
        assert isinstance(found, dict)
        return found


class Playground:
    """Plays on this machine, or on HOSTS; what Ansible leaves on a target is in directories of the test's own."""

    def __init__(self, hv: Hypervisor, directory: Path, prefix: Sequence[str] = ()) -> None:
        self.hv = hv
        self.directory = directory
        self.prefix = prefix
        self.async_dir = directory / "async"
        self.remote_tmp = directory / "remote"
        for path in (self.async_dir, self.remote_tmp):
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)
        self.hosts = f"here ansible_connection=local ansible_python_interpreter={sys.executable}\n"

    def start(self, *tasks: dict[str, Any], options: Sequence[str] = (), **play: Any) -> Run:
        """Plays TASKS; what they register is kept for Run.result()."""
        registered = self.directory / "registered.json"
        names = [name for task in tasks if (name := task.get("register"))]
        results = "".join(f"{name!r}: {name}, " for name in names)
        copied = {"content": f"{{{{ {{{results}}} | to_json }}}}", "dest": str(registered)}
        here = {"delegate_to": "here", "become": False, "check_mode": False, "diff": False}
        keep = [{"ansible.builtin.copy": copied, **here}] if names else []
        defaults = {"group/kvmops.disk.all": {"uri": self.hv.uri}}
        whole = {"hosts": "all", "gather_facts": False, "module_defaults": defaults, "tasks": [*tasks, *keep], **play}
        (self.directory / "play.yml").write_text(json.dumps([whole]), encoding="utf-8")
        (self.directory / "hosts").write_text(self.hosts, encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_ASYNC_DIR": str(self.async_dir),
            "ANSIBLE_REMOTE_TMP": str(self.remote_tmp),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.directory / "cp"),
            # ansible-core 2.21 leaves it to Python when what goes to a file is written.
            "PYTHONUNBUFFERED": "1",
        }
        playbook = [str(Path(sys.executable).with_name("ansible-playbook")), str(self.directory / "play.yml")]
        output = self.directory / "output"
        with open(output, "w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                [*self.prefix, *playbook, "--inventory", str(self.directory / "hosts"), *options],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return Run(process, output, registered)

    def play(self, *tasks: dict[str, Any], **options: Any) -> Run:
        run = self.start(*tasks, **options).wait()
        assert run.process.returncode == 0, run.output
        return run

    def module(self) -> int:
        """The process of the module that runs."""
        (progress,) = self.async_dir.glob("kvmops-*")
        return int(json.loads(progress.read_text(encoding="utf-8"))["pid"])

    def left(self) -> list[str]:
        """The files of Ansible on the target that are still there."""
        found = []
        for directory in (self.async_dir, self.remote_tmp):
            found += [str(path) for path in directory.rglob("*")]
        return found


class MakeWeb(Protocol):
    """Defines a domain on a raw disk; with RUNNING it is started, with LARGE its conversion can be held."""

    def __call__(self, *, large: bool = False, running: bool = False) -> str: ...


def conversion(name: str, **more: Any) -> dict[str, Any]:
    """A task; keywords of the task are those in capitals."""
    keywords = {key.lower(): more.pop(key) for key in list(more) if key.isupper()}
    return {MODULE: {"name": name, "disk": "vda", **more}, **keywords}


def percents(run: Run, host: str, verb: str) -> list[int]:
    return [int(line["percent"]) for line in run.lines() if line["host"] == host and line["verb"] == verb]
