# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages, downloaded by name and unpacked (not installed) into the cache."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from lab.cache import cache_key, cache_root, cached, locked


class PackageError(RuntimeError):
    """apt does not know a package, or could not fetch it."""


LISTS = Path("/var/lib/apt/lists")


def _ask_apt(name: str) -> str:
    shown = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    return shown.stdout if shown.returncode == 0 else ""


def _show(name: str) -> str:
    """apt's record of a package, kept until apt's lists change: asking apt takes half a second."""
    lists = LISTS.stat().st_mtime_ns if LISTS.exists() else 0
    kept = cache_root() / "records" / cache_key(f"{lists}") / name
    if kept.exists():
        return kept.read_text(encoding="utf-8")
    text = _ask_apt(name)
    if text:
        kept.parent.mkdir(parents=True, exist_ok=True)
        staged = kept.with_name(f".{name}-{os.getpid()}")
        staged.write_text(text, encoding="utf-8")
        staged.rename(kept)
    return text


@functools.cache
def _record(name: str) -> dict[str, str]:
    text = _show(name)
    if not text and os.geteuid() == 0:
        with locked("apt-update"):
            subprocess.run(["apt-get", "update", "-qq"], check=False)
        text = _show(name)
    if not text:
        raise PackageError(f"{name}: apt knows no such package: run `apt-get update`, or add the package's source")
    pairs = (line.partition(": ") for line in text.splitlines() if not line.startswith(" "))
    return {field: value for field, _colon, value in pairs}


def version(name: str) -> str:
    """The candidate version of package NAME."""
    return _record(name)["Version"]


def dependencies(name: str) -> list[str]:
    """The names that package NAME depends on; of alternatives, the first."""
    return [item.split("|")[0].split("(")[0].strip() for item in _record(name).get("Depends", "").split(",")]


def unpacked(name: str) -> Path:
    """The tree of package NAME in its candidate version."""

    def build(tree: Path) -> None:
        # apt's own user may not write here; apt would warn and go on as root.
        fetched = subprocess.run(
            ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        packages = list(tree.glob("*.deb"))
        if fetched.returncode or len(packages) != 1:
            raise PackageError(f"{name}: apt-get download failed: {fetched.stderr.strip()}")
        subprocess.run(["dpkg-deb", "-x", packages[0], tree], check=True)
        packages[0].unlink()

    return cached("packages", f"{name}-{cache_key(version(name))}", build)
