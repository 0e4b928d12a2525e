# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The definition of a clone: that of its source with an identity of its own, and nothing else changed.

Whatever two domains cannot share is here, in one place: names and numbers, images, sockets, ports, logs.
"""

from __future__ import annotations

import os
import re
import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import InvalidRequest
from ansible_collections.kvmops.disk.plugins.module_utils._vm_linked_clone import decision_shared as _decision_shared
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disk_changes as _disk_changes
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document
from ansible_collections.kvmops.disk.plugins.module_utils._xml import identity as _identity
from ansible_collections.kvmops.disk.plugins.module_utils._xml import records as _records
from ansible_collections.kvmops.disk.plugins.module_utils._xml.disk_changes import DiskChange

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.disks import ChainLink
    from ansible_collections.kvmops.disk.plugins.module_utils._xml.identity import Mark

#: sockaddr_un.sun_path, less its end.
_LONGEST_SOCKET = 107
#: The namespaces in the metadata of what is done to the source itself.
_OF_THE_SOURCE = (_records.RECORD_URI, _records.SHUTDOWN_URI)
#: Devices whose other end is a socket, a file or a port of the host.
_CHARACTER_DEVICES = ("serial", "console", "parallel", "channel", "redirdev", "smartcard")
#: Where libvirt puts the socket of a channel by itself, in a directory of each run.
_LIBVIRTS_OWN_CHANNEL = re.compile(r"/channel/target/|/run/libvirt/.*/channel/")


@dataclass(frozen=True)
class CloneDisk:
    """The image of a clone's disk, and those below it, upper first; *serial* and *wwn* where it gets its own."""

    target: str
    path: str
    format: str
    chain: tuple[ChainLink, ...] = ()
    serial: str | None = None
    wwn: str | None = None


@dataclass(frozen=True)
class Identity:
    """What makes a clone another machine. *macs* in the order of the interfaces; *memory* in bytes; None: as it is.

    *metadata* are elements in XML, each of which takes the place of the one of its namespace.
    """

    name: str
    uuid: str
    genid: str
    macs: tuple[str, ...]
    disks: tuple[CloneDisk, ...]
    mark: Mark
    nvram: str | None = None
    memory: int | None = None
    vcpus: int | None = None
    description: str | None = None
    metadata: str | None = None


@dataclass(frozen=True)
class IdentityChange:
    """One thing that a clone has otherwise than its source; None where there is nothing."""

    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Definition:
    """The XML of a clone, what in it is its own, and what it has in common with its source though only one can have it
    at a time."""

    xml: str
    changes: tuple[IdentityChange, ...]
    shared: tuple[str, ...]


def cloned(xml: str, identity: Identity) -> Definition:
    """The definition of a clone of the domain that *xml* defines.

    Raises InvalidRequest where the source's definition has no place for what is asked.
    """
    editing = _Editing(_document.parse(xml), identity)
    editing.names()
    editing.resources()
    editing.disks()
    editing.firmware()
    editing.interfaces()
    editing.characters()
    editing.graphics()
    editing.vtpm()
    editing.vsock()
    editing.metadata()
    editing.look_for_shared()
    return Definition(_document.text(editing.domain), tuple(editing.changes), tuple(editing.shared))


def own_path(path: str, source: str, clone: str) -> str:
    """The path that a clone has instead of the source's *path*: beside it, with its own name in it."""
    directory, name = os.path.split(path)
    renamed = re.sub(rf"(?<![A-Za-z0-9]){re.escape(source)}(?![A-Za-z0-9])", lambda _found: clone, name)
    if renamed == name:
        stem, suffix = os.path.splitext(name)
        renamed = f"{stem}-{clone}{suffix}"
    return os.path.join(directory, renamed)


class _Editing:
    """A definition on its way to become a clone's; each method deals with one thing, and notes what it changed."""

    def __init__(self, domain: t.Any, identity: Identity) -> None:
        self.domain = domain
        self.identity = identity
        self.source: str = domain.findtext("./name", "")
        self.changes: list[IdentityChange] = []
        self.shared: list[str] = []

    def names(self) -> None:
        identity = self.identity
        self._set_text("name", identity.name)
        self._set_text("uuid", identity.uuid)
        for entry in self.domain.iterfind("./sysinfo/system/entry[@name='uuid']"):
            self._replace(entry, identity.uuid, "sysinfo uuid")
        genid = self.domain.find("./genid")
        if genid is not None:
            self._replace(genid, identity.genid, "genid")
        for tag in ("hwuuid", "title"):
            self._drop(self.domain.find(f"./{tag}"), tag)
        if identity.description is not None:
            self._set_text("description", identity.description)

    def resources(self) -> None:
        memory, vcpus = self.identity.memory, self.identity.vcpus
        if memory is not None:
            if self.domain.find("./cpu/numa") is not None:
                raise InvalidRequest(
                    f"memory: {self.source} gives its memory to NUMA cells, whose sizes would not fit: leave it out"
                )
            for tag in ("memory", "currentMemory"):
                node = self.domain.find(f"./{tag}")
                if node is not None:
                    node.set("unit", "KiB")
                    self._replace(node, str(memory // 1024), tag)
        if vcpus is not None:
            self._set_vcpus(vcpus)

    def disks(self) -> None:
        for disk in self.identity.disks:
            element = _disk_changes.find_disk(self.domain, disk.target)
            before = _disks.disk(element).source
            _disk_changes.change_disk(element, DiskChange(disk.target, disk.path, disk.format))
            element.append(_disk_changes.chain_element(disk.chain))
            self._note(f"{disk.target} source", before, disk.path)
            for tag, wanted in (("serial", disk.serial), ("wwn", disk.wwn)):
                if wanted is not None:
                    self._set_child(element, tag, wanted, f"{disk.target} {tag}")

    def firmware(self) -> None:
        path = self.identity.nvram
        if path is None:
            return
        node = self.domain.find("./os/nvram")
        store = self.domain.find("./os/varstore")
        if node is None:
            self._set(store, "path", path, "nvram")
        elif node.find("source") is not None:
            self._set(node.find("source"), "file", path, "nvram")
        else:
            self._replace(node, path, "nvram")

    def interfaces(self) -> None:
        """An address of its own; a name on the host, and the number of a port of a switch, are libvirt's to choose."""
        for number, (interface, mac) in enumerate(zip(self.domain.findall("./devices/interface"), self.identity.macs)):
            what = f"interface {number}"
            address = interface.find("mac")
            self._set(
                address if address is not None else _document.child(interface, "mac"), "address", mac, f"{what} mac"
            )
            self._drop(interface.find("target[@dev]"), f"{what} target", "dev")
            for port in interface.iterfind("virtualport/parameters"):
                for name in ("interfaceid", "instanceid"):
                    self._unset(port, name, f"{what} {name}")
            for backend in interface.iterfind("backend[@logFile]"):
                self._set(backend, "logFile", self._own(backend.get("logFile")), f"{what} log")
            if interface.get("type") == "vhostuser":
                self._free_socket(interface.find("source"), "path", what)

    def characters(self) -> None:
        for tag in _CHARACTER_DEVICES:
            for number, device in enumerate(self.domain.iterfind(f"./devices/{tag}")):
                self._free_character_device(device, f"{tag} {number}")
        for number, backend in enumerate(self.domain.iterfind("./devices/rng/backend")):
            self._free_character_device(backend, f"rng {number}")
        for node in self.domain.iterfind("./devices/audio[@type='file'][@path]"):
            self._set(node, "path", self._own(node.get("path")), "audio file")
        for node in self.domain.iterfind("./devices/pstore/path"):
            self._replace(node, self._own(node.text or ""), "pstore")

    def graphics(self) -> None:
        for number, node in enumerate(self.domain.iterfind("./devices/graphics")):
            what = f"graphics {number}"
            ports = [name for name in ("port", "tlsPort") if node.get(name, "-1") not in ("-1", "0")]
            if ports:
                for name in ports:
                    self._unset(node, name, f"{what} {name}")
                node.set("autoport", "yes")
            if node.get("websocket", "-1") != "-1":
                self._set(node, "websocket", "-1", f"{what} websocket")
            for place in (node, *node.iterfind("listen")):
                if place.get("socket"):
                    self._free_socket(place, "socket", what)

    def vtpm(self) -> None:
        """libvirt keeps the state of an emulated TPM by the domain's UUID, so that another one begins empty."""
        for source in self.domain.findall("./devices/tpm/backend[@type='emulator']/source"):
            self._drop(source, "tpm state", "path")

    def metadata(self) -> None:
        """The mark, and what is asked for; an element takes the place of the one of its namespace."""
        metadata = self.domain.find("./metadata")
        if metadata is None:
            metadata = _document.child(self.domain, "metadata")
        for node in [one for one in metadata if _document.namespace(one) in _OF_THE_SOURCE]:
            _document.remove(node)
        given = _document.fragment(self.identity.metadata, "metadata") if self.identity.metadata else []
        for node in (*given, _identity.mark_element(self.identity.mark)):
            for old in [one for one in metadata if _document.namespace(one) == _document.namespace(node)]:
                _document.remove(old)
            metadata.append(node)
        if given:
            self._note("metadata", None, ", ".join(str(_document.namespace(node)) for node in given))

    def vsock(self) -> None:
        """A number on the host by which the guest is reached: libvirt finds a free one where none is said."""
        for cid in self.domain.iterfind("./devices/vsock/cid"):
            self._unset(cid, "address", "vsock cid")
            cid.set("auto", "yes")

    def look_for_shared(self) -> None:
        """Notes what only one of two running domains can have, and nobody can invent another of."""
        self.shared += _decision_shared.shared_devices(self.domain)

    def _free_character_device(self, device: t.Any, what: str) -> None:
        """A socket or a file that is the source's alone gets another name; a server of somebody else stays."""
        kind = device.get("type")
        source = device.find("source")
        if device.get("tty"):
            self._unset(device, "tty", f"{what} tty")
        log = device.find("log")
        if log is not None and log.get("file"):
            self._set(log, "file", self._own(log.get("file")), f"{what} log")
        if source is None:
            return
        path = source.get("path")
        if kind == "pty" or (kind == "unix" and path and _LIBVIRTS_OWN_CHANNEL.search(path)):
            self._drop(source, f"{what} path", "path")
        elif kind == "unix" and path and source.get("mode") != "connect":
            self._free_socket(source, "path", what)
        elif kind == "file" and path:
            self._set(source, "path", self._own(path), f"{what} file")
        self.shared += [f"{what} {end}" for end in _decision_shared.shared_end(device)]

    def _free_socket(self, node: t.Any, name: str, what: str) -> None:
        path = self._own(node.get(name))
        if len(os.fsencode(path)) > _LONGEST_SOCKET:
            raise InvalidRequest(
                f"{self.identity.name}: its {what} would be the socket {path}, and a socket's path has at most "
                f"{_LONGEST_SOCKET} bytes: choose a shorter name"
            )
        self._set(node, name, path, f"{what} socket")

    def _set_vcpus(self, wanted: int) -> None:
        topology = self.domain.find("./cpu/topology")
        if topology is not None:
            product = 1
            for name in ("sockets", "dies", "clusters", "cores", "threads"):
                product *= int(topology.get(name, "1"))
            if product != wanted:
                raise InvalidRequest(
                    f"vcpus: {self.source} has a topology of {product} virtual CPUs, asked for {wanted}: ask for as "
                    "many, or take the topology out of the source"
                )
        node = self.domain.find("./vcpu")
        node = node if node is not None else _document.child(self.domain, "vcpu")
        node.attrib.pop("current", None)
        single = self.domain.find("./vcpus")
        if single is not None:
            _document.remove(single)
        self._replace(node, str(wanted), "vcpu")

    def _own(self, path: str) -> str:
        return own_path(path, self.source, self.identity.name)

    def _note(self, what: str, before: str | None, after: str | None) -> None:
        if before != after:
            self.changes.append(IdentityChange(what, before, after))

    def _replace(self, node: t.Any, wanted: str, what: str) -> None:
        self._note(what, node.text, wanted)
        node.text = wanted

    def _set_text(self, tag: str, wanted: str) -> None:
        self._set_child(self.domain, tag, wanted, tag)

    def _set_child(self, parent: t.Any, tag: str, wanted: str, what: str) -> None:
        node = parent.find(tag)
        self._replace(node if node is not None else _document.child(parent, tag), wanted, what)

    def _set(self, node: t.Any, name: str, wanted: str, what: str) -> None:
        self._note(what, node.get(name), wanted)
        node.set(name, wanted)

    def _unset(self, node: t.Any, name: str, what: str) -> None:
        if name in node.attrib:
            self._note(what, node.attrib.pop(name), None)

    def _drop(self, node: t.Any, what: str, name: str | None = None) -> None:
        if node is not None:
            self._note(what, node.get(name) if name else node.text, None)
            _document.remove(node)
