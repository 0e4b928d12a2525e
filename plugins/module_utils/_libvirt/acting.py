# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A domain of libvirt to which something is done: its life, its definition, the block jobs on its disks."""

from __future__ import annotations

import json
import threading
import time
import typing as t
from contextlib import ExitStack, contextmanager, suppress

from ansible_collections.kvmops.disk.plugins.module_utils._errors import LibvirtFailed, NoAnswer
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import binding
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.binding import failure, translated
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.domain import METADATA_URI, Domain, GuestFileSystem
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.line import repeatable

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.nodes import CommitNodes

_TICK_SECONDS = 0.5
#: Seconds that a start gets, which may have to find and clear memory, and a snapshot for which file systems are frozen.
_AT_LENGTH = 900.0
#: Seconds that the guest agent gets to freeze, or to thaw, file systems. libvirt itself would wait for ever.
_AGENT_SECONDS = 60
#: Seconds that the guest agent gets to begin with a shutdown, before the power button is pressed.
_AGENT_PROMPT = 10.0
#: Seconds until a guest is asked again to shut down: one that is booting does not hear it before its drivers are there.
_ASKED_AGAIN_AFTER = 5.0
#: Bytes that a block copy has under way at once. QEMU's 16 MiB make the guest's own writes wait longer (tests/bench).
_COPY_BUFFER = 1 << 20


def acting(domain: Domain) -> ActingDomain:
    """*domain*, to do something to it."""
    return ActingDomain(domain._found, domain._line)  # pylint: disable=protected-access


class ActingDomain(Domain):
    """A domain to which something is done, and whose QEMU is asked for what libvirt does not tell."""

    def take_snapshot(self, xml: str, *, quiesce: bool = False) -> None:
        """A snapshot of disks alone, all of them at one point in time or none, into overlays that are there already.

        *quiesce*: the guest agent freezes the file systems meanwhile. Raises LibvirtFailed where it does not within its
        time: nothing was taken then (binding.is_silent_agent).
        """
        library = binding.libvirt
        flags = library.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | library.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        flags |= library.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        flags |= library.VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE if quiesce else 0
        with translated(f"{self.name}: cannot take the snapshot"):
            if not quiesce:
                self._ask(self._domain.snapshotCreateXML, xml, flags)
                return
            with self._agent_bounded():
                self._ask(self._domain.snapshotCreateXML, xml, flags, seconds=_AT_LENGTH)

    @repeatable
    def thaw(self) -> None:
        """Has the guest agent thaw the file systems; nothing happens to those that are not frozen. Raises
        LibvirtFailed where the agent does not answer."""
        with translated(f"{self.name}: cannot have the guest agent thaw the file systems"), self._agent_bounded():
            self._ask(self._domain.fsThaw, seconds=_AT_LENGTH)

    def trim(self, seconds: int) -> None:
        """Has the guest agent tell the disks which blocks the file systems that are mounted do not use.

        Raises LibvirtFailed where it does not within *seconds*: it may still go on then (binding.is_silent_agent).
        """
        what = f"{self.name}: cannot have the guest agent trim the file systems"
        with translated(what), self._agent_bounded(seconds):
            self._ask(self._domain.fSTrim, None, 0, 0, seconds=seconds + binding.PATIENCE)

    @repeatable
    def guest_file_systems(self, seconds: int = _AGENT_SECONDS) -> list[GuestFileSystem]:
        """The file systems that the guest has mounted.

        Raises LibvirtFailed where its agent does not answer within *seconds*, or there is none.
        """
        what = f"{self.name}: cannot ask the guest agent for what is mounted"
        with translated(what), self._agent_bounded(seconds):
            kind = binding.libvirt.VIR_DOMAIN_GUEST_INFO_FILESYSTEM
            found = self._ask(self._domain.guestInfo, kind, 0, seconds=seconds + binding.PATIENCE)
            if "fs.count" not in found:  # there are none, or the agent keeps silent: this call tells
                self._ask(self._domain.fsInfo, seconds=seconds + binding.PATIENCE)
        return [_guest_file_system(found, f"fs.{number}.") for number in range(found.get("fs.count", 0))]

    @contextmanager
    def _agent_bounded(self, seconds: int = _AGENT_SECONDS) -> t.Iterator[None]:
        """Lets libvirt wait for the guest agent for a limited time only. It does not tell which limit it had before:
        afterwards it has none, as it has by itself."""
        self._ask(self._domain.agentSetResponseTimeout, seconds, 0)
        try:
            yield
        finally:
            with suppress(binding.libvirt.libvirtError, LibvirtFailed):  # it may have gone off
                no_limit = binding.libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK
                self._ask(self._domain.agentSetResponseTimeout, no_limit, 0)

    @repeatable
    def redefine_snapshot(self, xml: str) -> None:
        """Has libvirt say of a snapshot what *xml* does; nothing happens to images, nor to which one is current."""
        with translated(f"{self.name}: cannot redefine a snapshot"):
            self._ask(self._domain.snapshotCreateXML, xml, binding.libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)

    @repeatable
    def forget_snapshot(self, name: str) -> None:
        """Has libvirt know nothing of a snapshot any more; its images stay. Nothing to do where it knows nothing."""
        with translated(f"{self.name}: cannot remove libvirt's record of the snapshot {name}"):
            try:
                found = self._domain.snapshotLookupByName(name)
                self._ask(found.delete, binding.libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
            except binding.libvirt.libvirtError as error:
                if error.get_error_code() != binding.libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
                    raise

    def revert(self, name: str) -> None:
        """Brings the disks, and the definition, back to the snapshot: on new overlays that libvirt makes. A domain that
        runs is off afterwards (HAZARDS J). Raises LibvirtFailed, before 9.10 for every external snapshot."""
        with translated(f"{self.name}: cannot revert to the snapshot {name}"):
            self._ask(self._domain.revertToSnapshot, self._domain.snapshotLookupByName(name), 0)

    @repeatable
    def resize_disk(self, target: str, size: int) -> None:
        """Gives a disk of the running domain *size* bytes, which its guest sees at once (HAZARDS G12).

        libvirt makes it smaller as readily as larger, even empty (HAZARDS A5). Raises LibvirtFailed.
        """
        what = f"{self.name}: cannot resize {target}"
        with translated(what):
            try:
                self._ask(self._domain.blockResize, target, size, binding.libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
            except binding.libvirt.libvirtError as error:
                if not self._is_because_off(error):
                    raise
                raise failure(
                    f"{what}: the domain went off in the meantime: nothing was changed: run again", error
                ) from error

    def undefine(self) -> None:
        """Removes the definition, with what libvirt itself keeps of the domain: a managed-save image, and what it
        knows of snapshots and checkpoints. The file with its UEFI variables stays."""
        flags = (
            binding.libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | binding.libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | binding.libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | binding.libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        )
        with translated(f"{self.name}: cannot undefine the domain"):
            self._domain.undefineFlags(flags)

    def start(self) -> None:
        with translated(f"{self.name}: cannot start the domain"):
            self._ask(self._domain.create, seconds=_AT_LENGTH)

    @repeatable
    def destroy(self) -> None:
        """Pulls the plug; nothing to do where the domain went off meanwhile."""
        with translated(f"{self.name}: cannot destroy the domain"):
            try:
                self._ask(self._domain.destroy)
            except binding.libvirt.libvirtError as error:
                if not self._is_because_off(error):
                    raise

    def shut_down(self, seconds: float) -> bool:
        """Asks the guest to power off, again and again, and waits for it. False: it was still on after *seconds*.

        shutdown() returns at once, a guest without ACPI never goes off (HAZARDS G15), and one that is booting has
        nobody yet who hears it.
        """
        deadline, due, agent = time.monotonic() + seconds, 0.0, True
        with self.watched() as wait, translated(f"{self.name}: cannot ask the guest to shut down"):
            while self.is_active():
                now = time.monotonic()
                if now >= deadline:
                    return False
                if now >= due:
                    agent = self._ask_to_shut_down(agent=agent, again=due > 0)
                    due = time.monotonic() + _ASKED_AGAIN_AFTER
                wait(min(deadline - now, _TICK_SECONDS))
        return True

    def _ask_to_shut_down(self, *, agent: bool, again: bool) -> bool:
        """By the guest agent where that answers, else by the power button; without *agent* by the button at once.

        False: an agent that says that it is there does not answer; libvirt waits a minute for it each time. *again*: it
        was asked before, so that what libvirt refuses now is no failure.
        """
        try:
            if agent:
                with suppress(NoAnswer):  # where it is QEMU that is silent, the button will say so
                    self._ask(self._domain.shutdown, seconds=min(binding.PATIENCE, _AGENT_PROMPT))
                    return True
            self._ask(self._press_power_button)
        except binding.libvirt.libvirtError as error:
            if not again and not self._is_because_off(error):
                raise
            return agent
        return False

    def _press_power_button(self) -> None:
        self._domain.shutdownFlags(binding.libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)

    @contextmanager
    def watched(self) -> t.Iterator[t.Callable[[float], None]]:
        """A function that waits until the life of the domain, a job, or a device of it changes, for so many seconds at
        most.

        The limit covers an event that came before anybody listened, one that cannot be listened for, and a libvirtd
        that has died.
        """
        happened = threading.Event()
        with translated(f"{self.name}: cannot find the domain"):
            domain = self._domain
        connection = domain.connect()

        def wait(seconds: float) -> None:
            happened.wait(seconds)
            happened.clear()

        with ExitStack() as listening:
            for event in (
                binding.libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                binding.libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
                binding.libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                binding.libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
            ):
                with suppress(binding.libvirt.libvirtError):
                    callback = connection.domainEventRegisterAny(domain, event, lambda *_told: happened.set(), None)
                    listening.callback(_deaf, connection, callback)
            yield wait

    def block_copy(self, target: str, destination: str, *, shallow: bool = False, bandwidth: int | None = None) -> None:
        """Begins to copy a disk of the running domain into an image that is there already (HAZARDS G4, G6).

        *destination* is its ``<disk>``, *bandwidth* in bytes a second. Not for ever: a persistent domain only takes a
        transient job.
        """
        flags = binding.libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB | binding.libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT
        flags |= binding.libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW if shallow else 0
        parameters = {binding.libvirt.VIR_DOMAIN_BLOCK_COPY_BUF_SIZE: _COPY_BUFFER}
        if bandwidth:
            parameters[binding.libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH] = bandwidth
        with translated(f"{self.name}: cannot copy {target} while the domain runs"):
            self._ask(self._domain.blockCopy, target, destination, parameters, flags)

    def pull(self, target: str, base: str | None = None, *, bandwidth: int | None = None) -> None:
        """Begins to fill the image of a disk with what it reads from its backing files; nobody waits for it.

        *base* is the index (``vda[3]``) of the one that the image is to keep, None for none; *bandwidth* in bytes a
        second. In the end libvirt shortens the chain in the live XML, and in the definition where that names one.
        flush() is needed then, so MissingLibrary is raised now where that could not be.
        """
        binding.monitor()
        with translated(f"{self.name}: cannot pull the backing files of {target} into its image"):
            if base is None:
                flag = binding.libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES
                self._ask(self._domain.blockPull, target, bandwidth or 0, flag)
            else:
                flag = binding.libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES
                self._ask(self._domain.blockRebase, target, base, bandwidth or 0, flag)

    def commit(self, target: str, top: str | None, base: str, *, bandwidth: int | None = None) -> None:
        """Begins to write what lies above the backing file *base* of a disk, up to *top*, into *base*.

        Both are indexes (``vda[3]``). *top* is None for the image of the disk itself: that job goes on until pivot(),
        or its end, which leaves the guest on its image. *bandwidth* in bytes a second.
        """
        flags = binding.libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
        flags |= binding.libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE if top is None else 0
        with translated(f"{self.name}: cannot merge an image of {target} into its backing file"):
            self._ask(self._domain.blockCommit, target, base, top, bandwidth or 0, flags)

    def flush(self, target: str, index: str) -> None:
        """Has QEMU write what it keeps of the image of a running domain's disk in its memory, metadata above all.

        *index* is libvirt's number of the image. libvirt has no call for that, so QEMU's monitor is asked, of which the
        domain's log speaks (``custom-monitor``). Raises LibvirtFailed.
        """
        what = f"{self.name}: cannot have QEMU write the metadata of {target}"
        words = {"command-line": f"qemu-io libvirt-{index}-format flush"}
        said = self._ask_monitor(what, "human-monitor-command", words)
        if said and said.strip():
            raise LibvirtFailed(f"{what}: {said.strip()}")

    def commit_nodes(self, target: str) -> CommitNodes | None:
        """The images of the commit into a backing file of a running domain's disk; None where none goes on any more.

        libvirt does not tell, so QEMU's monitor is asked, as in flush(). Raises LibvirtFailed.
        """
        from ansible_collections.kvmops.disk.plugins.module_utils._libvirt.nodes import commit_nodes

        what = f"{self.name}: cannot see what is merged below {target}"
        jobs = self._ask_monitor(what, "query-block-jobs")
        return commit_nodes(target, jobs, self._ask_monitor(what, "query-named-block-nodes", {"flat": True}))

    def qemu_version(self) -> tuple[int, int]:
        """The version of the QEMU in which the domain runs: the installed one may be another by now.

        libvirt does not tell, so QEMU's monitor is asked, as in flush(). Raises LibvirtFailed.
        """
        told = self._ask_monitor(f"{self.name}: cannot ask for the version of its QEMU", "query-version")["qemu"]
        return int(told["major"]), int(told["minor"])

    @repeatable
    def _ask_monitor(self, what: str, command: str, arguments: dict[str, t.Any] | None = None) -> t.Any:
        """The answer of QEMU's monitor. Raises LibvirtFailed, with *what* it was for."""
        words = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        with translated(what):
            return json.loads(self._ask(binding.monitor().qemuMonitorCommand, self._domain, words, 0)).get("return")

    @repeatable
    def limit_block_job(self, target: str, bandwidth: int | None) -> None:
        """Lets the block job on a disk go on with *bandwidth* bytes a second; None: as fast as it can."""
        with translated(f"{self.name}: cannot set the bandwidth of the block job on {target}"):
            flags = binding.libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES
            self._ask(self._domain.blockJobSetSpeed, target, bandwidth or 0, flags)

    @repeatable
    def pivot(self, target: str) -> None:
        """Lets the guest go on with the destination of the block copy."""
        with translated(f"{self.name}: cannot pivot {target} to its new image"):
            self._ask(self._domain.blockJobAbort, target, binding.libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)

    @repeatable
    def end_block_job(self, target: str) -> None:
        """Ends the block job on a disk; the guest stays on the image that it has."""
        with translated(f"{self.name}: cannot end the block job on {target}"):
            self._ask(self._domain.blockJobAbort, target, 0)

    def set_record(self, element: str, uri: str = METADATA_URI) -> None:
        """Writes the element of ours into the metadata of the definition."""
        self._set_metadata(element, uri, binding.libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def remove_record(self, uri: str = METADATA_URI) -> None:
        """Removes the element of ours, from the running domain too: that was started with it."""
        try:
            if self.is_active():
                self._set_metadata(None, uri, binding.libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except LibvirtFailed as error:
            if error.facts["libvirt_code"] != binding.libvirt.VIR_ERR_OPERATION_INVALID:  # it went off meanwhile
                raise
        self._set_metadata(None, uri, binding.libvirt.VIR_DOMAIN_AFFECT_CONFIG)

    def _is_because_off(self, error: t.Any) -> bool:
        """Whether *error* of libvirt says no more than that the domain is off."""
        return error.get_error_code() == binding.libvirt.VIR_ERR_OPERATION_INVALID and not self._domain.isActive()

    @repeatable
    def _set_metadata(self, element: str | None, uri: str, where: int) -> None:
        prefix = uri.replace("urn:", "").replace(":", "-") if element is not None else None
        kind = binding.libvirt.VIR_DOMAIN_METADATA_ELEMENT
        with translated(f"{self.name}: cannot write the domain's metadata"):
            self._ask(self._domain.setMetadata, kind, element, prefix, uri, where)


def _deaf(connection: t.Any, callback: int) -> None:
    with suppress(binding.libvirt.libvirtError):  # libvirtd may have died
        connection.domainEventDeregisterAny(callback)


def _guest_file_system(found: t.Mapping[str, t.Any], key: str) -> GuestFileSystem:
    """The file system of which libvirt's list *found* tells under names that begin with *key*."""
    aliases = (found.get(f"{key}disk.{number}.alias") for number in range(found.get(f"{key}disk.count", 0)))
    return GuestFileSystem(
        point=found.get(f"{key}mountpoint", ""),
        used=found.get(f"{key}used-bytes"),
        total=found.get(f"{key}total-bytes"),
        disks=tuple(sorted({alias or "" for alias in aliases})),
    )
