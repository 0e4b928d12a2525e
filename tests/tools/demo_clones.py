# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The second part of the demonstration: machines that are clones of one, and a page of what storage has promised."""

from __future__ import annotations

import hashlib
import re
import stat
import time
from pathlib import Path

from demo_stage import ROOT, Playbook, claim, definition, mib, occupied, row, timed, title
from lab import Disk, Guest, Hypervisor, build_boot_disk

COUNT = 3
PAGE = ROOT / ".cache" / "demo" / "capacity_report.html"


class Classroom:
    """The machine `golden`, which is off, and its clones."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.provision = Playbook("playbooks/provision_clones.yml", "linked_clone", hypervisor.uri)
        self.report = Playbook("playbooks/capacity_report.yml", "capacity_report", hypervisor.uri)
        self.base = hypervisor.images / "golden.raw"
        self.names = [f"golden-{number:02}" for number in range(1, COUNT + 1)]
        self.guests = [Guest(hypervisor, name) for name in self.names]

    def run(self) -> None:
        self.make_golden_machine()
        self.clone()
        self.show_that_they_are_apart()
        self.write_report()
        self.remove()

    def make_golden_machine(self) -> None:
        title("A golden machine, with data, and off")
        with timed("its disk, with Linux and 8 MiB of data"):
            build_boot_disk(self.base, data_mib=8, seed="golden")
        self.hypervisor.define(self.hypervisor.domain_xml("golden", [Disk(self.base)], kernel=False))
        self.content, self.mode = checksum(self.base), mode(self.base)

    def clone(self) -> None:
        title(f"{self.provision.path} makes {COUNT} machines of it, and starts them")
        wish = {"source": "golden", "count": str(COUNT)}
        done = self.provision.play(**wish)
        claim(done.changed > 0, "nothing was made")
        with timed("all of them answer"):
            for guest in self.guests:
                guest.wait_ready()
        again = self.provision.play_again(**wish)

        title("What was made")
        identities = {guest.name: self.identity(guest) for guest in self.guests}
        for name, (product, files) in identities.items():
            row(name, f"{product}, its image takes {mib(sum(map(occupied, files)))}")
        claim(len({product for product, _files in identities.values()}) == COUNT, "two have the same identity")
        row("the playbook", f"{done.seconds:.1f} s for {COUNT} machines")
        row("the second run", f"changed={again.changed}")
        claim(mode(self.base) & 0o222 == 0, f"{self.base}: is writable")
        row("the golden image", f"{mib(self.base.stat().st_size)}, read-only while it has clones")

    def show_that_they_are_apart(self) -> None:
        first, *others = self.guests
        title(f"What {first.name} writes is nobody else's")
        with timed("each checks the data of the golden machine in its own disk"):
            for guest in self.guests:
                guest.must("cd /data && sha256sum -c SHA256SUMS", timeout=120)
        first.must("pattern /data/mine 4 mine && sync", timeout=60)
        for guest in others:
            guest.must("test ! -e /data/mine")
        claim(checksum(self.base) == self.content, f"{self.base}: is not what it was")
        row("the golden image", "as before, byte for byte")

    def write_report(self) -> None:
        title(f"{self.report.path} looks at everything, and writes one page")
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.unlink(missing_ok=True)
        began = time.monotonic()
        self.report.play(dest=str(PAGE))
        text = PAGE.read_text(encoding="utf-8")
        claim(all(name in text for name in ["golden", *self.names, "web"]), f"{PAGE}: does not name all machines")
        claim(not re.search(r"""(?:src|href)=["']https?:""", text), f"{PAGE}: wants the network")
        row("the page", f"{PAGE.relative_to(ROOT)}, {len(text) // 1024} KiB, in {time.monotonic() - began:.1f} s")

    def remove(self) -> None:
        title("The clones go, and the golden machine is as it was")
        wish = {"source": "golden", "count": str(COUNT), "state": "absent", "force": "true"}
        done = self.provision.play(**wish)
        claim(done.changed > 0, "nothing was removed")
        left = sorted(path.name for path in self.hypervisor.images.glob("golden*"))
        claim(left == [self.base.name], f"{', '.join(left)} are left")
        claim(checksum(self.base) == self.content, f"{self.base}: is not what it was")
        claim(mode(self.base) == self.mode, f"{self.base}: has another mode than before")
        row("the golden image", "as before, and writable again")

    def identity(self, guest: Guest) -> tuple[str, list[Path]]:
        """The UUID that the guest sees, and the images that are its own."""
        product = guest.must("cat /sys/class/dmi/id/product_uuid").strip().lower()
        defined = re.search(r"<uuid>(.+)</uuid>", definition(self.hypervisor.uri, guest.name))
        claim(defined is not None and defined[1] == product, f"{guest.name}: its guest sees the UUID {product}")
        return product, sorted(self.hypervisor.images.glob(f"{guest.name}*"))


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
