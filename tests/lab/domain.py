# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The XML of a lab domain: emulated (no KVM), no network, a serial console on a Unix socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from lab.guest_image import COMMAND_LINE, GuestImage

#: Of the package ovmf.
UEFI, UEFI_VARIABLES = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"
BUS_OF_PREFIX = {"vd": "virtio", "sd": "scsi", "hd": "ide", "fd": "fdc"}


@dataclass(frozen=True)
class Disk:
    """One disk of a domain; `bus` follows from `target` (vd: virtio, sd: scsi, hd: ide) unless it is given."""

    path: Path | str
    format: str = "raw"
    target: str = "vda"
    bus: str | None = None
    serial: str | None = None
    cache: str | None = None
    io: str | None = None
    discard: str | None = None
    readonly: bool = False
    shareable: bool = False
    device: str = "disk"
    boot_order: int | None = None
    snapshot: str | None = None

    def xml(self) -> str:
        kind, source = ("block", "dev") if str(self.path).startswith("/dev/") else ("file", "file")
        driver = {"name": "qemu", "type": self.format, "cache": self.cache, "io": self.io, "discard": self.discard}
        return (
            f"<disk{_attributes({'type': kind, 'device': self.device, 'snapshot': self.snapshot})}>"
            f"<driver{_attributes(driver)}/>"
            f"<source {source}={quoteattr(str(self.path))}/>"
            f"<target dev={quoteattr(self.target)} bus={quoteattr(self.bus_name)}/>"
            + (f"<serial>{escape(self.serial)}</serial>" if self.serial else "")
            + (f"<boot order='{self.boot_order}'/>" if self.boot_order else "")
            + ("<readonly/>" if self.readonly else "")
            + ("<shareable/>" if self.shareable else "")
            + "</disk>"
        )

    @property
    def bus_name(self) -> str:
        return self.bus or BUS_OF_PREFIX[self.target[:2]]


def domain_xml(
    name: str,
    disks: list[Disk],
    serial: Path,
    kernel: GuestImage | None = None,
    *,
    cmdline_extra: str = "",
    memory_mib: int = 128,
    machine: str = "pc",
    uuid: str | None = None,
    metadata: str = "",
    vnc_password: str | None = None,
    agent: bool = False,
    mac: str | None = None,
    nvram: Path | None = None,
    extra_devices: str = "",
) -> str:
    """The XML of domain NAME, to be defined.

    SERIAL is the socket that QEMU makes for the console; its output is kept in the same path with the suffix .log.
    With KERNEL the lab's guest is started directly; without, the domain boots from its first disk.
    AGENT adds the guest agent's channel, MAC a network interface that leads nowhere but to QEMU. With NVRAM the
    firmware is UEFI, which keeps its variables there and wants 256 MiB. METADATA and EXTRA_DEVICES are XML.
    """
    if kernel:
        ide = "lab.ide" if any(disk.bus_name == "ide" and disk.device == "disk" for disk in disks) else ""
        command_line = escape(" ".join([*COMMAND_LINE.split(), *cmdline_extra.split(), *ide.split()]))
        boot = (
            f"<kernel>{escape(str(kernel.kernel))}</kernel><initrd>{escape(str(kernel.initrd))}</initrd>"
            f"<cmdline>{command_line}</cmdline>"
        )
    else:
        boot = "" if any(disk.boot_order for disk in disks) else "<boot dev='hd'/>"
    if nvram is not None:
        store = f"<nvram template={quoteattr(UEFI_VARIABLES)}>{escape(str(nvram))}</nvram>"
        boot = f"<loader readonly='yes' type='pflash'>{UEFI}</loader>{store}{boot}"
    devices = [disk.xml() for disk in disks]
    if any(disk.bus_name == "scsi" for disk in disks):
        devices.append("<controller type='scsi' model='virtio-scsi'/>")
    devices.append(
        f"<serial type='unix'><source mode='bind' path={quoteattr(str(serial))}/>"
        f"<log file={quoteattr(str(serial.with_suffix('.log')))} append='on'/><target port='0'/></serial>"
    )
    if agent:
        devices.append("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>")
    if mac is not None:
        devices.append(f"<interface type='user'><mac address={quoteattr(mac)}/><model type='virtio'/></interface>")
    if vnc_password is not None:
        devices.append(f"<graphics type='vnc' autoport='yes' listen='127.0.0.1' passwd={quoteattr(vnc_password)}/>")
        devices.append("<video><model type='vga'/></video>")
    devices += ["<memballoon model='none'/>", extra_devices]
    return (
        f"<domain type='qemu'><name>{escape(name)}</name>"
        + (f"<uuid>{uuid}</uuid>" if uuid else "")
        + (f"<metadata>{metadata}</metadata>" if metadata else "")
        + f"<memory unit='MiB'>{memory_mib}</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine={quoteattr(machine)}>hvm</type>{boot}</os>"
        "<features><acpi/></features><clock offset='utc'/>"
        "<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>"
        f"<devices>{''.join(devices)}</devices></domain>"
    )


def _attributes(values: dict[str, str | None]) -> str:
    return "".join(f" {name}={quoteattr(value)}" for name, value in values.items() if value is not None)
