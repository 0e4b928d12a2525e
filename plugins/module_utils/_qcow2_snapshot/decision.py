# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The decision about the internal snapshots of an image: taken, deleted, gone back to, and how many are kept."""

from __future__ import annotations

import typing as t

from ansible_collections.kvmops.disk.plugins.module_utils._dataclass import asdict, dataclass
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, ImageInUse, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._formats.qcow2 import MOST_SNAPSHOTS
from ansible_collections.kvmops.disk.plugins.module_utils._formats.snapshots import Snapshot, SnapshotEntry
from ansible_collections.kvmops.disk.plugins.module_utils._image.trust import require_writable_alone
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan, Step
from ansible_collections.kvmops.disk.plugins.module_utils._qcow2_snapshot.wish import LONGEST_NAME, SnapshotWish
from ansible_collections.kvmops.disk.plugins.module_utils._size import exact_size

if t.TYPE_CHECKING:
    from ansible_collections.kvmops.disk.plugins.module_utils._image.image import Image
    from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User

#: Bytes of an entry of the snapshot table, without its name; QEMU writes fewer.
_ENTRY = 128


class Work(t.Protocol):
    """What can be done to the snapshots of an image."""

    def take(self, name: bytes) -> None:
        """Takes a snapshot of that name."""

    def delete(self, name: bytes) -> None:
        """Deletes the snapshot of that name."""

    def revert(self, identifier: str) -> None:
        """Goes back to the snapshot with that ID."""

    def verify(self, names: t.Sequence[str] | None) -> None:
        """Raises DiskError where the snapshots then do not have these *names*, or, for None, where the disk is not what
        the wished one holds."""


@dataclass(frozen=True)
class Observed:
    """The image, its snapshot table, and whether its active layer is what the wished snapshot holds.

    *l1_entries*: how many entries the largest L1 table has that may have to be written.
    """

    image: Image
    entries: tuple[SnapshotEntry, ...]
    l1_entries: int
    at_snapshot: bool = False


def plan_snapshots(wish: SnapshotWish, observed: Observed, work: t.Callable[[], Work]) -> Plan:
    """The plan that brings the snapshots of an image, or its active layer, to what is wanted; *work* is asked for where
    something is done.

    Raises DiskError where a name means two snapshots or, to go back to, none.
    """
    if wish.state == "reverted":
        return _revert(wish, observed, work)
    new, removed = addition(wish, observed), removals(wish, observed)
    if new is not None:
        _require_room(observed)
    for entry in removed:
        _require_deletable(entry, observed)
    steps = [_create(wish.path, new, work)] if new is not None else []
    steps += [_delete(wish.path, entry, work) for entry in removed]
    names = [entry.snapshot.name for entry in observed.entries]
    after = [entry.snapshot.name for entry in outcome(wish, observed)]
    if steps:
        steps.append(Step("", lambda: work().verify(after)))
    return Plan({"snapshots": names}, {"snapshots": after}, tuple(steps))


def outcome(wish: SnapshotWish, observed: Observed) -> list[SnapshotEntry]:
    """The snapshots as they are to be."""
    new, removed = addition(wish, observed), removals(wish, observed)
    return [entry for entry in observed.entries if entry not in removed] + ([new] if new is not None else [])


def addition(wish: SnapshotWish, observed: Observed) -> SnapshotEntry | None:
    """The snapshot that is to be taken; QEMU numbers them on from the highest ID. Its date is not known yet."""
    if wish.name is None or wish.state != "present" or find(wish.name.encode(), observed) is not None:
        return None
    numbers = [int(entry.snapshot.id) for entry in observed.entries if entry.snapshot.id.isdecimal()]
    identifier = str(max(numbers, default=0) + 1)
    snapshot = Snapshot(identifier, wish.name, None, 0, observed.image.virtual_size)
    return SnapshotEntry(snapshot, wish.name.encode(), 0, 0, 0)


def removals(wish: SnapshotWish, observed: Observed) -> list[SnapshotEntry]:
    """The snapshots that are to be deleted: the one that the task names, then what is too old, the oldest first.

    Retention never deletes a snapshot that the same task wants to be there.
    """
    named = find(wish.name.encode(), observed) if wish.name is not None else None
    new = addition(wish, observed)
    gone = [named] if named is not None and wish.state == "absent" else []
    if wish.keep is None:
        return gone
    prefix = (wish.prefix or "").encode()
    counted = [entry for entry in observed.entries if entry.name.startswith(prefix) and entry not in gone]
    counts_new = new is not None and new.name.startswith(prefix)
    # QEMU appends to its table: where dates are equal, its order decides.
    oldest_first = sorted(counted, key=lambda entry: entry.snapshot.date or "")
    surplus = oldest_first[: max(0, len(oldest_first) + counts_new - wish.keep)]
    return gone + [entry for entry in surplus if entry != named]


def find(name: bytes, observed: Observed) -> SnapshotEntry | None:
    """The one snapshot of that name, byte for byte. Raises DiskError where there are several."""
    found = [entry for entry in observed.entries if entry.name == name]
    if len(found) > 1:
        named = f"{found[0].snapshot.name!r} (IDs {', '.join(entry.snapshot.id for entry in found)})"
        raise DiskError(
            f"{observed.image.path}: has {len(found)} snapshots named {named}, and qemu-img cannot tell them apart: "
            "delete the oldest with qemu-img snapshot -d, or choose another name",
            snapshots=[vars(entry.snapshot) for entry in found],
        )
    return found[0] if found else None


def _revert(wish: SnapshotWish, observed: Observed, work: t.Callable[[], Work]) -> Plan:
    image = observed.image
    found = find(str(wish.name).encode(), observed)
    if found is None:
        names = ", ".join(repr(entry.snapshot.name) for entry in observed.entries) or "none"
        raise DiskError(
            f"{image.path}: has no snapshot {wish.name!r} to revert to; it has: {names}",
            snapshots=[vars(entry.snapshot) for entry in observed.entries],
        )
    size, virtual_size = found.snapshot.virtual_size, image.virtual_size
    after = {"reverted_to": wish.name, "virtual_size": size}
    if observed.at_snapshot:
        return Plan(after, after)
    if size != virtual_size and image.compat == "0.10":
        raise DiskError(
            f"{image.path}: has {exact_size(virtual_size)}, its snapshot {wish.name!r} {exact_size(size)}: an image of "
            "compat 0.10 with snapshots cannot be resized: bring it to compat 1.1 with kvmops.disk.qcow2_image",
            virtual_size=virtual_size,
        )
    identifier = found.snapshot.id
    if not identifier.isdecimal() or sum(entry.snapshot.id == identifier for entry in observed.entries) > 1:
        raise UnsafeImage(
            f"{image.path}: its snapshot {wish.name!r} has the ID {identifier!r}, by which QEMU may not find it: "
            "convert the snapshot into a new image",
            path=image.path,
        )
    resized = f", which has {exact_size(size)} instead of {exact_size(virtual_size)}" if size != virtual_size else ""
    step = Step(
        f"revert {image.path} to its snapshot {wish.name}{resized}",
        lambda: work().revert(identifier),
    )
    return Plan(
        {"reverted_to": None, "virtual_size": virtual_size}, after, (step, Step("", lambda: work().verify(None)))
    )


def require_changeable(image: Image) -> None:
    """Raises where QEMU refuses to write *image* or to take snapshots of it, or needs more than the task can say."""
    if image.data_file is not None:
        raise UnsafeImage(
            f"{image.path}: keeps its data in another file, {image.data_file}: QEMU takes no snapshots of such images",
            path=image.path,
        )
    require_writable_alone(image)


def require_not_libvirts(path: str, removed: t.Iterable[str], recorded: t.Mapping[str, User]) -> None:
    """Raises ImageInUse where one of the snapshots that are to be *removed* is one of a domain, by libvirt's records.

    libvirt keeps records of the snapshots that it made inside of images, and fails on those that are gone.
    """
    for name in removed:
        user = recorded.get(name)
        if user is not None:
            raise ImageInUse(
                f"{path}: its snapshot {name!r} is one of domain {user.domain}, in libvirt's records: delete it there "
                "(virsh snapshot-delete)",
                path=path,
                in_use_by=[asdict(user)],
            )


def bytes_needed(observed: Observed) -> int:
    """What a new snapshot needs at once: a copy of the L1 table, a new snapshot table, some clusters for counts."""
    cluster = observed.image.cluster_size or 65536
    names = sum(len(entry.name) + _ENTRY for entry in observed.entries) + LONGEST_NAME + _ENTRY
    return sum(-(-size // cluster) * cluster for size in (8 * observed.l1_entries, names)) + 4 * cluster


def _require_room(observed: Observed) -> None:
    image, snapshots = observed.image, len(observed.entries)
    if snapshots >= MOST_SNAPSHOTS:
        raise DiskError(f"{image.path}: has {snapshots} snapshots, as many as an image can have: delete some")
    bits = image.refcount_bits or 16
    if snapshots + 2 >= 1 << bits:
        raise DiskError(
            f"{image.path}: has {snapshots} snapshot(s), and with reference counts of {bits} bit(s) a cluster cannot "
            "belong to one more: amend refcount_bits with kvmops.disk.qcow2_image",
            refcount_bits=bits,
        )


def _require_deletable(entry: SnapshotEntry, observed: Observed) -> None:
    """Raises where the name of a surplus snapshot is not enough to delete that one."""
    find(entry.name, observed)
    if not 1 <= len(entry.name) <= LONGEST_NAME:
        raise DiskError(
            f"{observed.image.path}: cannot delete its snapshot with the ID {entry.snapshot.id}: QEMU does not find a "
            f"name of {len(entry.name)} bytes: choose a prefix that leaves it alone",
        )


def _create(path: str, new: SnapshotEntry, work: t.Callable[[], Work]) -> Step:
    return Step(f"take snapshot {new.snapshot.name} of {path}", lambda: work().take(new.name))


def _delete(path: str, entry: SnapshotEntry, work: t.Callable[[], Work]) -> Step:
    return Step(f"delete snapshot {entry.snapshot.name} of {path}", lambda: work().delete(entry.name))
