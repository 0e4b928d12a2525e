# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the modules as processes beside the commands that they replace, and prints one table."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole_image
from lab import Disk, Hypervisor

from bench.ansiballz import empty_module, unchanged_run
from bench.attached import attached
from bench.clones import clones
from bench.many import domains, images, report
from bench.pair import HEADER, Row, Way, compare, run_anew
from bench.pauses import pauses
from bench.search import search

GIB, MIB = 1 << 30, 1 << 20
IMAGES = 200


def half_full_disk(path: Path, size: int) -> None:
    """A raw disk whose every second stretch of 16 MiB holds bytes that do not compress."""
    source = random.Random(1)
    with path.open("wb") as disk:
        disk.truncate(size)
        for start in range(0, size, 32 * MIB):
            disk.seek(start)
            disk.write(source.randbytes(16 * MIB))
    os.sync()


def conversion(hv: Hypervisor) -> Row:
    """The conversion of a domain that is off, beside convert, sync and compare of its image."""
    source, target, typed = (hv.images / name for name in ("bench.raw", "bench.qcow2", "typed.qcow2"))
    half_full_disk(source, 4 * GIB)
    definition = hv.domain_xml("bench", [Disk(source)])

    def ours() -> None:
        result = run_anew("vm_disk_convert", {"name": "bench", "disk": "vda", "uri": hv.uri}, timeout=600)
        if not result.get("changed"):
            raise RuntimeError(f"nothing was converted: {result}")

    def by_hand() -> None:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, typed], check=True)
        subprocess.run(["sync"], check=True)
        subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", source, typed], check=True)

    def start_over() -> None:
        for made in (target, typed):
            made.unlink(missing_ok=True)
        hv.remove("bench")
        hv.define(definition)
        os.sync()

    row = compare(
        "vm_disk_convert, 4 GiB, beside convert, sync, compare",
        Way(ours, start_over),
        Way(by_hand, start_over),
        rounds=5,
        goal=1.1,
    )
    start_over()
    source.unlink()
    return row


def compressible_disk(path: Path, size: int) -> None:
    """A raw disk whose first half holds text of a sort, which compresses to about a third."""
    source = random.Random(1)
    words = [source.randbytes(source.randrange(2, 9)).hex().encode() for _word in range(4000)]
    with path.open("wb") as disk:
        while disk.tell() < size // 2:
            disk.write(b" ".join(source.choices(words, k=100_000)))
        disk.truncate(size)
    os.sync()


def compression(directory: Path) -> Row:
    """A compressed conversion with zstd beside that which one types; neither is compared with its source."""
    source, target, typed = (directory / name for name in ("bench.raw", "bench.qcow2", "typed.qcow2"))
    compressible_disk(source, 1 * GIB)
    wish = {"src": str(source), "src_format": "raw", "dest": str(target), "compress": True, "verify": False}

    def ours() -> None:
        if not run_anew("qcow2_convert", {**wish, "compression_type": "zstd"}, timeout=600).get("changed"):
            raise RuntimeError("nothing was converted")

    def by_hand() -> None:
        subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", source, typed], check=True)

    def start_over() -> None:
        for made in (target, typed):
            made.unlink(missing_ok=True)

    row = compare(
        "qcow2_convert, zstd, 512 MiB of text, beside convert -c",
        Way(ours, start_over),
        Way(by_hand, start_over),
        rounds=3,
        goal=0.25,
    )
    start_over()
    source.unlink()
    return row


def comparison(directory: Path) -> Row:
    """An unchanged pair under update: changed, beside what any such module has to load and one comparison of it."""
    source, target = directory / "bench.raw", directory / "bench.qcow2"
    half_full_disk(source, 4 * GIB)
    wish = {"src": str(source), "src_format": "raw", "dest": str(target), "update": "changed"}
    run_anew("qcow2_convert", wish, timeout=600)

    least = (
        "import subprocess, sys, ansible.module_utils.basic, lxml.etree, libvirt; subprocess.check_call(sys.argv[1:])"
    )
    argv = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", str(source), str(target)]

    def by_hand() -> None:
        subprocess.run([sys.executable, "-c", least, *argv], check=True)

    row = compare(
        "qcow2_convert, nothing changed, beside imports and compare",
        Way(partial(_change_nothing, "qcow2_convert", wish)),
        Way(by_hand),
        rounds=5,
        goal=1.25,
    )
    source.unlink()
    target.unlink()
    return row


def wholeness(directory: Path) -> Row:
    """A conversion after the look whether its image was cut short, beside one without that look."""
    raw, source, target = (directory / name for name in ("bench.raw", "bench.qcow2", "typed.raw"))
    half_full_disk(raw, 4 * GIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, source], check=True)
    raw.unlink()
    os.sync()

    def convert() -> None:
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", source, target], check=True)

    def look_and_convert() -> None:
        require_whole_image(str(source), "qcow2")
        convert()

    def start_over() -> None:
        target.unlink(missing_ok=True)
        os.sync()

    row = compare(
        "the look for cut images and convert, 2 GiB, beside convert",
        Way(look_and_convert, start_over),
        Way(convert, start_over),
        rounds=5,
        goal=1.05,
    )
    start_over()
    source.unlink()
    return row


def information(directory: Path) -> Row:
    """One look at 200 images beside 200 times qemu-img info."""
    paths = [directory / f"{number}.qcow2" for number in range(IMAGES)]
    for path in paths:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "10G"], check=True)

    def ours() -> None:
        if len(run_anew("qcow2_image_info", {"paths": [str(directory)]})["images"]) != IMAGES:
            raise RuntimeError("not all images were found")

    def by_hand() -> None:
        for path in paths:
            subprocess.run(["qemu-img", "info", "--output=json", path], check=True, stdout=subprocess.DEVNULL)

    return compare(
        "qcow2_image_info, 200 images, beside 200 qemu-img info", Way(ours), Way(by_hand), rounds=5, goal=0.6
    )


def chains(directory: Path) -> Row:
    """The chains of 200 clones of one image in one run, beside 200 times qemu-img info --backing-chain."""
    clones = directory / "clones"
    clones.mkdir()
    base, paths = clones / "base.qcow2", [clones / f"{number}.qcow2" for number in range(IMAGES)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "10G"], check=True)
    for path in paths:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True)

    def ours() -> None:
        found = run_anew("qcow2_image_info", {"paths": [str(clones)], "backing_chain": True})["images"]
        if sum(len(image["backing_chain"]) for image in found) != 2 * IMAGES + 1:
            raise RuntimeError("not all chains were followed")

    def by_hand() -> None:
        for path in paths:
            argv = ["qemu-img", "info", "--backing-chain", "--output=json", str(path)]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    return compare(
        "qcow2_image_info, 200 chains, beside info --backing-chain", Way(ours), Way(by_hand), rounds=5, goal=0.6
    )


def unchanged(hv: Hypervisor, directory: Path) -> Iterator[Row]:
    """Runs that find everything as wanted.

    From a cache of bytecode they are measured beside what any such module has to load and one qemu-img info; as users
    run them, where nothing is cached, beside a module of Ansible's that loads the same and does nothing.
    """
    image = directory / "unchanged.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)
    hv.define(hv.domain_xml("unchanged", [Disk(image, "qcow2")]))
    least = (
        "import subprocess, ansible.module_utils.basic, lxml.etree, libvirt;"
        f"subprocess.run(['qemu-img', 'info', '--output=json', {str(image)!r}], stdout=subprocess.DEVNULL, check=True)"
    )
    as_users = directory / "as_users"
    as_users.mkdir()
    empty = empty_module(as_users)

    def floor() -> None:
        subprocess.run([sys.executable, "-c", least], check=True)

    for name, parameters in (
        ("qcow2_image", {"path": str(image), "size": "1G"}),
        ("vm_disk_convert", {"name": "unchanged", "disk": "vda", "uri": hv.uri, "progress": False}),
        ("vm_disk_info", {"uri": hv.uri}),
        ("vm_disk", {"name": "unchanged", "disk": "vda", "path": str(image), "size": "1G", "uri": hv.uri}),
    ):
        ours = Way(partial(_change_nothing, name, parameters))
        what = f"{name}, nothing to do, beside imports and qemu-img info"
        yield compare(what, ours, Way(floor), rounds=15, goal=1.15)
        ours = Way(unchanged_run(f"kvmops.disk.{name}", parameters, as_users))
        what = f"{name}, nothing to do, as users run it, beside an empty one"
        yield compare(what, ours, Way(empty), rounds=15, goal=1.35)


def reverted(directory: Path) -> Row:
    """An image of 1 TiB that is at its snapshot already, beside a run that ends before it looks at anything."""
    image = directory / "reverted.qcow2"
    options = "preallocation=metadata,cluster_size=64k"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "1T"], check=True)
    subprocess.run(["qemu-img", "snapshot", "-c", "before", image], check=True)
    wish = {"path": str(image), "state": "reverted", "snapshot": "before"}

    def floor() -> None:
        if not run_anew("qcow2_snapshot", {**wish, "snapshot": "1"}).get("failed"):
            raise RuntimeError("a number was taken for a name")

    ours = Way(partial(_change_nothing, "qcow2_snapshot", wish))
    what = "qcow2_snapshot, 1 TiB at its snapshot, beside 50 ms and no look"
    row = compare(what, ours, Way(floor), rounds=15, goal=1)
    image.unlink()
    return replace(row, goal=1 + 0.05 / row.typed)


def _change_nothing(module: str, parameters: Mapping[str, Any]) -> None:
    if run_anew(module, parameters)["changed"]:
        raise RuntimeError(f"{module} changed something")


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # both sides start from compiled modules
    os.environ["KVMOPS_COMPILE_ANEW"] = "1"  # but for what Ansible sends, as on the users' hosts
    with tempfile.TemporaryDirectory(prefix="kvmops-", dir="/tmp") as base:
        os.environ["PYTHONPYCACHEPREFIX"] = f"{base}/pycache"
        Path(base).chmod(0o711)
        directory = Path(base) / "images"
        directory.mkdir()
        with Hypervisor(Path(base), "bench") as hv:
            print(HEADER, flush=True)
            for row in unchanged(hv, hv.images):
                print(row, flush=True)
            print(reverted(directory), flush=True)
            print(information(directory), flush=True)
            print(chains(directory), flush=True)
            print(search(hv), flush=True)
            for about_clones in clones(hv):
                print(about_clones, flush=True)
            print(attached(hv), flush=True)
            print(comparison(directory), flush=True)
            print(compression(directory), flush=True)
            print(wholeness(directory), flush=True)
            print(conversion(hv), flush=True)
            for line in pauses(hv):
                print(line, flush=True)
            print(report(directory), flush=True)
            print(domains(hv), flush=True)
            for curve in images(directory):
                print(curve, flush=True)


if __name__ == "__main__":
    main()
