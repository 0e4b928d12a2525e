# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a module needs is found out once, and is what would be found anew (tests/tools/kept_payloads.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COLLECTION = "collections/ansible_collections/kvmops/disk"
#: Packs the module argv[2], with files kept in argv[1]: the digest of each file in it, and how often they were found.
RUN = """
import datetime, hashlib, io, json, sys, types, zipfile
import kept_payloads
from ansible.cli import CLI
from ansible.plugins.loader import init_plugin_loader, module_loader
from ansible.executor import module_common as packer
init_plugin_loader()
found, find = [], packer.recursive_finder
def recursive_finder(name, module_fqn, module_data, zf, date_time, extension_manager):
    found.append(name)
    return find(name, module_fqn, module_data, zf, date_time, extension_manager)
packer.recursive_finder = recursive_finder
if sys.argv[1]:
    kept_payloads.keep_in(sys.argv[1], packer)
path = module_loader.find_plugin(sys.argv[2])
with open(path, "rb") as module:
    data = packer.Origin(path=path).tag(module.read())
with zipfile.ZipFile(io.BytesIO(), "w") as archive:
    metadata = packer.recursive_finder(
        sys.argv[2].rsplit(".", 1)[-1],
        packer._get_ansible_module_fqn(path),
        data,
        archive,
        datetime.datetime.now(),
        types.SimpleNamespace(module_names=(), debugger_enabled=False, source_mapping={}),
    )
    files = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
print(json.dumps([{**files, "metadata": str(metadata)}, len(found)]))
"""


def pack(kept: Path | str, module: str, cwd: Path = ROOT) -> tuple[dict[str, str], int]:
    """The digests of the files that MODULE needs, by their names, and how often they were found out."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests/tools"),
        "KVMOPS_COMPILE_ANEW": "1",
        "ANSIBLE_CONFIG": str(cwd / "ansible.cfg"),
    }
    argv = [sys.executable, "-c", RUN, str(kept), module]
    told = subprocess.run(argv, check=True, cwd=cwd, env=environment, capture_output=True, encoding="utf-8").stdout
    files, found = json.loads(told.splitlines()[-1])
    return files, found


@pytest.mark.parametrize("module", ["kvmops.disk.qcow2_image", "ansible.builtin.ping"])
def test_what_was_found_once_serves_every_process(module: str, tmp_path: Path) -> None:
    anew, _once = pack("", module)
    assert len(anew) > 20
    assert pack(tmp_path / "kept", module) == (anew, 1)
    assert pack(tmp_path / "kept", module) == (anew, 0)


def test_another_library_is_read_anew(tmp_path: Path) -> None:
    collection = tmp_path / "collections/ansible_collections/kvmops/disk"
    library = collection / "plugins/module_utils"
    for folder in ("modules", "module_utils"):
        (collection / "plugins" / folder).mkdir(parents=True)
    (tmp_path / "ansible.cfg").write_text("[defaults]\ncollections_path = collections\n")
    module = "from ansible_collections.kvmops.disk.plugins.module_utils.size import parse\n"
    (collection / "plugins/modules/sent.py").write_text(module)
    (library / "size.py").write_text("parse = int\n")
    kept = tmp_path / "kept"
    first, found = pack(kept, "kvmops.disk.sent", tmp_path)
    assert (found, pack(kept, "kvmops.disk.sent", tmp_path)) == (1, (first, 0))
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("kept", "copy"))
    assert pack(kept, "kvmops.disk.sent", tmp_path / "copy") == (first, 0)
    (library / "size.py").write_text("from . import unit\nparse = int\n")
    (library / "unit.py").write_text("K = 1024\n")
    second, found = pack(kept, "kvmops.disk.sent", tmp_path)
    assert (found, {*second} - {*first}) == (1, {"ansible_collections/kvmops/disk/plugins/module_utils/unit.py"})
    assert len([*kept.glob("*/*")]) == 1


def test_what_cannot_be_kept_or_read_is_found_anew(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    anew, _once = pack(kept, "ansible.builtin.ping")
    (name,) = kept.glob("*/*")
    name.write_bytes(b"")
    assert pack(kept, "ansible.builtin.ping") == (anew, 1)
    file = tmp_path / "file"
    file.touch()
    assert pack(file, "ansible.builtin.ping") == (anew, 1)
