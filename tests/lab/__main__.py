# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab on the command line: `python -m lab up NAME`. A hypervisor made here runs until `down NAME`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import libvirt

from lab import sshd
from lab.boot_disk import build_boot_disk
from lab.domain import Disk
from lab.guest import Guest, GuestError
from lab.hypervisor import Hypervisor
from lab.namespaces import LabError
from lab.root import ReleaseRoot
from lab.session import SessionHypervisor


def base() -> Path:
    """Where the command line's hypervisors live: $KVMOPS_LAB_BASE, or kvmops-lab among the temporary files."""
    directory = Path(os.environ.get("KVMOPS_LAB_BASE") or Path(tempfile.gettempdir()) / "kvmops-lab")
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise LabError(f"{directory}: belongs to another user")
    directory.chmod(0o711)
    return directory


def find(name: str) -> Hypervisor:
    hypervisor = Hypervisor.running(base(), name)
    if hypervisor is None:
        raise LabError(f"{name}: is not up: run `python -m lab up {name}`")
    return hypervisor


def up(options: argparse.Namespace) -> None:
    if found := Hypervisor.running(base(), options.name):
        print(f"{options.name} is up already: {found.uri}")
        return
    kind = SessionHypervisor if options.session else Hypervisor
    root = ReleaseRoot(options.release).path if options.release else None
    made = kind(base(), options.name, not options.static_ownership, root=root, detach=True)
    made.up()
    if options.ssh:
        sshd.open_door(made)
    print(f"{options.name} is up: {made.uri}")


def down(options: argparse.Namespace) -> None:
    if found := Hypervisor.running(base(), options.name):
        found.down()
        print(f"{options.name} is down")
    else:
        print(f"{options.name} was not up")


def define_demo(options: argparse.Namespace) -> None:
    hypervisor = find(options.name)
    disk = build_boot_disk(hypervisor.images / f"{options.domain}.raw", options.size, options.data)
    hypervisor.define(hypervisor.domain_xml(options.domain, [Disk(disk)], kernel=False))
    if options.start:
        hypervisor.start(options.domain).wait_ready()
    print(f"{options.domain} has the disk {disk}")


def guest(options: argparse.Namespace) -> int:
    handle = Guest(find(options.name), options.domain)
    if options.action == "wait":
        handle.wait_ready(options.timeout)
        return 0
    status, output = handle.run(" ".join(options.command), options.timeout)
    sys.stdout.write(output)
    return status


def uri(options: argparse.Namespace) -> None:
    print(find(options.name).uri)


def images(options: argparse.Namespace) -> None:
    print(find(options.name).images)


def execute(options: argparse.Namespace) -> int:
    return find(options.name).exec(options.argv, capture_output=False).returncode


def serve_ssh(options: argparse.Namespace) -> int:
    return sshd.serve(find(options.name))


def kill_libvirtd(options: argparse.Namespace) -> None:
    hypervisor = find(options.name)
    deadline = time.monotonic() + options.timeout
    waited_for: list[tuple[str | None, Callable[[Hypervisor, str], bool], str]] = [
        (options.copying, is_copied, "no disk of it was copied"),
        (options.defined, is_defined, "it was not defined"),
    ]
    for domain, has_come, missed in waited_for:
        while domain and not has_come(hypervisor, domain):
            if time.monotonic() > deadline:
                raise LabError(f"{domain}: {missed} within {options.timeout:g} s")
            time.sleep(0.05)
    hypervisor.kill_libvirtd()
    print(f"libvirtd of {options.name} is dead, its guests run on")


def is_copied(hypervisor: Hypervisor, domain: str) -> bool:
    with contextlib.closing(hypervisor.connect()) as connection, contextlib.suppress(libvirt.libvirtError):
        return "<mirror" in connection.lookupByName(domain).XMLDesc()
    return False


def is_defined(hypervisor: Hypervisor, domain: str) -> bool:
    with contextlib.closing(hypervisor.connect()) as connection:
        return any(found.name() == domain for found in connection.listAllDomains())


def start_libvirtd(options: argparse.Namespace) -> None:
    find(options.name).start_libvirtd()


def boot_disk(options: argparse.Namespace) -> None:
    print(build_boot_disk(options.path, options.size, options.data))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="A private hypervisor with real guests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        action: Callable[[argparse.Namespace], int | None], summary: str, *names: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(action.__name__.replace("_", "-"), help=summary)
        sub.set_defaults(run=action)
        for name in names:
            sub.add_argument(name)
        return sub

    starting = command(up, "start a hypervisor; one that is up stays as it is", "name")
    starting.add_argument("--static-ownership", action="store_true", help="with dynamic_ownership = 0")
    starting.add_argument("--session", action="store_true", help="a libvirtd of a user without rights")
    starting.add_argument("--release", metavar="SUITE", help="with the libvirt and QEMU of another Debian release")
    starting.add_argument("--ssh", action="store_true", help="and let root come in by ssh (serve-ssh)")
    command(serve_ssh, "be the SSH server of one connection, as ssh's ProxyCommand", "name")
    killing = command(kill_libvirtd, "kill libvirtd; guests run on", "name")
    killing.add_argument("--copying", metavar="DOMAIN", help="not before a disk of this domain is copied live")
    killing.add_argument("--defined", metavar="DOMAIN", help="not before this domain is defined")
    killing.add_argument("--timeout", type=float, default=120)
    command(start_libvirtd, "start libvirtd again", "name")
    command(down, "end a hypervisor with its guests and remove its state", "name")
    command(uri, "print the connection URI", "name")
    command(images, "print the directory for images", "name")
    command(execute, "run a program inside of the namespaces", "name").add_argument("argv", nargs=argparse.REMAINDER)

    disk = command(boot_disk, "make a disk that boots")
    disk.add_argument("path", type=Path)
    demo = command(define_demo, "define a domain with a disk that boots", "name", "domain")
    demo.add_argument("--start", action="store_true", help="and start it, and wait until its guest answers")
    for sub in (disk, demo):
        sub.add_argument("--size", type=int, default=64, metavar="MIB", help="size of the disk (default: %(default)s)")
        sub.add_argument("--data", type=int, default=8, metavar="MIB", help="size of its data (default: %(default)s)")

    inside = command(guest, "wait for a guest, or run a command in it", "name", "domain")
    inside.add_argument("--timeout", type=float, default=300)
    inside.add_argument("action", choices=["wait", "run"])
    inside.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def main() -> int:
    options = arguments().parse_args()
    try:
        return options.run(options) or 0
    except (LabError, GuestError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
