# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests/tools/demo.py stands on: how it speaks, runs the playbook in the open, and looks at a machine."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = "playbooks/convert_disks.yml"
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


def play(uri: str, **variables: str) -> Played:
    """Runs the playbook for the machine `web`, in the open."""
    given = {"hosts": "localhost", "uri": uri, "domains": "web", **variables}
    options = [f"--extra-vars=disk_convert_{name}={value}" for name, value in given.items()]
    print(" \\\n      ".join([f"  $ ansible-playbook {PLAYBOOK}", *map(shlex.quote, options)]), flush=True)
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_INVENTORY": "/dev/null",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONUNBUFFERED": "1",  # what is printed is to be seen at once
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), PLAYBOOK, *options]
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


def definition(uri: str) -> str:
    """The XML with which the machine is started next."""
    virsh = ["virsh", "--connect", uri, "dumpxml", "--inactive", "web"]
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
