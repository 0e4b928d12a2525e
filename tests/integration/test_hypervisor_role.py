# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role `hypervisor` on a fresh image, whose apt lists were removed when it was made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.playground import ROOT

#: What apt keeps is empty in a mount namespace of the test's own; the packages of the role are there already.
FRESH = """
for place in /var/lib/apt/lists /var/lib/apt/periodic /var/cache/apt; do mount -t tmpfs tmpfs $place || exit; done
"$@" && ls /var/lib/apt/lists
"""


def test_package_lists_that_were_removed_a_moment_ago_are_fetched(tmp_path: Path) -> None:
    play = {"hosts": "localhost", "gather_facts": False, "roles": ["kvmops.disk.hypervisor"]}
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    interpreter = ["-e", "ansible_python_interpreter=/usr/bin/python3", str(tmp_path / "play.yml")]
    argv = ["unshare", "--mount", "sh", "-c", FRESH, "sh", *playbook, *interpreter]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "_Packages" in done.stdout, done.stdout
