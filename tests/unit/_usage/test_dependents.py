# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What depends on a base is found by headers, and noted beside it; what is noted is looked at and never believed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.module_utils._errors import DiskError, HasDependents, UnsafeImage
from ansible_collections.kvmops.disk.plugins.module_utils._files import base_note as _base_note
from ansible_collections.kvmops.disk.plugins.module_utils._files import lock as _lock
from ansible_collections.kvmops.disk.plugins.module_utils._files import state as _state
from ansible_collections.kvmops.disk.plugins.module_utils._formats import references as _references
from ansible_collections.kvmops.disk.plugins.module_utils._usage import dependents as _dependents
from ansible_collections.kvmops.disk.plugins.module_utils._usage import noted_bases as _noted_bases
from ansible_collections.kvmops.disk.plugins.module_utils._usage.users import User
from hypothesis import given
from hypothesis import strategies as st
from support.watched import opened_files
from unit.qcow2_header import BACKING_FORMAT, DATA_FILE, EXTERNAL_DATA, Made


def overlay(path: Path, base: str | Path, **fields: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(Made(backing=os.fsencode(base), **fields)))  # type: ignore[arg-type]
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "golden.qcow2"
    path.write_bytes(bytes(Made()))
    path.chmod(0o664)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def note_of(base: Path) -> Path:
    return base.with_name(f".{base.name}.kvmops-base")


def search(base: Path, *directories: Path, users: tuple[User, ...] = ()) -> list[str]:
    return _dependents.of(str(base), map(str, directories or (base.parent,)), users)


# --- what an image points to --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("golden.qcow2", ["/DIR/golden.qcow2"]),
        ("../bases/golden", ["/bases/golden"]),
        ("/bases/golden", ["/bases/golden"]),
        ("file:/bases/golden", ["/bases/golden"]),
        ("file:///bases/golden", ["/bases/golden"]),
        ("./a:b", ["/DIR/a:b"]),
        ("nbd://host/export", []),
        ('json:{"driver":"qcow2","file":{"driver":"file","filename":"/bases/golden"}}', ["/bases/golden"]),
        ('json:{"driver":"qcow2","file.filename":"golden"}', ["/DIR/golden"]),
        ('json:{"driver":"raw","file":{"driver":"nbd","host":"there"}}', []),
        ("json:{", []),
    ],
)
def test_a_reference_means_the_file_that_qemu_would_open(written: str, meant: list[str], tmp_path: Path) -> None:
    image = overlay(tmp_path / "clone", written)
    wanted = [os.path.normpath(name.replace("/DIR", str(tmp_path))) for name in meant]
    if written.startswith("../"):
        wanted = [os.path.normpath(tmp_path / written)]
    assert [os.path.normpath(name) for name in _references.pointed_to(str(image))] == wanted


@given(
    backing=st.binary(min_size=0, max_size=1100).map(lambda raw: raw.replace(b"\0", b"x").replace(b":", b"x")),
    extensions=st.lists(st.tuples(st.just(BACKING_FORMAT), st.binary(max_size=4200)), max_size=1),
    version=st.sampled_from([2, 3]),
    cluster_bits=st.integers(9, 21),
)
def test_one_read_says_the_same_as_the_whole_look(
    tmp_path_factory: pytest.TempPathFactory,
    backing: bytes,
    extensions: list[tuple[int, bytes]],
    version: int,
    cluster_bits: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "clone"
    path.write_bytes(bytes(Made(version=version, cluster_bits=cluster_bits, backing=backing, extensions=extensions)))
    try:
        found: list[str] | None = _references.pointed_to(str(path))
    except DiskError:
        found = None
    try:
        whole: list[str] | None = _references._all_references(str(path))
    except DiskError:
        whole = None
    if found is not None and whole is not None:
        assert found == [os.path.normpath(path.parent / name) for name in whole]


def test_a_data_file_is_a_reference(tmp_path: Path) -> None:
    image = tmp_path / "top"
    image.write_bytes(bytes(Made(incompatible=EXTERNAL_DATA, extensions=[(DATA_FILE, b"data.raw")])))
    assert _references.pointed_to(str(image)) == [str(tmp_path / "data.raw")]


def test_what_is_no_image_points_nowhere(tmp_path: Path) -> None:
    for name, content in (("empty", b""), ("raw", b"\0" * 8192), ("text", b"QF"), ("cut", b"QFI\xfb\0\0")):
        (tmp_path / name).write_bytes(content)
    assert _references.pointed_to(str(tmp_path / "raw")) == []
    assert _references.pointed_to(str(tmp_path / "empty")) == []
    assert _references.pointed_to(str(tmp_path / "text")) == []
    os.mkfifo(tmp_path / "fifo")
    for name in ("cut", "fifo"):
        with pytest.raises(UnsafeImage):
            _references.pointed_to(str(tmp_path / name))


# --- the search ---------------------------------------------------------------------------------------------------


def test_all_overlays_of_one_base_are_found_and_none_of_another(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.qcow2"
    other.write_bytes(bytes(Made()))
    clones = [overlay(tmp_path / f"clone{number}", base.name) for number in range(3)]
    overlay(tmp_path / "stranger", other.name)
    (tmp_path / "link").symlink_to(base)
    (tmp_path / "hard").hardlink_to(base)
    readers = _dependents.Dependents([str(tmp_path)])
    for name in (base, tmp_path / "link", tmp_path / "hard"):
        assert readers.of(str(name)) == [str(clone) for clone in clones]
    assert readers.of(str(tmp_path / "clone0")) == []
    assert readers.of(str(other)) == [str(tmp_path / "stranger")]


def test_no_backing_file_is_opened_for_the_search(base: Path, tmp_path: Path) -> None:
    found = overlay(tmp_path / "far" / "one", base)
    with opened_files(base) as opened:
        assert _dependents.of(str(base), [str(tmp_path / "far")]) == [str(found)]
    assert not opened


def test_an_overlay_with_two_names_is_one(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "clones" / "a", base)
    (tmp_path / "clones" / "b").symlink_to(clone)
    (tmp_path / "c").hardlink_to(clone)
    assert search(base, tmp_path, tmp_path / "clones") == [str(tmp_path / "c")]


def test_the_files_of_domains_are_looked_at_wherever_they_are(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    user = User("web", "uuid", False, "vda", "disk", str(clone))
    assert search(base) == []
    assert search(base, users=(user,)) == [str(clone)]


def test_what_stands_in_the_way_is_named() -> None:
    with pytest.raises(HasDependents) as caught:
        _dependents.require_none("/b", [f"/c{number}" for number in range(7)], "resize it", "keep it")
    assert "7 image(s) read it as their backing file (/c0, /c1, /c2, /c3, /c4 and 2 more)" in str(caught.value)
    assert len(caught.value.facts["dependents"]) == 7
    _dependents.require_none("/b", [], "resize it", "keep it")


# --- what is noted of a base --------------------------------------------------------------------------------------


def test_a_noted_overlay_is_found_where_nobody_searches(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    assert search(base) == []
    _base_note.protect(str(base), [str(clone)])
    assert search(base) == [str(clone)]
    (tmp_path / "link").symlink_to(base)
    assert search(tmp_path / "link", tmp_path) == [str(clone)]


def test_a_protected_base_is_read_only_and_gets_its_mode_back_with_the_last_overlay(base: Path, tmp_path: Path) -> None:
    first, second = (overlay(tmp_path / "far" / name, base) for name in ("a", "b"))
    _base_note.protect(str(base), [str(first)])
    _base_note.protect(str(base), [str(second)])
    assert mode(base) == 0o444
    assert _base_note.is_protected(str(base), [str(first), str(second)])
    first.unlink()
    assert not _base_note.release(str(base), [str(first)])
    assert mode(base) == 0o444
    assert search(base) == [str(second)]
    second.unlink()
    assert _base_note.release(str(base), [str(second)])
    assert mode(base) == 0o664
    note = _base_note.look(str(base))
    assert note
    assert note.unused_since
    assert (note.mode, note.overlays) == (None, {})
    assert not _base_note.is_protected(str(base), [])


def test_a_base_that_is_used_again_is_protected_again(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    _base_note.protect(str(base), [str(clone)])
    clone.unlink()
    _base_note.release(str(base), [str(clone)])
    overlay(clone, base)
    base.chmod(0o640)
    _base_note.protect(str(base), [str(clone)])
    assert mode(base) == 0o440
    note = _base_note.look(str(base))
    assert note
    assert (note.mode, note.unused_since) == (0o640, None)


def test_protecting_twice_changes_nothing(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    assert not _base_note.is_protected(str(base), [str(clone)])
    _base_note.protect(str(base), [str(clone)])
    before = note_of(base).read_text(encoding="utf-8")
    _base_note.protect(str(base), [str(clone)])
    assert note_of(base).read_text(encoding="utf-8") == before
    assert json.loads(before)["mode"] == 0o664


def test_a_base_can_be_noted_without_being_made_read_only(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    _base_note.protect(str(base), [str(clone)], read_only=False)
    assert mode(base) == 0o664
    assert _base_note.is_protected(str(base), [str(clone)], read_only=False)
    assert not _base_note.is_protected(str(base), [str(clone)])
    assert search(base) == [str(clone)]


def test_a_base_that_others_read_is_not_released(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    by_hand = overlay(tmp_path / "by-hand", base)
    _base_note.protect(str(base), [str(clone)])
    clone.unlink()
    assert not _base_note.release(str(base), [str(clone)], lambda _base: [str(by_hand), str(clone)])
    assert mode(base) == 0o444
    by_hand.unlink()
    assert _base_note.release(str(base), [])
    assert mode(base) == 0o664


def test_releasing_what_was_never_protected_leaves_no_trace(base: Path) -> None:
    assert not _base_note.release(str(base), ["/clones/a"])
    assert sorted(path.name for path in base.parent.iterdir()) == [base.name]


def test_an_overlay_that_was_removed_by_hand_does_not_count(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    _base_note.protect(str(base), [str(clone)])
    clone.unlink()
    assert search(base) == []
    clone.parent.rmdir()
    assert search(base) == []
    assert _base_note.release(str(base), []), "whoever comes next releases the base"


def test_an_overlay_that_became_independent_does_not_count(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    _base_note.protect(str(base), [str(clone)])
    clone.write_bytes(bytes(Made()))
    assert search(base) == []


def test_an_overlay_whose_file_system_is_not_mounted_counts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    is_mount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(clone.parent) or is_mount(path))
    _base_note.protect(str(base), [str(clone)])
    monkeypatch.undo()
    clone.unlink()
    assert search(base) == [str(clone)]
    assert not _base_note.release(str(base), [])
    assert _base_note.release(str(base), [str(clone)]), "the caller knows that it has removed it"


def test_an_overlay_that_is_being_made_counts_until_its_run_ends(base: Path, tmp_path: Path) -> None:
    clone = tmp_path / "far" / "clone"
    clone.parent.mkdir()
    with _lock.operation("clone", [str(clone)]):
        _base_note.protect(str(base), [str(clone)])
        assert search(base) == [str(clone)]
        assert not _base_note.release(str(base), [])
        assert mode(base) == 0o444
    assert search(base) == []


def test_a_note_of_an_earlier_file_at_the_name_gives_no_mode_to_the_new_one(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    _base_note.protect(str(base), [str(clone)])
    new = tmp_path / "new"
    new.write_bytes(bytes(Made()))
    new.chmod(0o600)
    new.rename(base)
    assert search(base) == [str(clone)], "it reads whatever is at that name"
    assert not _base_note.is_protected(str(base), [str(clone)])
    clone.unlink()
    assert _base_note.release(str(base), [str(clone)])
    assert mode(base) == 0o600


def test_a_note_can_be_made_to_hold_for_the_file_that_took_the_place(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    _base_note.protect(str(base), [str(clone)])
    new = tmp_path / "new"
    new.write_bytes(base.read_bytes())
    new.chmod(0o444)
    new.rename(base)
    assert not _base_note.is_in_use(str(base))
    _base_note.adopt(str(base))
    assert _base_note.is_in_use(str(base))
    assert _base_note.release(str(base), [str(clone)])
    assert mode(base) == 0o664


@pytest.mark.parametrize("text", ["{", "[]", '{"inode": "x"}', '{"inode": 1, "overlays": {"a": 1}}', '{"other": 1}'])
def test_a_damaged_note_keeps_everybody_from_writing_the_base(base: Path, text: str) -> None:
    note_of(base).write_text(text, encoding="utf-8")
    for look in (
        lambda: search(base),
        lambda: _base_note.protect(str(base), []),
        lambda: _base_note.release(str(base), []),
    ):
        with pytest.raises(UnsafeImage, match=r"\.golden\.qcow2\.kvmops-base, cannot be read"):
            look()


def test_an_empty_note_says_nothing(base: Path, tmp_path: Path) -> None:
    note_of(base).touch()
    assert search(base) == []
    _base_note.protect(str(base), [str(overlay(tmp_path / "far" / "clone", base))])
    assert len(search(base)) == 1


def test_a_note_is_not_followed_through_a_link(base: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    note_of(base).symlink_to(victim)
    with pytest.raises(DiskError):
        _base_note.protect(str(base), ["/clones/a"])
    assert victim.read_text(encoding="utf-8") == "precious"


def test_a_note_is_understood_once_for_all_overlays_that_it_names(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clones = [str(overlay(tmp_path / f"clone{number}", base)) for number in range(40)]
    _base_note.protect(str(base), clones)
    understood: list[bytes] = []
    parsed = _state.parsed

    def counted(written: bytes) -> object:
        understood.append(written)
        return parsed(written)

    monkeypatch.setattr(_state, "parsed", counted)
    with _lock.operation("vm_linked_clone", clones) as running:
        _noted_bases.find(running, {})
        assert running.bases == {str(base): sorted(clones)}
    assert len(understood) <= 1
    _base_note.protect(str(base), [str(tmp_path / "another")])
    note = _base_note.look(str(base))
    assert note is not None
    assert len(note.overlays) == 41, "what it says by now counts"


def test_what_a_dead_run_left_of_a_new_note_is_replaced(base: Path, tmp_path: Path) -> None:
    clone = overlay(tmp_path / "far" / "clone", base)
    note_of(base).with_name(note_of(base).name + ".new").write_text('{"inode"', encoding="utf-8")
    _base_note.protect(str(base), [str(clone)])
    assert search(base) == [str(clone)]


def test_a_base_that_is_gone_is_forgotten(base: Path, tmp_path: Path) -> None:
    _base_note.protect(str(base), [str(tmp_path / "far")])
    (tmp_path / "link").symlink_to(base)
    _base_note.remove(str(tmp_path / "link"))
    assert note_of(base).exists(), "only a link went"
    _base_note.remove(str(base))
    _base_note.remove(str(base))
    assert list(tmp_path.iterdir()) == []


def test_a_base_is_forgotten_that_a_link_led_to(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to(base)
    _base_note.protect(str(base), [str(tmp_path / "far")])
    _base_note.remove_image(str(link))
    assert [path.name for path in tmp_path.rglob("*")] == ["elsewhere"]


def test_notes_of_many_runs_at_once_are_all_there(base: Path, tmp_path: Path) -> None:
    clones = [overlay(tmp_path / "far" / f"clone{number}", base) for number in range(8)]
    children = []
    for clone in clones:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _base_note.protect(str(base), [str(clone)])
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
    assert search(base) == [str(clone) for clone in clones]
    assert mode(base) == 0o444
