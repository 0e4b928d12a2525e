# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guest that was asked to shut down: nobody can take that back, so it is not forgotten until the guest has.

A note in the metadata of the domain, apart from the record of the operation: that ends when the task gives up, and this
goes on to say that a domain which is found off is owed its start.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from ansible_collections.kvmops.disk.plugins.module_utils._recovery import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _xml_records
from ansible_collections.kvmops.disk.plugins.module_utils._xml.records import SHUTDOWN_URI, Shutdown

if TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.connection import Hypervisor
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain

#: A guest that has not gone off for so long does not obey; if it is found off later, that was somebody else's wish.
_PATIENCE = timedelta(hours=1)


def remember(domain: Domain) -> None:
    """Notes that the guest, as it runs now, is about to be asked to shut down."""
    run = domain.run_number()
    if run is not None:
        domain.set_record(_xml_records.shutdown_to_xml(Shutdown(run, _xml_records.now())), SHUTDOWN_URI)


def is_pending(note: Shutdown, run: str | None, now: datetime | None = None) -> bool:
    """Whether the guest that was asked still runs, as *run* of its domain, and may still go off."""
    asked = datetime.fromisoformat(note.asked)
    return run == note.run and (now or datetime.now(timezone.utc)) - asked < _PATIENCE


def settle(hypervisor: Hypervisor, domain: Domain) -> None:
    """Removes the note, unless the guest may still go off."""
    note = _xml_records.shutdown_in(domain.xml(inactive=True)) if domain.is_persistent() else None
    if note is not None and not is_pending(note, domain.run_number()):
        _records.remove_from_metadata(hypervisor, domain, SHUTDOWN_URI)
