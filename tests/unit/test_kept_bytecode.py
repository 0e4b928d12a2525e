# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is compiled from a zip file is kept, and is what would be compiled anew (tests/tools/kept_bytecode.py)."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from bench import __main__ as bench

TOOLS = Path(__file__).parents[1] / "tools"
#: Says what the module "sent" of the zip file in argv[2] says, and how often something was compiled for it.
RUN = """
import sys, zipimport
compiled, compile_anew = [], zipimport._compile_source
zipimport._compile_source = lambda path, source: compiled.append(path) or compile_anew(path, source)
import kept_bytecode
kept_bytecode.keep_in(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import sent
try:
    sent.fail()
except ValueError as error:
    frame = error.__traceback__.tb_next.tb_frame
print(sent.__file__, frame.f_code.co_filename, sent.SAYS, len(compiled), sep="\\n")
"""


def sent(target: Path, says: str) -> Path:
    """A zip file with one module."""
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("sent.py", f"SAYS = {says!r}\ndef fail():\n    raise ValueError(SAYS)\n")
    return target


def run(kept: Path, archive: Path) -> tuple[str, int]:
    """What the module in ARCHIVE says, and how often something was compiled."""
    argv = [sys.executable, "-S", "-c", RUN, str(kept), str(archive)]
    environment = {"PYTHONPATH": str(TOOLS), "KVMOPS_COMPILE_ANEW": "1"}
    told = subprocess.run(argv, check=True, env=environment, capture_output=True, encoding="utf-8").stdout
    file, of_function, says, compiled = told.splitlines()
    assert file == of_function == f"{archive}/sent.py"
    return says, int(compiled)


def test_what_was_compiled_once_serves_every_process_under_the_path_it_has_there(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert run(kept, sent(tmp_path / "one.zip", "first")) == ("first", 1)
    assert run(kept, sent(tmp_path / "two.zip", "first")) == ("first", 0)


def test_another_source_is_compiled_anew(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert run(kept, sent(tmp_path / "one.zip", "first")) == ("first", 1)
    assert run(kept, sent(tmp_path / "one.zip", "other")) == ("other", 1)


def test_what_cannot_be_kept_or_read_is_compiled(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert run(kept, sent(tmp_path / "one.zip", "first")) == ("first", 1)
    (name,) = kept.iterdir()
    name.write_bytes(b"")
    assert run(kept, tmp_path / "one.zip") == ("first", 1)
    file = tmp_path / "file"
    file.touch()
    assert run(file, tmp_path / "one.zip")[0] == "first"


@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"KVMOPS_COMPILE_ANEW": "1"}, False)])
def test_who_measures_turns_it_off(environment: dict[str, str], kept: bool) -> None:
    looks = "import sys, zipimport, kept_bytecode, kept_payloads; compiles = zipimport._compile_source;"
    looks += "print(compiles.__module__, any(isinstance(one, kept_payloads.Watch) for one in sys.meta_path))"
    argv, given = [sys.executable, "-S", "-c", looks], {"PYTHONPATH": str(TOOLS), **environment}
    told = subprocess.run(argv, check=True, env=given, capture_output=True, encoding="utf-8").stdout
    assert told.split() == (["kept_bytecode", "True"] if kept else ["zipimport", "False"])


def test_the_benchmark_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoHypervisor:
        """Ends the run where it would begin to measure."""

        def __init__(self, *_arguments: object) -> None:
            raise NotImplementedError

    for name in ("KVMOPS_COMPILE_ANEW", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "")  # they are as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(bench, "Hypervisor", NoHypervisor)
    with pytest.raises(NotImplementedError):
        bench.main()
    assert os.environ["KVMOPS_COMPILE_ANEW"] == "1"
