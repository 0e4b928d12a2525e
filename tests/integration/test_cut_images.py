# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that were cut short: nothing of them is lost without a word, and nothing of them is called verified."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError
from ansible_collections.kvmops.disk.plugins.module_utils._image import image as _image
from ansible_collections.kvmops.disk.plugins.module_utils._image.whole import require_whole
from ansible_collections.kvmops.disk.plugins.module_utils._qemu.qemu_img import QemuImg
from cut_images import DISK, MIB, NAMES, Whole, qemu_img, qemu_io, whole_images

SEED = 11


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    (found,) = whole_images(tmp_path_factory.mktemp("whole"), only=request.param)
    return found


def is_found_whole(path: Path, image_format: str) -> bool:
    """Whether the look before anything is read calls the image, with those below it, whole, as far as QEMU opens it."""
    door = QemuImg.find()
    try:
        require_whole(_image.chain(door, _image.inspect(door, str(path), image_format)))
    except DiskError:
        return False
    return True


def content_as_qemu_reads_it(path: Path, image_format: str, copy: Path) -> bytes | None:
    """None where qemu-img refuses to read the image."""
    done = subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", path, copy], capture_output=True)
    return copy.read_bytes()[:DISK] if done.returncode == 0 else None


def test_an_image_in_order_is_found_whole(whole: Whole) -> None:
    top = whole.directory / whole.top
    assert is_found_whole(top, whole.format)


def test_a_cut_through_which_qemu_reads_zeros_is_found_wherever_it_is(whole: Whole, tmp_path: Path) -> None:
    lost = 0
    for file in whole.files:
        for length in whole.places(file, SEED, 12):
            with whole.cut(file, length) as top:
                seen = content_as_qemu_reads_it(top, whole.format, tmp_path / "copy")
                if seen in (None, whole.content):
                    continue
                lost += 1
                assert not is_found_whole(top, whole.format), f"{file} cut to {length} bytes: content is lost"
    refused_by_qemu = {"vhdx", "vpc", "vpc-fixed", "qed", "vmdk-stream", "cloop", "dmg"}
    assert lost or whole.name in refused_by_qemu, "this proves nothing"


@pytest.mark.parametrize("options", ["", "extended_l2=on,cluster_size=64k", "cluster_size=512", "cluster_size=2M"])
def test_what_a_guest_does_to_an_image_never_makes_it_look_cut(options: str, tmp_path: Path) -> None:
    """Writes, discards, snapshots, growth and shrinking, by a generator: a healthy image is never refused."""
    chosen = random.Random(f"{options} {SEED}")
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", *(["-o", options] if options else []), path, str(8 * MIB))
    size = 8 * MIB
    for step in range(25):
        at = chosen.randrange(0, size // 512) * 512
        length = min(chosen.choice((512, 4096, 65536, 300 * 1024)), size - at)
        verb = chosen.choice(("write", "write -z", "write -z -u", "discard", "snapshot", "grow", "shrink"))
        if verb == "snapshot":
            qemu_img("snapshot", "-c", f"s{step}", path)
        elif verb in ("grow", "shrink"):
            size = max(4 * MIB, size + chosen.randrange(1, 5000) * 512 * (1 if verb == "grow" else -1))
            qemu_img("resize", "-q", "-f", "qcow2", *(["--shrink"] if verb == "shrink" else []), path, str(size))
        else:
            qemu_io(path, "qcow2", f"{verb} {at} {length}")
        assert is_found_whole(path, "qcow2"), f"after step {step}, {verb} {at} {length}"
