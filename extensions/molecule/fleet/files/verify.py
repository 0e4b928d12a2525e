# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world on one host of the fleet after all runs, asked of libvirt and of the images themselves.

python verify.py HOST DESK…
"""

from __future__ import annotations

import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

HOME = Path("/var/lib/libvirt")
IMAGES = HOME / "images"
DESKS = IMAGES / "desks"


def said(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


def domain(name: str, *options: str) -> ET.Element:
    return ET.fromstring(said("virsh", "dumpxml", name, *options))


def sources(name: str, *options: str) -> list[str | None]:
    return [source.get("file") for source in domain(name, *options).iterfind("./devices/disk/source")]


def verify_conversion() -> None:
    """Both machines have their new disk, with what was in the old one; the one that ran was never off."""
    assert sources("web") == sources("web", "--inactive") == [str(IMAGES / "web.qcow2")]
    assert sources("db") == [str(IMAGES / "db.qcow2")]
    for name in ("web", "db"):
        said("qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", IMAGES / f"{name}.raw", IMAGES / f"{name}.qcow2")
    assert said("virsh", "domid", "web") == (HOME / "web.number").read_text().strip()
    assert said("virsh", "domid", "db") == "-"


def verify_clones(names: list[str]) -> None:
    """All of them run, over the golden image, which is as it was, and each is somebody else than the others."""
    assert sorted(name for name in said("virsh", "-q", "list", "--name").split() if name != "web") == names
    for name in names:
        image = DESKS / f"{name}.qcow2"
        assert sources(name) == sources(name, "--inactive") == [str(image)]
        (store,) = domain(name, "--inactive").iterfind("./devices/disk/backingStore/source")
        assert store.get("file") == str(IMAGES / "golden.qcow2")
        said("qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", IMAGES / "golden.qcow2", image)
    identities = [
        (said("virsh", "domuuid", name), said("virsh", "-q", "domiflist", name).split()[-1]) for name in names
    ]
    assert all(len(set(column)) == len(names) for column in zip(*identities))
    base = IMAGES / "golden.qcow2"
    assert said("sha256sum", base) == (HOME / "golden.sum").read_text().strip()
    assert stat.S_IMODE(base.stat().st_mode) == 0o444
    assert said("virsh", "domid", "golden") == "-"


def verify_what_went_on() -> None:
    """The runs that finished what others had begun did not begin anew: the copy is the same file, the clones are the
    same machines."""
    copy, desks = HOME / "web.copy", HOME / "desks.before"
    if copy.exists():
        assert (IMAGES / "web.qcow2").stat().st_ino == int(copy.read_text())
    for line in desks.read_text().splitlines() if desks.exists() else ():
        name, uuid = line.split()
        assert said("virsh", "domuuid", name) == uuid


def verify_nothing_is_left(names: list[str]) -> None:
    """No record, no half-made file, nothing of the runs in a definition but that clones are clones."""
    there = ["db.qcow2", "db.raw", "desks", "golden.qcow2", "web.qcow2", "web.raw"]
    assert sorted(path.name for path in IMAGES.iterdir()) == [".golden.qcow2.kvmops-base", *there]
    assert sorted(path.name for path in DESKS.iterdir()) == [f"{name}.qcow2" for name in names]
    assert sorted(said("virsh", "-q", "list", "--all", "--name").split()) == sorted(["db", "golden", "web", *names])
    for definition in Path("/etc/libvirt/qemu").glob("*.xml"):
        assert "urn:kvmops:disk" not in definition.read_text(encoding="utf-8")


def main() -> None:
    host, *names = sys.argv[1:]
    assert said("virsh", "hostname") == host, "they are several hosts, not one"
    verify_conversion()
    verify_clones(names)
    verify_what_went_on()
    verify_nothing_is_left(names)
    print(f"{host}: all is as it should be")


if __name__ == "__main__":
    main()
