# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process of one module: takes checkout, module and arguments as JSON from its standard input."""

from __future__ import annotations

import json
import os
import runpy
import sys
import types


def main() -> None:
    request = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    # An ansible_collections package elsewhere on the path would hide the checkout's.
    collections = types.ModuleType("ansible_collections")
    collections.__path__ = [os.path.join(request["checkout"], ".ansible", "collections", "ansible_collections")]
    sys.modules["ansible_collections"] = collections

    from ansible.module_utils import basic

    basic._ANSIBLE_ARGS = json.dumps(request["arguments"]).encode()
    # ansible-core 2.19 and later look here for the JSON dialect; earlier ones do not look.
    basic._ANSIBLE_PROFILE = "legacy"
    module = "ansible_collections.kvmops.disk.plugins.modules." + request["module"]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


main()
