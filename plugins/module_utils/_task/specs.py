# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of argument specs that several modules share."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._image.choices import (
    ALLOCATIONS,
    PREALLOCATIONS,
)

#: Read by the action plugin of the same name as the module; to the module it says nothing.
PROGRESS_SPEC: dict[str, t.Any] = {"progress": {"type": "bool", "default": True}}

ALIGN_SPEC: dict[str, t.Any] = {"align_size": {"type": "bool", "default": False}}

OVERCOMMIT_SPEC: dict[str, t.Any] = {"max_overcommit": {"type": "float"}}

#: Of a module that is about domains: where those are.
URI_SPEC: dict[str, t.Any] = {"uri": {"type": "str", "default": "qemu:///system"}}

#: Of a module that is about images: whom to ask who uses them. Left out, that is whoever is on this host.
ASKED_URI_SPEC: dict[str, t.Any] = {"uri": {"type": "str"}}
#: Of a module that may change something.
PLACES_SPEC: dict[str, t.Any] = {"trust_directories": {"type": "bool", "default": False}}

TRUST_SPEC: dict[str, t.Any] = {"trusted": {"type": "bool", "default": False}}

SEARCH_SPEC: dict[str, t.Any] = {"search_paths": {"type": "list", "elements": "path", "default": []}}

#: Of a module that may write an image which others have as their backing file.
DEPENDENTS_SPEC: dict[str, t.Any] = {"allow_dependents": {"type": "bool", "default": False}, **SEARCH_SPEC}

IMAGE_SPEC: dict[str, t.Any] = {**ASKED_URI_SPEC, **PLACES_SPEC, "path": {"type": "path", "required": True}}

SNAPSHOT_SPEC: dict[str, t.Any] = {
    "snapshot": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent", "reverted"], "default": "present"},
    "keep": {"type": "int"},
    "prefix": {"type": "str"},
}

#: The choices of a layout that a conversion offers too.
ALLOCATION_SPEC: dict[str, t.Any] = {
    "preallocation": {"type": "str", "choices": list(PREALLOCATIONS)},
    "allocation": {"type": "str", "choices": list(ALLOCATIONS)},
    "cluster_size": {"type": "str"},
}

QCOW2_SPEC: dict[str, t.Any] = {
    "compat": {"type": "str", "choices": ["0.10", "1.1"]},
    "lazy_refcounts": {"type": "bool"},
    "refcount_bits": {"type": "int", "choices": [1, 2, 4, 8, 16, 32, 64]},
    "extended_l2": {"type": "bool"},
    "compression_type": {"type": "str", "choices": ["zlib", "zstd"]},
}

ALLOCATION_EXCLUSIVE = [("preallocation", "allocation")]
