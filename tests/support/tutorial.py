# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page from_qemu_img: commands as one types them, each with the tasks that stand for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).resolve().parents[2] / "docs" / "docsite" / "rst" / "from_qemu_img.rst"
#: Where the images of the page are.
IMAGES = "/var/lib/libvirt/images"
_BLOCK = re.compile(r"^\.\. code-block:: (console|yaml)\n\n((?:   .*\n|\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Example:
    """A command line, and the tasks that stand for it."""

    command: str
    tasks: tuple[dict[str, Any], ...]


def examples() -> list[Example]:
    found = [
        (kind, re.sub("^   ", "", text, flags=re.MULTILINE)) for kind, text in _BLOCK.findall(PAGE.read_text("utf-8"))
    ]
    assert [kind for kind, _text in found] == ["console", "yaml"] * (len(found) // 2), "each command has its task"
    return [
        Example(command.strip().removeprefix("$ "), tuple(yaml.safe_load(tasks)))
        for (_console, command), (_yaml, tasks) in zip(found[::2], found[1::2])
    ]
