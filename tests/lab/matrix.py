# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same tests on several Debian releases: `python -m lab.matrix bookworm trixie forky [-- PYTEST-ARGUMENTS]`.

The host's own release runs on the host; the others run in a root of their own (lab.root), with their own QEMU, libvirt,
Python and ansible-core, and with this checkout bound read-only at its own path.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from lab.cache import cache_key, cache_root, locked
from lab.namespaces import ENVIRONMENT, LabError, Mount
from lab.pip_settings import pip_environment, pip_mounts
from lab.root import ReleaseRoot

CHECKOUT = Path(__file__).resolve().parents[2]
DEFAULT_TESTS = ("tests/lab", "tests/integration", "tests/faults")
CACHE = "/var/cache/kvmops-lab"
VENV = "/opt/kvmops-venv"
# What pyproject.toml's settings of pytest and the tests ask for; ansible-core as new as the release's Python takes it.
REQUIREMENTS = ("ansible-core", "pytest>=9.2", "pytest-timeout", "pytest-xdist", "hypothesis", "dissect.hypervisor")
COMPLETE = f"{VENV}/complete-{cache_key(*REQUIREMENTS)}"


@dataclass(frozen=True)
class Outcome:
    """What one release did."""

    release: str
    qemu: str
    libvirt: str
    python: str
    core: str
    passed: int
    failed: int
    skipped: int

    def row(self) -> tuple[str, ...]:
        versions = (self.release, self.qemu, self.libvirt, self.python, self.core)
        return (*versions, str(self.passed), str(self.failed), str(self.skipped))


class HostRelease:
    """The release of this host, which needs no root."""

    python = sys.executable

    def run(self, argv: Sequence[str | Path], results: Path, capture: bool = False) -> str:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")}
        return _run([str(word) for word in argv], environment, capture)


class OtherRelease:
    """A release in a root of its own."""

    python = f"{VENV}/bin/python"

    def __init__(self, suite: str) -> None:
        self._root = ReleaseRoot(suite)
        with locked(f"venv-{suite}"):
            if not (self._root.path / COMPLETE.lstrip("/")).exists():
                self._make_venv()

    def run(self, argv: Sequence[str | Path], results: Path, capture: bool = False) -> str:
        temporary = results / "tmp"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o1777)
        mounts = [
            # On the disk of the host, whose file system knows allocated from written, and not on a tmpfs.
            Mount.bind(temporary, "/tmp"),
            Mount.bind(CHECKOUT, CHECKOUT, make_target=True, read_only=True),
            Mount.bind(results, results, make_target=True),
            Mount.bind(cache_root(), CACHE, make_target=True),
            *(Mount.bind(device, device, make_target=True) for device in sorted(Path("/dev").glob("loop*"))),
        ]
        environment = {
            **ENVIRONMENT,
            "KVMOPS_LAB_CACHE": CACHE,
            "PYTHONPATH": str(CHECKOUT / "tests"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return _run(self._root.command(["env", "-C", CHECKOUT, *argv], mounts), environment, capture)

    def _make_venv(self) -> None:
        script = (
            f"rm -rf {VENV} && python3 -m venv --system-site-packages {VENV}"
            f' && {VENV}/bin/pip install -q "$@" && touch {COMPLETE}'
        )
        command = self._root.command(["sh", "-c", script, "sh", *REQUIREMENTS], pip_mounts())
        made = subprocess.run(command, env={**ENVIRONMENT, **pip_environment()}, stdin=subprocess.DEVNULL, check=False)
        if made.returncode:
            raise LabError(f"{self._root.suite}: the Python environment could not be made")


def run_tests(suite: str, pytest_arguments: Sequence[str]) -> Outcome:
    """Runs pytest on release SUITE; its output goes to the terminal."""
    host = platform.freedesktop_os_release().get("VERSION_CODENAME")
    release = HostRelease() if suite == host else OtherRelease(suite)
    with tempfile.TemporaryDirectory(prefix="kvmops-matrix-") as directory:
        results = Path(directory)
        report = results / "report.xml"
        options = ["-o", f"cache_dir={results}/cache", f"--junitxml={report}"]
        release.run([release.python, "-m", "pytest", *options, *pytest_arguments], results)
        passed, failed, skipped = _counts(report)
        ask = 'qemu-img --version; libvirtd --version; "$0" --version'
        versions = release.run(["sh", "-c", ask, release.python], results, capture=True)
        core = release.run([release.python, "-m", "pip", "show", "ansible-core"], results, capture=True)
    return Outcome(
        release=suite,
        qemu=_version(r"qemu-img version (\S+)", versions),
        libvirt=_version(r"libvirt\) (\S+)", versions),
        python=_version(r"Python (\S+)", versions),
        core=_version(r"Version: (\S+)", core),
        passed=passed,
        failed=failed,
        skipped=skipped,
    )


def main() -> int:
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    suites, pytest_arguments = words[:split], words[split + 1 :]
    if not suites:
        print(__doc__, file=sys.stderr)
        return 2
    if not pytest_arguments:
        pytest_arguments = [name for name in DEFAULT_TESTS if (CHECKOUT / name).exists()]
    outcomes = []
    for suite in suites:
        print(f"== {suite}", flush=True)
        outcomes.append(run_tests(suite, pytest_arguments))
    header = ("release", "QEMU", "libvirt", "Python", "ansible-core", "passed", "failed", "skipped")
    print(_table([header, *(outcome.row() for outcome in outcomes)]))
    return int(any(outcome.failed or not outcome.passed for outcome in outcomes))


def _run(command: list[str], environment: dict[str, str], capture: bool) -> str:
    done = subprocess.run(
        command,
        env=environment,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    return done.stdout or ""


def _counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed, skipped; a run that left no report counts as one failure."""
    if not report.exists():
        return 0, 1, 0
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).iter("testsuite"):
        for name in totals:
            totals[name] += int(suite.get(name, 0))
    failed = totals["failures"] + totals["errors"]
    return totals["tests"] - failed - totals["skipped"], failed, totals["skipped"]


def _version(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found.group(1) if found else "?"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
