# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection costs beside what one would type, both in one run: `make bench` prints the table."""

import importlib

importlib.import_module("conftest")  # the collection of this checkout can be imported then
