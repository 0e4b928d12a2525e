# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What modules share: argument specs, the walk from a wish to a result, the place where an error becomes fail_json."""

from __future__ import annotations

import os
import signal
import typing as t
from contextlib import ExitStack

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kvmops.disk.plugins.module_utils._errors import (
    DiskError,
    ImageInUse,
    Interrupted,
    InvalidRequest,
    MissingLibrary,
    QemuImgFailed,
    may_still_happen,
)
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files.lock import Operation
from ansible_collections.kvmops.disk.plugins.module_utils._image.layout import ALLOCATIONS, PREALLOCATIONS, Layout
from ansible_collections.kvmops.disk.plugins.module_utils._libvirt import connection as _connection
from ansible_collections.kvmops.disk.plugins.module_utils._plan import Plan
from ansible_collections.kvmops.disk.plugins.module_utils._size import parse_size
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._usage import users as _users
from ansible_collections.kvmops.disk.plugins.module_utils._xml import disks as _disks
from ansible_collections.kvmops.disk.plugins.module_utils._xml import document as _document

_Decision = t.TypeVar("_Decision")

#: Read by the action plugin of the same name as the module; to the module it says nothing.
PROGRESS_SPEC: dict[str, t.Any] = {"progress": {"type": "bool", "default": True}}
OVERCOMMIT_SPEC: dict[str, t.Any] = {"max_overcommit": {"type": "float"}}
URI_SPEC: dict[str, t.Any] = {"uri": {"type": "str", "default": "qemu:///system"}}
TRUST_SPEC: dict[str, t.Any] = {"trusted": {"type": "bool", "default": False}}
SEARCH_SPEC: dict[str, t.Any] = {"search_paths": {"type": "list", "elements": "path", "default": []}}
#: Of a module that may write an image which others have as their backing file.
DEPENDENTS_SPEC: dict[str, t.Any] = {"allow_dependents": {"type": "bool", "default": False}, **SEARCH_SPEC}
IMAGE_SPEC: dict[str, t.Any] = {**URI_SPEC, "path": {"type": "path", "required": True}}
SNAPSHOT_SPEC: dict[str, t.Any] = {
    "snapshot": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent", "reverted"], "default": "present"},
    "keep": {"type": "int"},
    "prefix": {"type": "str"},
}

#: The choices of a layout that a conversion offers too.
ALLOCATION_SPEC: dict[str, t.Any] = {
    "preallocation": {"type": "str", "choices": list(PREALLOCATIONS)},
    "allocation": {"type": "str", "choices": list(ALLOCATIONS)},
    "cluster_size": {"type": "str"},
}
QCOW2_SPEC: dict[str, t.Any] = {
    "compat": {"type": "str", "choices": ["0.10", "1.1"]},
    "lazy_refcounts": {"type": "bool"},
    "refcount_bits": {"type": "int", "choices": [1, 2, 4, 8, 16, 32, 64]},
    "extended_l2": {"type": "bool"},
    "compression_type": {"type": "str", "choices": ["zlib", "zstd"]},
}
#: The signals that ask a process to end.
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

ALLOCATION_EXCLUSIVE = [("preallocation", "allocation")]


def layout_from(params: dict[str, t.Any]) -> Layout:
    """The layout that a module's parameters ask for. Raises InvalidRequest for a cluster size that is no size."""
    cluster_size = params.get("cluster_size")
    return Layout(
        format=params["format"],
        preallocation=ALLOCATIONS[params["allocation"]] if params.get("allocation") else params.get("preallocation"),
        cluster_size=parse_size(cluster_size, "cluster_size") if cluster_size is not None else None,
        compat=params.get("compat"),
        lazy_refcounts=params.get("lazy_refcounts"),
        refcount_bits=params.get("refcount_bits"),
        extended_l2=params.get("extended_l2"),
        compression_type=params.get("compression_type"),
        subformat=params.get("subformat"),
    )


def absolute(path: str, what: str) -> str:
    """*path*, where it can be the name of an image. Raises InvalidRequest for a relative or an impossible one."""
    if not path.startswith("/"):
        raise InvalidRequest(
            f"{what}: {path!r} is relative: give the absolute path, so that it means the same to libvirt and QEMU"
        )
    if "\0" in path or path.endswith("/"):
        raise InvalidRequest(f"{what}: {path!r} does not name a file")
    return path


def require_directories(search_paths: t.Iterable[str]) -> None:
    """Raises InvalidRequest where one of the directories that are to be searched for images is none."""
    for directory in search_paths:
        if not os.path.isdir(absolute(directory.rstrip("/") or "/.", "search_paths")):
            raise InvalidRequest(f"search_paths: {directory} is not a directory: images in it cannot be looked for")


def carry_out(
    decide: t.Callable[[Operation | None], Plan],
    verb: str,
    paths: t.Callable[[], t.Iterable[str]],
    module: AnsibleModule,
    *,
    counted: t.Callable[[], t.Iterable[str]] = lambda: (),
) -> Plan:
    """Decides, and where there is something to do, does it.

    *decide* looks at the world and returns the plan. It is called once without a lock: what needs no change writes
    nothing, not even a record; and once more while the records of *paths* are held, since the world may have moved.
    *paths* is asked for after each; where the second plan means other images than are held, all begins anew.
    *counted* are the directories of new or larger images, asked for like *paths*: with max_overcommit nobody else fills
    their file systems meanwhile who counts, too, what they may come to need.
    """
    plan = decide_after_others(lambda: decide(None), verb, paths, module)
    while plan and not module.check_mode:
        with _lock.operation(verb, paths()) as operation, alone_on(module, counted()):
            plan = decide(operation)
            if {*paths()} <= {*operation.paths}:
                apply_followed(plan, operation, module)
                break
    return plan


def decide_after_others(
    decide: t.Callable[[], _Decision],
    verb: str,
    paths: t.Callable[[], t.Iterable[str]],
    module: AnsibleModule,
    patience: float = _lock.PATIENCE,
) -> _Decision:
    """What *decide* says, and where another run that is at work on *paths* is in its way, once more after that run.

    It may have an image open, or be moving its files. In check mode nobody is waited for.
    """
    try:
        return decide()
    except (ImageInUse, QemuImgFailed) as error:
        alive = any((_lock.look(path) or {}).get("alive") for path in paths())
        if module.check_mode or (isinstance(error, ImageInUse) and not alive):
            raise
        if alive:
            with _lock.operation(verb, paths(), patience):
                pass
        return decide()


def apply_followed(plan: Plan, operation: Operation, module: AnsibleModule) -> None:
    """Applies *plan*; what is noted of bases follows (_ties), whether it succeeds or not, unless nobody knows that."""
    _noted_bases.find(operation, {})
    with ExitStack() as ended:
        ended.push(lambda _kind, error, _trace: None if may_still_happen(error) else settle_ties(module, [operation]))
        plan.apply()


def settle_ties(module: AnsibleModule, operations: t.Iterable[Operation]) -> None:
    """Brings what is noted of bases up to date; a warning says what could not be."""
    for failure in _noted_bases.settle(operations, readers(module)):
        module.warn(failure)


def alone_on(module: AnsibleModule, directories: t.Iterable[str]) -> t.ContextManager[None]:
    """Holds the file systems of *directories* against all others that count what they promise, where the task does."""
    return _lock.alone_on(directories if module.params.get("max_overcommit") is not None else ())


def readers(module: AnsibleModule) -> _base_note.Readers:
    """Searches for the images that read a base as a module's parameters say: by uri and search_paths."""

    def search(base: str) -> list[str]:
        hypervisor = hypervisor_if_any(module.params["uri"])
        directories = _dependents.directories_to_search([base], module.params.get("search_paths", ()), hypervisor)
        return _dependents.of(base, directories, _users.domain_users(hypervisor) if hypervisor else ())

    return search


def run(module: AnsibleModule, function: t.Callable[[AnsibleModule], dict[str, t.Any]]) -> None:
    """Runs *function* and exits with its result, or with the failure that its error describes."""
    for name in _SIGNALS:
        signal.signal(name, _on_signal)
    try:
        module.exit_json(**function(module))
    except MissingLibrary as error:
        module.fail_json(msg=missing_required_lib(error.library, reason=str(error)), exception=error.trace)
    except DiskError as error:
        module.fail_json(msg=whole_story(error), **error.facts)


def whole_story(error: BaseException) -> str:
    """The message of *error*; where it came up while another one was being undone, that one's first."""
    first = error.__context__
    if first is not None and first is error.__cause__:  # what a library said, told already
        first = first.__context__
    if isinstance(error, DiskError) and isinstance(first, DiskError):
        return f"{whole_story(first)}. Then, while that was being undone: {error}"
    return str(error)


def hypervisor_if_any(uri: str) -> _connection.Hypervisor | None:
    """The hypervisor at *uri*, for an image module that asks who uses an image; None where there is no libvirt.

    Such a module works on hosts without libvirt; QEMU's own locks protect a running guest's image there.
    """
    try:
        _document.require_lxml()
        return _connection.Hypervisor.connect(uri)
    except DiskError:
        return None


def refresh_pools(hypervisor: _connection.Hypervisor | None, directories: t.Iterable[str]) -> None:
    """Lets the pools of *directories* see what came or went. A pool that cannot be refreshed is no reason to fail."""
    if hypervisor is None:
        return
    wanted = set(directories)
    try:
        for pool in hypervisor.pools():
            if _disks.pool_path(pool.xml()) in wanted:
                pool.refresh()
    except DiskError:
        return


def _on_signal(number: int, _frame: t.Any) -> None:
    """Ends the work as an error does, so that what was begun is undone; once, so that the undoing is not cut short."""
    for name in _SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    raise Interrupted(
        f"interrupted by {signal.Signals(number).name}: what was begun has been undone, or is finished by the next run"
    )
