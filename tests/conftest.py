# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: the collection of this checkout, by Ansible's own importer, and the fixtures of the lab."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
from hypothesis import settings

COLLECTIONS = Path(__file__).resolve().parents[1] / ".ansible" / "collections"

# ansible-test has installed one already, for the copy that it tests.
if not any(isinstance(finder, _AnsibleCollectionFinder) for finder in sys.meta_path):
    _AnsibleCollectionFinder(paths=[str(COLLECTIONS)])._install()

# Whether what is tested is right does not depend on how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Unit tests also run with Pythons that have no libvirt (make test-matrix).
pytest_plugins = ["lab.fixtures"] if importlib.util.find_spec("libvirt") else []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is dear is made once for a file, so the tests that share it stay in one process (`--dist loadgroup`)."""
    for item in items:
        if isinstance(item, pytest.Function):
            known = item._fixtureinfo.name2fixturedefs
            scopes = {definition.scope for name in item.fixturenames for definition in known.get(name, ())}
            if "module" in scopes:
                item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}-{item.path.stem}"))
