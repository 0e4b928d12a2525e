# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The only door to libvirt: connections, domains, their states and definitions, storage pools. XML passes as text."""

from __future__ import annotations

import json
import signal
import time
import traceback
import typing as t
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, LibvirtFailed, MissingLibrary

#: The binding; loaded with the first connection, since most runs of an image module need none.
libvirt: t.Any = None

#: The namespace and the prefix of what this collection writes into a domain's metadata.
METADATA_URI = "urn:kvmops:disk:1"
METADATA_PREFIX = "kvmops"

_TICK_SECONDS = 0.5
#: Bytes that a block copy has under way at once. QEMU's 16 MiB make the guest's own writes wait longer (tests/bench).
_COPY_BUFFER = 1 << 20


class Hypervisor:
    """One connection to libvirt. Every call raises LibvirtFailed in words of ours, with libvirt's as the reason."""

    def __init__(self, connection: t.Any, uri: str) -> None:
        self._connection = connection
        self.uri = uri

    @classmethod
    def connect(cls, uri: str, *, readonly: bool = False) -> Hypervisor:
        """Raises MissingLibrary without libvirt-python, LibvirtFailed where nothing answers at *uri*."""
        _load_binding()
        with _translated(f"{uri}: cannot connect to libvirt"):
            return cls(libvirt.openReadOnly(uri) if readonly else libvirt.open(uri), uri)

    def domain(self, name: str) -> Domain:
        """The domain of that name or UUID. Raises LibvirtFailed where there is none."""
        for look_up in (self._connection.lookupByName, self._connection.lookupByUUIDString):
            try:
                return Domain(look_up(name))
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG):
                    raise _failure(f"{name}: cannot look the domain up", error) from error
        raise LibvirtFailed(
            f"{name}: no domain of this name or UUID on {self.uri}", libvirt_code=libvirt.VIR_ERR_NO_DOMAIN
        )

    def domains(self) -> list[Domain]:
        """All domains, running or not."""
        with _translated(f"{self.uri}: cannot list the domains"):
            return [Domain(found) for found in self._connection.listAllDomains()]

    def define(self, xml: str) -> Domain:
        with _translated("cannot define the domain"):
            return Domain(self._connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE))

    def pools(self) -> list[Pool]:
        """The active storage pools; none where the driver has no storage."""
        try:
            return [
                Pool(found)
                for found in self._connection.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            ]
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return []
            raise _failure(f"{self.uri}: cannot list the storage pools", error) from error

    def volume_path(self, pool: str, volume: str) -> str:
        with _translated(f"{pool}/{volume}: cannot find the storage volume"):
            return t.cast(str, self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())


@dataclass(frozen=True)
class Pool:
    """A storage pool."""

    _pool: t.Any

    @property
    def name(self) -> str:
        return t.cast(str, self._pool.name())

    def xml(self) -> str:
        with _translated("cannot read a storage pool"):
            return t.cast(str, self._pool.XMLDesc(0))

    def refresh(self) -> None:
        with _translated(f"{self.name}: cannot refresh the storage pool"):
            self._pool.refresh(0)


class Domain:
    """A domain of libvirt."""

    def __init__(self, domain: t.Any) -> None:
        self._domain = domain
        self.name: str = domain.name()
        self.uuid: str = domain.UUIDString()

    def xml(self, *, inactive: bool, secrets: bool = True) -> str:
        """The definition (*inactive*) or what is now; with *secrets*, so that a redefine loses none (HAZARDS G1)."""
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        flags |= libvirt.VIR_DOMAIN_XML_SECURE if secrets else 0
        with _translated(f"{self.name}: cannot read the domain"):
            return t.cast(str, self._domain.XMLDesc(flags))

    def state(self) -> str:
        """In the words of ``virsh domstate``: running, paused, shut off, crashed, ..."""
        with _translated(f"{self.name}: cannot read the domain's state"):
            number = self._domain.state()[0]
        return {
            libvirt.VIR_DOMAIN_RUNNING: "running",
            libvirt.VIR_DOMAIN_BLOCKED: "running",
            libvirt.VIR_DOMAIN_PAUSED: "paused",
            libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
            libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
            libvirt.VIR_DOMAIN_CRASHED: "crashed",
            libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
        }.get(number, "no state")

    def is_active(self) -> bool:
        with _translated(f"{self.name}: cannot read the domain's state"):
            return bool(self._domain.isActive())

    def is_persistent(self) -> bool:
        with _translated(f"{self.name}: cannot read the domain's state"):
            return bool(self._domain.isPersistent())

    def has_managed_save(self) -> bool:
        with _translated(f"{self.name}: cannot look for a managed-save image"):
            return bool(self._domain.hasManagedSaveImage(0))

    def snapshots(self) -> list[str]:
        """The names of the snapshots that libvirt knows."""
        with _translated(f"{self.name}: cannot list the snapshots"):
            return list(self._domain.snapshotListNames(0))

    def snapshot_definitions(self) -> list[str]:
        """The XML of the snapshots: each holds the domain as it was."""
        with _translated(f"{self.name}: cannot read the snapshots"):
            return [snapshot.getXMLDesc(0) for snapshot in self._domain.listAllSnapshots(0)]

    def checkpoints(self) -> list[str]:
        """The names of the checkpoints; none where the driver has no checkpoints."""
        try:
            return [found.getName() for found in self._domain.listAllCheckpoints(0)]
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return []
            raise _failure(f"{self.name}: cannot list the checkpoints", error) from error

    def block_job(self, target: str) -> dict[str, int]:
        """The block job on a disk of the running domain: type, bandwidth, cur, end; empty where there is none."""
        with _translated(f"{self.name}: cannot look for a block job on {target}"):
            return dict(self._domain.blockJobInfo(target, 0) or {})

    def capacity(self, target: str) -> int:
        """The bytes that the guest sees of a disk of the running domain, as its QEMU has them."""
        with _translated(f"{self.name}: cannot read the size of {target}"):
            return int(self._domain.blockInfo(target)[0])

    def resize_disk(self, target: str, size: int) -> None:
        """Gives a disk of the running domain *size* bytes, which its guest sees at once (HAZARDS G12).

        libvirt makes it smaller as readily as larger, even empty (HAZARDS A5). Raises LibvirtFailed.
        """
        try:
            self._domain.blockResize(target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        except libvirt.libvirtError as error:
            went_off = error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and not self._domain.isActive()
            reason = "the domain went off meanwhile: nothing was changed: run again" if went_off else ""
            what = f"{self.name}: cannot resize {target}" + (f": {reason}" if reason else "")
            raise _failure(what, error) from error

    def has_domain_job(self) -> bool:
        """Whether the running domain is being migrated, saved, dumped or backed up."""
        try:
            return bool(self._domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # it went off meanwhile
                return False
            raise _failure(f"{self.name}: cannot look for a job of the domain", error) from error

    def start(self) -> None:
        with _translated(f"{self.name}: cannot start the domain"):
            self._domain.create()

    def destroy(self) -> None:
        """Pulls the plug; nothing to do where the domain went off meanwhile."""
        try:
            self._domain.destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
                raise _failure(f"{self.name}: cannot destroy the domain", error) from error

    def shut_down(self, seconds: float) -> bool:
        """Asks the guest to power off and waits for it. False: it was still on after *seconds*.

        shutdown() returns at once and a guest without ACPI never goes off (HAZARDS G15).
        """
        deadline = time.monotonic() + seconds
        with self.watched() as wait, _translated(f"{self.name}: cannot ask the guest to shut down"):
            try:
                self._domain.shutdown()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or self._domain.isActive():
                    raise
            while self._domain.isActive():
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                wait(min(left, _TICK_SECONDS))
        return True

    @contextmanager
    def watched(self) -> t.Iterator[t.Callable[[float], None]]:
        """A function that waits until the life of the domain or a block job of it changes, for so many seconds at most.

        The limit covers an event that came before anybody listened, one that cannot be listened for, and a libvirtd
        that has died.
        """
        seen: list[bool] = []
        connection = self._domain.connect()

        def wait(seconds: float) -> None:
            with _without_signals():
                tick = libvirt.virEventAddTimeout(max(1, round(seconds * 1000)), lambda *_told: seen.append(True), None)
                try:
                    while not seen:
                        libvirt.virEventRunDefaultImpl()
                finally:
                    libvirt.virEventRemoveTimeout(tick)
                    seen.clear()

        with ExitStack() as listening:
            for event in (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2):
                with _without_signals(), suppress(libvirt.libvirtError):
                    callback = connection.domainEventRegisterAny(
                        self._domain, event, lambda *_told: seen.append(True), None
                    )
                    listening.callback(_deaf, connection, callback)
            yield wait

    def block_copy(self, target: str, destination: str, *, shallow: bool = False, bandwidth: int | None = None) -> None:
        """Begins to copy a disk of the running domain into an image that is there already (HAZARDS G4, G6).

        *destination* is its ``<disk>``, *bandwidth* in bytes a second. Not for ever: a persistent domain only takes a
        transient job.
        """
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB | libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
        flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW if shallow else 0
        parameters = {libvirt.VIR_DOMAIN_BLOCK_COPY_BUF_SIZE: _COPY_BUFFER}
        if bandwidth:
            parameters[libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH] = bandwidth
        with _translated(f"{self.name}: cannot copy {target} while the domain runs"):
            self._domain.blockCopy(target, destination, parameters, flags)

    def pull(self, target: str, base: str | None = None, *, bandwidth: int | None = None) -> None:
        """Begins to fill the image of a disk with what it reads from its backing files; nobody waits for it.

        *base* is the index (``vda[3]``) of the one that the image is to keep, None for none; *bandwidth* in bytes a
        second. In the end libvirt shortens the chain in the live XML, and in the definition where that names one.
        """
        with _translated(f"{self.name}: cannot pull the backing files of {target} into its image"):
            if base is None:
                flag = libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES
                self._domain.blockPull(target, bandwidth or 0, flag)
            else:
                flag = libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
                self._domain.blockRebase(target, base, bandwidth or 0, flag)

    def flush(self, target: str, index: str) -> None:
        """Has QEMU write what it keeps of the image of a running domain's disk in its memory, metadata above all.

        *index* is libvirt's number of the image. libvirt has no call for that, so QEMU's monitor is asked, of which the
        domain's log speaks (``custom-monitor``). Raises LibvirtFailed.
        """
        import libvirt_qemu

        words = {"command-line": f"qemu-io libvirt-{index}-format flush"}
        command = json.dumps({"execute": "human-monitor-command", "arguments": words})
        with _translated(f"{self.name}: cannot have QEMU write the metadata of {target}"):
            said = json.loads(libvirt_qemu.qemuMonitorCommand(self._domain, command, 0)).get("return", "")
        if said.strip():
            raise LibvirtFailed(f"{self.name}: cannot have QEMU write the metadata of {target}: {said.strip()}")

    def is_pulled(self, target: str) -> bool:
        """Whether a pull goes on below a disk of the running domain."""
        return bool(self.block_job(target).get("type") == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL)

    def limit_block_job(self, target: str, bandwidth: int | None) -> None:
        """Lets the block job on a disk go on with *bandwidth* bytes a second; None: as fast as it can."""
        with _translated(f"{self.name}: cannot set the bandwidth of the block job on {target}"):
            flags = libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES
            self._domain.blockJobSetSpeed(target, bandwidth or 0, flags)

    def run_number(self) -> str | None:
        """libvirt's number of this run of the domain, which no other run has; None where it is off."""
        number = self._domain.ID()
        return str(number) if number >= 0 else None

    def pivot(self, target: str) -> None:
        """Lets the guest go on with the destination of the block copy."""
        with _translated(f"{self.name}: cannot pivot {target} to its new image"):
            self._domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)

    def end_block_job(self, target: str) -> None:
        """Ends the block job on a disk; the guest stays on the image that it has."""
        with _translated(f"{self.name}: cannot end the block job on {target}"):
            self._domain.blockJobAbort(target, 0)

    def record(self) -> str | None:
        """The element of ours in the metadata of the definition, as XML; None where there is none."""
        try:
            return t.cast(
                str,
                self._domain.metadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, libvirt.VIR_DOMAIN_AFFECT_CONFIG
                ),
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                return None
            raise _failure(f"{self.name}: cannot read the domain's metadata", error) from error

    def set_record(self, element: str) -> None:
        """Writes the element of ours into the metadata of the definition."""
        self._set_metadata(element, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def remove_record(self) -> None:
        """Removes the element of ours, from the running domain too: that was started with it."""
        try:
            if self.is_active():
                self._set_metadata(None, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except LibvirtFailed as error:
            if error.facts["libvirt_code"] != libvirt.VIR_ERR_OPERATION_INVALID:  # it went off meanwhile
                raise
        self._set_metadata(None, libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def _set_metadata(self, element: str | None, where: int) -> None:
        prefix = METADATA_PREFIX if element is not None else None
        with _translated(f"{self.name}: cannot write the domain's metadata"):
            self._domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, prefix, METADATA_URI, where)


@contextmanager
def _without_signals() -> t.Iterator[None]:
    """Keeps signals until the block is over: an exception that a handler raises in a callback would be lost in C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _deaf(connection: t.Any, callback: int) -> None:
    with _without_signals(), suppress(libvirt.libvirtError):  # libvirtd may have died
        connection.domainEventDeregisterAny(callback)


def is_missing_domain(error: DiskError) -> bool:
    """Whether *error* says that a domain, listed a moment ago, is gone."""
    return bool(libvirt is not None and error.facts.get("libvirt_code") == libvirt.VIR_ERR_NO_DOMAIN)


def _load_binding() -> None:
    """Imports libvirt-python, once. The event loop comes before the first connection, or events never arrive."""
    global libvirt  # pylint: disable=global-statement
    if libvirt is not None:
        return
    try:
        import libvirt as binding
    except ImportError as error:
        raise MissingLibrary("libvirt-python", "to speak with libvirt", traceback.format_exc()) from error
    binding.registerErrorHandler(lambda _context, _error: None, None)  # errors arrive as exceptions, not on stderr too
    binding.virEventRegisterDefaultImpl()
    libvirt = binding


@contextmanager
def _translated(what: str) -> t.Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise _failure(what, error) from error


def _failure(what: str, error: t.Any) -> LibvirtFailed:
    return LibvirtFailed(f"{what}: {error.get_error_message()}", libvirt_code=error.get_error_code())
