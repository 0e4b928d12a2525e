# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests/tools/demo.py stands on: how it speaks, runs the playbook in the open, and looks at a machine."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
COUNTED = ("ok", "changed", "unreachable", "failed")
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class NotAsClaimed(Exception):
    """The world is not as the demonstration says."""


def claim(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotAsClaimed(otherwise)


def title(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}\n", flush=True)


def row(name: str, value: str) -> None:
    print(f"    {name + ':':32}{value}", flush=True)


@contextlib.contextmanager
def timed(text: str) -> Iterator[None]:
    """Says TEXT, and how long it took."""
    began = time.monotonic()
    yield
    print(f"    {text} {DIM}({time.monotonic() - began:.1f} s){PLAIN}", flush=True)


@dataclass(frozen=True)
class Played:
    """A run of the playbook: the counts of its recap, what it printed, and how many seconds it took."""

    counts: dict[str, int]
    output: str
    seconds: float

    @property
    def changed(self) -> int:
        return self.counts["changed"]

    def said(self, pattern: str) -> str:
        """The first group of PATTERN in its output."""
        found = re.search(pattern, self.output)
        claim(found is not None, f"the playbook does not say {pattern}")
        assert found
        return found[1]


@dataclass(frozen=True)
class Playbook:
    """One of the collection's playbooks, for this host and the libvirt at URI; the names of its variables begin with
    that of its role."""

    path: str
    role: str
    uri: str

    def play(self, *structured: Mapping[str, Any], **variables: str) -> Played:
        """Runs it, in the open; STRUCTURED variables have their whole names."""
        given = {"hosts": "localhost", "uri": self.uri, **variables}
        options = [f"--extra-vars={self.role}_{name}={value}" for name, value in given.items()]
        return _play(self.path, [*options, *(f"--extra-vars={json.dumps(one)}" for one in structured)])

    def play_again(self, *structured: Mapping[str, Any], **variables: str) -> Played:
        """Runs it where all is as it is wanted already."""
        title("The same playbook again has nothing to do")
        again = self.play(*structured, **variables)
        claim(again.changed == 0, f"the second run changed {again.changed} things")
        return again


def _play(playbook: str, options: list[str]) -> Played:
    print(" \\\n      ".join([f"  $ ansible-playbook {playbook}", *map(shlex.quote, options)]), flush=True)
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_INVENTORY": "/dev/null",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONUNBUFFERED": "1",  # what is printed is to be seen at once
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), playbook, *options]
    began = time.monotonic()
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            print(f"  {line}", end="", flush=True)
            lines.append(line)
    output = "".join(lines)
    claim(process.returncode == 0, f"ansible-playbook ended with {process.returncode}")
    recap = re.search(r"^localhost +: (.+)$", output, re.MULTILINE)
    found = dict(re.findall(r"(\w+)=(\d+)", recap[1])) if recap else {}
    claim(all(name in found for name in COUNTED), "the playbook acted on no host")
    return Played({name: int(found[name]) for name in COUNTED}, output, time.monotonic() - began)


def occupied(path: Path) -> int:
    """The bytes that the file takes on its file system."""
    return path.stat().st_blocks * 512


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def definition(uri: str, name: str = "web") -> str:
    """The XML with which the machine is started next."""
    virsh = ["virsh", "--connect", uri, "dumpxml", "--inactive", name]
    return subprocess.run(virsh, check=True, stdout=subprocess.PIPE, text=True).stdout


def disk_of(xml: str) -> tuple[str, str]:
    """The format and the path of the machine's only disk."""
    disk = ElementTree.fromstring(xml).find("devices/disk")
    driver, source = (disk.find(name) if disk is not None else None for name in ("driver", "source"))
    return (
        "" if driver is None else driver.get("type", ""),
        "" if source is None else source.get("file", ""),
    )


def difference(before: str, after: str) -> list[str]:
    """The changed lines of two XML texts, each with those around it."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]
