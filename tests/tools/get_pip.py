# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays the part of get-pip.py for ansible-test, which would download it: Python brings a pip, the index the rest."""

from __future__ import annotations

import subprocess
import sys

UNKNOWN_TO_PIP = ("--no-setuptools", "--no-wheel")

subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"], stdout=subprocess.DEVNULL)
packages = [argument for argument in sys.argv[1:] if argument not in UNKNOWN_TO_PIP]
subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *packages])
