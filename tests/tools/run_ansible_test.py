# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs ansible-test on a copy of the work tree, with everything that it caches in .cache.

    python tests/tools/run_ansible_test.py sanity [OPTION, TEST OR PATH…]
    python tests/tools/with_hypervisor.py python tests/tools/run_ansible_test.py integration [OPTION OR TARGET…]

ansible-test wants two things that a fresh machine may not give: a get-pip.py from its own download site (the
stand-in get_pip.py is put where its cache would be), and pip's settings from files, because it withholds the
environment from pip (they are written to the pip.conf of its home).
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from ansible_test._internal.host_configs import NativePythonConfig
from ansible_test._internal.python_requirements import get_venv_packages
from collection_copy import ROOT, refresh_copy
from interpreters import search_path

HOME = ROOT / ".cache" / os.environ.get("KVMOPS_COPY", "") / "home"
#: The oldest that a host may have, beside the one that this runs with. `make test-matrix` tries all that there are.
OLDEST = "3.9.*"
STAND_IN = Path(__file__).with_name("get_pip.py")
WHEELS = ROOT / ".cache" / "pip"


def main() -> None:
    command, *options = sys.argv[1:]
    prepare_home()
    environment = dict(os.environ, HOME=str(HOME), PATH=search_path(os.environ.get("KVMOPS_PYTHONS", OLDEST)))
    environment.pop("ANSIBLE_CONFIG", None)
    copy = refresh_copy()
    argv = ["ansible-test", command, "--local", "--color", "no", *options]
    if command == "integration":
        write_integration_config(copy / "tests" / "integration" / "integration_config.yml")
        sys.exit(run_targets(argv, copy, environment))
    os.chdir(copy)
    os.execvpe(argv[0], argv, environment)


def run_targets(argv: list[str], copy: Path, environment: dict[str, str]) -> int:
    """The exit status: ansible-test's own, or 1 when it left out targets without saying so by its status."""
    wanted = subprocess.run([*argv, "--list-targets"], cwd=copy, env=environment, check=False, stdout=subprocess.PIPE)
    passed = 0
    with subprocess.Popen(argv, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout or ():
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            passed += bool(re.match(rb"Running \S+ integration test ", line))
    if process.returncode:
        return process.returncode
    expected = len(wanted.stdout.split())
    print(f"{passed} integration targets passed, {expected - passed} left out")
    return 0 if passed == expected > 0 else 1


def write_integration_config(target: Path) -> None:
    """The hypervisor that with_hypervisor.py speaks of, as variables of the targets: lab_uri, lab_images, …"""
    variables = {name.lower(): value for name, value in os.environ.items() if name.startswith("LAB_")}
    target.write_text(json.dumps(variables), encoding="utf-8")


def prepare_home() -> None:
    """A home for ansible-test: its caches, the stand-in for get-pip.py, pip's settings and pip's cache."""
    downloads = HOME / ".ansible" / "test" / "cache"
    downloads.mkdir(parents=True, exist_ok=True)
    packages = bootstrap_packages()
    download_wheels(packages)
    for name, version in packages:
        if name == "pip":
            link_to(STAND_IN, downloads / f"get_pip_{version.replace('.', '_')}.py")
    write_pip_settings(HOME / ".config" / "pip" / "pip.conf")
    pip_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pip"
    (HOME / ".cache").mkdir(exist_ok=True)
    link_to(pip_cache, HOME / ".cache" / "pip")


def bootstrap_packages() -> set[tuple[str, str]]:
    """What this ansible-test begins its virtual environments with: ("pip", "24.2")."""
    pythons = [NativePythonConfig(version=f"3.{minor}") for minor in range(7, 16)]
    return {package for python in pythons for package in get_venv_packages(python).items()}


def download_wheels(packages: set[tuple[str, str]]) -> None:
    """Has the wheels of PACKAGES where the stand-in for get-pip.py looks for them."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    missing = [f"{name}=={version}" for name, version in packages if not any(WHEELS.glob(f"{name}-{version}-*.whl"))]
    if missing:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--only-binary", ":all:", "--dest", str(WHEELS), *missing], check=True)


def link_to(target: Path, link: Path) -> None:
    if not link.is_symlink():
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def write_pip_settings(target: Path) -> None:
    """The user's pip.conf, and over it the PIP_… variables, proxies and certificates of the environment."""
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    settings = configparser.RawConfigParser()
    settings.read([home / ".pip" / "pip.conf", config / "pip" / "pip.conf", os.environ.get("PIP_CONFIG_FILE", "")])
    if not settings.has_section("global"):
        settings.add_section("global")
    for name, value in settings_from_environment().items():
        settings.set("global", name, value)
    # What is never imported needs no bytecode.
    if not settings.has_section("install"):
        settings.add_section("install")
    settings.set("install", "compile", "no")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o600)
        settings.write(stream)


def settings_from_environment() -> dict[str, str]:
    found = {}
    for variable, name in (("HTTPS_PROXY", "proxy"), ("https_proxy", "proxy"), ("SSL_CERT_FILE", "cert")):
        if os.environ.get(variable):
            found[name] = os.environ[variable]
    for variable, value in os.environ.items():
        if variable.startswith("PIP_") and variable != "PIP_CONFIG_FILE":
            found[variable[len("PIP_") :].lower().replace("_", "-")] = value
    return found


if __name__ == "__main__":
    main()
