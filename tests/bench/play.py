# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks as a playbook runs them, by the same Ansible for both sides."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def play(directory: Path, venv: Path, tasks: Sequence[dict[str, Any]]) -> None:
    """One play of TASKS on this machine by the Ansible in VENV; its files are in DIRECTORY."""
    interpreter = {"ansible_connection": "local", "ansible_python_interpreter": str(venv / "bin/python")}
    whole = [{"hosts": "localhost", "gather_facts": False, "vars": interpreter, "tasks": list(tasks)}]
    playbook = directory / "play.yml"
    playbook.write_text(json.dumps(whole), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".ansible/collections")
    environment["ANSIBLE_HOME"] = str(directory / "ansible")
    argv = [str(venv / "bin/ansible-playbook"), "--inventory", "localhost,", str(playbook)]
    subprocess.run(argv, check=True, env=environment, cwd=directory, stdout=subprocess.DEVNULL)
