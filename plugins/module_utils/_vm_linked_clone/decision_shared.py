# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a definition names outside of its domain, and a clone can have none of its own: somebody else made it. Pure.

Only one of two running domains can have it, or both would write it. Things of which nobody can invent another are told.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

#: Kinds of interfaces of which there is one for each domain.
_OWN_INTERFACES = ("hostdev", "vdpa", "server", "udp", "client")


def shared_devices(domain: t.Any) -> list[str]:
    """What a domain, given by its root element, has so, in words; character devices apart (shared_end)."""
    devices = domain.find("./devices")
    looks = (_host_devices, _interfaces, _tpms, _memories, _filesystems, _inputs, _screens)
    found = [what for look in looks for what in look(devices)] if devices is not None else []
    loader = domain.find("./os/loader[@type='pflash']")
    if loader is not None and loader.get("readonly") == "no":
        found.append(f"the firmware {loader.text}, which keeps its variables in itself")
    return found + ["a command line for QEMU" for node in domain if _document.local_name(node.tag) == "commandline"]


def shared_end(device: t.Any) -> list[str]:
    """The far ends of a character device that are a port, a device or a server of the host."""
    kind = device.get("type")
    found = []
    for source in device.iterfind("source"):
        path, connects = source.get("path"), source.get("mode") == "connect"
        place = path if kind == "unix" else f"{source.get('host')}:{source.get('service')}"
        if kind in ("tcp", "udp") and source.get("mode") == "bind":
            found.append(f"on port {source.get('service')}")
        elif kind in ("tcp", "unix") and connects:
            found.append(f"connected to {place}")
        elif kind in ("dev", "pipe") and path:
            found.append(f"on {path}")
        elif kind == "dbus" and source.get("channel"):
            found.append(f"on D-Bus as {source.get('channel')}")
    return found


def _host_devices(devices: t.Any) -> t.Iterator[str]:
    for number, _node in enumerate(devices.iterfind("hostdev")):
        yield f"host device {number}"
    for node in devices.iterfind("lease"):
        yield f"lease {node.findtext('key')}"


def _interfaces(devices: t.Any) -> t.Iterator[str]:
    for number, node in enumerate(devices.iterfind("interface")):
        kind, source = node.get("type"), node.find("source")
        if kind in _OWN_INTERFACES:
            yield f"interface of type {kind}"
        elif kind == "direct" and source is not None and source.get("mode") == "passthrough":
            yield f"interface {number} with all of {source.get('dev')}"
        for forward in node.iterfind("portForward/range"):
            yield f"interface {number} with the port {forward.get('start')} of the host"


def _tpms(devices: t.Any) -> t.Iterator[str]:
    for node in devices.iterfind("tpm/backend"):
        if node.get("type") != "emulator":
            yield f"{node.get('type')} TPM"


def _memories(devices: t.Any) -> t.Iterator[str]:
    for node in devices.iterfind("shmem"):
        server = node.find("server")
        where = f" of the server {server.get('path')}" if server is not None and server.get("path") else ""
        yield f"shared memory {node.get('name')}{where}"


def _filesystems(devices: t.Any) -> t.Iterator[str]:
    for node in devices.iterfind("filesystem"):
        source = node.find("source")
        if source is None or (node.find("readonly") is not None and not source.get("socket")):
            continue
        if source.get("socket"):
            yield f"filesystem on the socket {source.get('socket')}"
        else:
            place = next((source.get(name) for name in ("dir", "file", "dev", "name") if source.get(name)), None)
            yield f"filesystem of {place}"


def _inputs(devices: t.Any) -> t.Iterator[str]:
    for node in devices.iterfind("input"):
        source = node.find("source")
        path = (source.get("evdev") or source.get("dev")) if source is not None else None
        if path:
            yield f"input device {path}"


def _screens(devices: t.Any) -> t.Iterator[str]:
    for number, node in enumerate(devices.iterfind("graphics")):
        if node.get("type") == "dbus" and node.get("address"):
            yield f"graphics {number} on D-Bus at {node.get('address')}"
