# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests share: the collection of this checkout, by Ansible's own importer, and the fixtures of the lab."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

COLLECTIONS = Path(__file__).resolve().parents[1] / ".ansible" / "collections"

# ansible-test has installed one already, for the copy that it tests.
if not any(isinstance(finder, _AnsibleCollectionFinder) for finder in sys.meta_path):
    _AnsibleCollectionFinder(paths=[str(COLLECTIONS)])._install()

# Unit tests also run with Pythons that have no libvirt (make test-matrix).
pytest_plugins = ["lab.fixtures"] if importlib.util.find_spec("libvirt") else []
