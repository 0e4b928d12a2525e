# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the collection at work: a machine on a raw disk, converted by playbooks/convert_disks.yml, on its qcow2 disk.

    python tests/tools/demo.py

Needs root, for the private hypervisor of tests/lab. Everything that is said is measured; what is not as it should be
ends the demonstration with an error.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
sys.path.insert(0, str(TESTS))

from lab import Disk, Guest, Hypervisor, build_boot_disk  # noqa: E402 - found by the line above

DISK_MIB = 256
DATA_MIB = 100
PLAYBOOK = "playbooks/convert_disks.yml"
COUNTED = ("ok", "changed", "unreachable", "failed")
BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class NotAsClaimed(Exception):
    """The world is not as the demonstration says."""


def main() -> None:
    began = time.monotonic()
    # Short, for the sockets in it; every user may traverse it, for QEMU's.
    with tempfile.TemporaryDirectory(prefix="kvmops-", dir="/tmp") as base:
        Path(base).chmod(0o711)
        with Hypervisor(Path(base), "demo") as hypervisor:
            Demonstration(hypervisor).run()
    claim(not Path(base).exists(), f"{base}: is still there")
    print(f"\n{BOLD}All as claimed{PLAIN}, in {time.monotonic() - began:.0f} s; the hypervisor and its files are gone.")


class Demonstration:
    """The machine `web` and what happens to it."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.raw = hypervisor.images / "web.raw"
        self.qcow2 = hypervisor.images / "web.qcow2"
        self.guest = Guest(hypervisor, "web")

    def run(self) -> None:
        self.boot_from_raw()
        written = self.write_in_guest()
        before = self.definition()
        size_before = occupied(self.raw)

        title(f"{PLAYBOOK} converts its disk")
        started = time.monotonic()
        counts, output = self.play()
        took = time.monotonic() - started
        claim(counts["changed"] == 1, f"the first run changed {counts['changed']} things, not 1")

        self.check_boots_from_qcow2(written)

        title("The same playbook again has nothing to do")
        counts, _output = self.play()
        claim(counts["changed"] == 0, f"the second run changed {counts['changed']} things")

        after = self.definition()
        self.require_nothing_else_changed(before, after)
        claim(self.raw.exists(), f"{self.raw}: is gone, though it was to be kept")
        title("What happened")
        row("disk, as the guest sees it", f"{DISK_MIB} MiB")
        row("space it takes", f"{mib(size_before)} as raw, {mib(occupied(self.qcow2))} as qcow2")
        row("the playbook", f"{took:.1f} s")
        row("the machine was off", f"{downtime_in(output):.1f} s")
        row("the second run", "changed=0")
        row("the old disk", "kept")
        print("\nThe machine's definition, before and after:\n")
        for line in difference(before, after):
            print(f"    {line}")

    def boot_from_raw(self) -> None:
        title("A machine boots from a raw disk")
        with timed(f"a raw disk of {DISK_MIB} MiB, all of it allocated, with Linux and {DATA_MIB} MiB of data"):
            build_boot_disk(self.raw, DISK_MIB, DATA_MIB, seed="demo")
            with open(self.raw, "r+b") as disk:
                os.posix_fallocate(disk.fileno(), 0, DISK_MIB << 20)
        with timed("the machine boots from it"):
            self.hypervisor.boot(self.hypervisor.domain_xml("web", [Disk(self.raw)], kernel=False))

    def write_in_guest(self) -> str:
        """Has the guest write to its disk as it runs; returns the checksum of that."""
        with timed("its guest writes 8 MiB more, and syncs"):
            self.guest.must("pattern /data/written-by-guest 8 guest && sync", timeout=60)
        return self.guest.must("sha256sum /data/written-by-guest").split()[0]

    def play(self) -> tuple[dict[str, int], str]:
        """Runs the playbook in the open; returns the counts of its recap, and its output."""
        variables = {
            "disk_convert_hosts": "localhost",
            "disk_convert_uri": self.hypervisor.uri,
            "disk_convert_domains": "web",
        }
        options = [f"--extra-vars={name}={value}" for name, value in variables.items()]
        print(" \\\n      ".join([f"  $ ansible-playbook {PLAYBOOK}", *map(shlex.quote, options)]), flush=True)
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_INVENTORY": "/dev/null",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [str(Path(sys.executable).with_name("ansible-playbook")), PLAYBOOK, *options]
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
        return {name: int(found[name]) for name in COUNTED}, output

    def check_boots_from_qcow2(self, written: str) -> None:
        title("The machine runs from its qcow2 disk")
        with timed("it boots from it"):
            self.guest.wait_ready()
        self.require_live_disk()
        with timed("its guest checks its own data"):
            said = self.guest.must("cd /data && sha256sum -c SHA256SUMS", timeout=120)
        for line in said.splitlines():
            print(f"      {line}")
        found = self.guest.must("sha256sum /data/written-by-guest", timeout=60).split()[0]
        claim(found == written, f"written-by-guest has the checksum {found}, had {written}")
        print("      written-by-guest: as it was written before the conversion")

    def require_live_disk(self) -> None:
        with contextlib.closing(self.hypervisor.connect()) as connection:
            live = disk_of(connection.lookupByName("web").XMLDesc())
        claim(live == ("qcow2", str(self.qcow2)), f"the machine runs from {live}")
        info = ["qemu-img", "info", "--force-share", "--output=json", str(self.qcow2)]
        image = json.loads(subprocess.run(info, check=True, stdout=subprocess.PIPE).stdout)
        claim(image["format"] == "qcow2", f"{self.qcow2}: is {image['format']}")
        claim(image["virtual-size"] == DISK_MIB << 20, f"{self.qcow2}: has {image['virtual-size']} bytes for the guest")

    def require_nothing_else_changed(self, before: str, after: str) -> None:
        expected = before.replace("type='raw'", "type='qcow2'").replace(str(self.raw), str(self.qcow2))
        claim(after == expected, "\n".join(difference(expected, after)))

    def definition(self) -> str:
        """The XML with which the machine is started next."""
        virsh = ["virsh", "--connect", self.hypervisor.uri, "dumpxml", "--inactive", "web"]
        return subprocess.run(virsh, check=True, stdout=subprocess.PIPE, text=True).stdout


def claim(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotAsClaimed(otherwise)


def title(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}\n", flush=True)


def row(name: str, value: str) -> None:
    print(f"    {name + ':':30}{value}")


@contextlib.contextmanager
def timed(text: str) -> Iterator[None]:
    """Says TEXT, and how long it took."""
    began = time.monotonic()
    yield
    print(f"    {text} {DIM}({time.monotonic() - began:.1f} s){PLAIN}", flush=True)


def occupied(path: Path) -> int:
    """The bytes that the file takes on its file system."""
    return path.stat().st_blocks * 512


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def downtime_in(output: str) -> float:
    """How long the machine was off, as the playbook tells it."""
    found = re.search(r"was off for ([0-9.]+) seconds", output)
    claim(found is not None, "the playbook does not say how long the machine was off")
    assert found
    return float(found[1])


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


if __name__ == "__main__":
    try:
        main()
    except NotAsClaimed as problem:
        sys.exit(f"not as claimed: {problem}")
