# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws the picture of the README from a real run: a golden image, the clones over it, and what is refused.

    python tests/tools/pictures.py [DIRECTORY]

All that the picture says was returned by the modules a moment ago. There is one for light and one for dark pages.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from lab.module import run_module  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
CLONES = ("desk-01.qcow2", "desk-02.qcow2", "desk-03.qcow2")
GOLDEN = "golden.qcow2"
NO_DOMAINS = "test:///default"
GIB, MIB = 1 << 30, 1 << 20
WIDTH, HEIGHT = 880, 372
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


@dataclass(frozen=True)
class Palette:
    """The colours of a page."""

    paper: str
    ink: str
    faint: str
    box: str
    base: str
    refused: str


PALETTES = {
    "light": Palette("#ffffff", "#1f2328", "#59636e", "#ddf4ff", "#dafbe1", "#d1242f"),
    "dark": Palette("#0d1117", "#f0f6fc", "#9198a1", "#121d2f", "#12261e", "#f85149"),
}


@dataclass(frozen=True)
class Scene:
    """What the modules returned: the facts of the golden image and of its clones, and the refusal to remove it."""

    golden: dict[str, Any]
    clones: tuple[dict[str, Any], ...]
    refusal: str


def main(directory: Path = PICTURES) -> None:
    with tempfile.TemporaryDirectory(prefix="kvmops-picture-") as place:
        scene = played(Path(place))
    directory.mkdir(parents=True, exist_ok=True)
    for name, palette in PALETTES.items():
        (directory / f"clones-{name}.svg").write_text(drawn(scene, palette), encoding="utf-8")


def played(place: Path) -> Scene:
    """A golden image with 96 MiB in it, three clones of which each wrote something, and an attempt to remove it."""
    golden = place / GOLDEN
    _module("qcow2_image", path=golden, size="20G")
    _write(golden, 96)
    for number, name in enumerate(CLONES, 1):
        _module("qcow2_image", path=place / name, backing_file=golden, backing_format="qcow2")
        _write(place / name, number * 2)
    images = _module("qcow2_image_info", paths=[str(place)], dependents=True)["images"]
    facts = {Path(image["path"]).name: image for image in images}
    refusal = run_module("qcow2_image", {"path": str(golden), "state": "absent", "uri": NO_DOMAINS})
    assert refusal.get("failed"), refusal
    assert len(refusal["dependents"]) == len(facts[GOLDEN]["dependents"]) == len(CLONES)
    return Scene(facts[GOLDEN], tuple(facts[name] for name in CLONES), "refused: three images read it")


def drawn(scene: Scene, palette: Palette) -> str:
    """The picture as SVG."""
    parts = "\n  ".join(_parts(scene, palette))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="{FONT}" '
        f'font-size="14">\n  <title>Three clones read one golden image</title>\n  {parts}\n</svg>\n'
    )


def _parts(scene: Scene, palette: Palette) -> Iterator[str]:
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{palette.paper}"/>'
    for column, clone in enumerate(scene.clones):
        left = 20 + column * 290
        yield from _box(left, 20, 260, clone, palette, palette.box)
        yield (
            f'<path d="M{left + 130} 104 V176 m-6 -10 l6 10 l6 -10" fill="none" stroke="{palette.faint}" '
            'stroke-width="1.5"/>'
        )
        yield _text(left + 142, 146, f"reads ({clone['backing_format']})", palette.faint)
    yield from _box(20, 180, 840, scene.golden, palette, palette.base)
    yield _text(20, 306, f"qcow2_image: {{path: {GOLDEN}, state: absent}}", palette.ink)
    yield _text(20, 330, scene.refusal, palette.refused)
    promised = sum(image["virtual_size"] for image in scene.clones)
    held = sum(image["actual_size"] for image in (scene.golden, *scene.clones))
    yield _text(20, 354, f"promised to guests: {promised // GIB} GiB, on disk: {_mib(held)}", palette.faint)


def _box(left: int, top: int, width: int, image: dict[str, Any], palette: Palette, colour: str) -> Iterator[str]:
    yield (f'<rect x="{left}" y="{top}" width="{width}" height="84" rx="8" fill="{colour}" stroke="{palette.faint}"/>')
    yield _text(left + 16, top + 34, Path(image["path"]).name, palette.ink, weight="bold")
    size = f"{image['virtual_size'] // GIB} GiB disk, {_mib(image['actual_size'])} on disk"
    yield _text(left + 16, top + 60, size, palette.faint)


def _text(left: int, top: int, text: str, colour: str, *, weight: str = "normal") -> str:
    return f'<text x="{left}" y="{top}" fill="{colour}" font-weight="{weight}">{escape(text)}</text>'


def _mib(size: int) -> str:
    return f"{round(size / MIB)} MiB"


def _module(name: str, **params: Any) -> dict[str, Any]:
    plain = {option: str(value) if isinstance(value, Path) else value for option, value in params.items()}
    result = run_module(name, {"uri": NO_DOMAINS, **plain})
    assert not result.get("failed"), result["msg"]
    return result


def _write(image: Path, mib: int) -> None:
    command = f"write -q -P 7 0 {mib}M"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, "--", image], check=True)


if __name__ == "__main__":
    main(*(Path(name) for name in sys.argv[1:]))
