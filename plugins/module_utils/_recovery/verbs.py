# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of records by which a later run knows what an operation was at."""

from __future__ import annotations

#: The verbs of the records of runs that write internal snapshots.
CREATE, DELETE, REVERT = "snapshot-create", "snapshot-delete", "snapshot-revert"
#: The verb of those of runs that take or merge overlays of a domain's disks.
DISK_SNAPSHOT = "disk-snapshot"
#: The verb of those that merge an overlay into an image below it, and the stages that they come through.
COMMIT = "commit"
MERGING, MERGED = "merging", "merged"
#: The verb of those that write dirty bitmaps.
BITMAP = "bitmap"
#: That of the record of a run that repairs.
REPAIR = "repair"
#: The verb of those that make an image of another one.
CONVERT = "convert"
#: That of those that back a domain up.
BACKUP = "backup"
