# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A domain of libvirt whose devices come and go: in the running machine, or in its definition."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.acting import ActingDomain
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import translated

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import Domain

#: Seconds that the guest has to open the tray of a drive before libvirt gives up.
_TRAY_SECONDS = 300.0


def plugging(domain: Domain) -> PluggingDomain:
    """*domain*, to plug devices in and out."""
    return PluggingDomain(domain._found, domain._line)  # pylint: disable=protected-access


class PluggingDomain(ActingDomain):
    """A domain whose devices come and go. Devices are given as XML. Each method raises LibvirtFailed, and NoAnswer."""

    def attach_device(self, xml: str, *, live: bool) -> None:
        """Gives the device to the running machine, or puts it into the definition. libvirt chooses an address for one
        that has none, and not the same in both (HAZARDS L5)."""
        with translated(f"{self.name}: cannot attach the device {_where(live=live)}"):
            self._ask(self._domain.attachDeviceFlags, xml, _affected(live=live))

    def detach_device(self, xml: str, *, live: bool) -> None:
        """Asks the guest to let the device go, which it has not when this returns (HAZARDS L1); or takes it out of the
        definition. libvirt looks at the target of a disk alone (HAZARDS L2)."""
        with translated(f"{self.name}: cannot detach the device {_where(live=live)}"):
            self._ask(self._domain.detachDeviceFlags, xml, _affected(live=live))

    def change_medium(self, xml: str, *, force: bool) -> None:
        """Gives a drive of the running machine the medium of its ``<disk>`` *xml*; with *force* also where the guest
        keeps the tray locked."""
        flags = _affected(live=True) | (binding.libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE if force else 0)
        with translated(f"{self.name}: cannot change the medium"):
            self._ask(self._domain.updateDeviceFlags, xml, flags, seconds=_TRAY_SECONDS)

    def limit_disk(self, target: str, limits: t.Mapping[str, int | str]) -> None:
        """Limits what the guest does to a disk of the running machine from now on. *limits* has the names of libvirt's
        ``<iotune>``; what is not in it keeps its value, except that one for both directions ends those of each."""
        with translated(f"{self.name}: cannot limit {target}"):
            self._ask(self._domain.setBlockIoTune, target, dict(limits), _affected(live=True))


def _affected(*, live: bool) -> int:
    library = binding.libvirt
    return t.cast(int, library.VIR_DOMAIN_AFFECT_LIVE if live else library.VIR_DOMAIN_AFFECT_CONFIG)


def _where(*, live: bool) -> str:
    return "to or from the running machine" if live else "in the definition"
