# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make hosts` decides without a host: sources, inventory, instants, denials, whose files are, and its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hosts.chapters import all_names, chapters_for
from hosts.cuts import instants
from hosts.denials import denials
from hosts.kinds import all_kinds, chosen, role_packages
from hosts.play import inventory, recap
from hosts.recipe import apt_sources, laid_files
from hosts.rest import Made, Restarted, State, faults
from hosts.table import Row, table

KINDS = all_kinds()
TARGETS = """\
http://mirror.example/debian bookworm main
http://mirror.example/debian bookworm contrib
http://mirror.example/debian bookworm-updates main
http://security.example bookworm-security main
http://vendor.example/apt stable main
"""
ROOT = State("root", "root", "0644", "")
QEMU = State("libvirt-qemu", "libvirt-qemu", "0644", "")
IMAGE = "/srv/vm/web.raw"
COPY = "/srv/dest/web.qcow2"
GOLDEN = "/srv/golden/golden.qcow2"
CONTROL = "/srv/vm/control.qcow2"
CONTROLS = {"golden": {"vda": GOLDEN}, "control": {"vda": CONTROL}}
FILES = {IMAGE: ROOT, GOLDEN: ROOT, CONTROL: ROOT}
MADE = Made(files=FILES, disks={**CONTROLS, "web": {"vda": IMAGE}})
CONVERTED = Restarted(
    stopped={**FILES, COPY: ROOT},
    started={**FILES, COPY: QEMU, CONTROL: QEMU, GOLDEN: QEMU},
    rest={**FILES, COPY: ROOT},
    disks={**CONTROLS, "web": {"vda": COPY}},
    content={"web": True},
)


def test_a_host_comes_from_the_sources_of_this_machine_and_from_no_others() -> None:
    assert apt_sources(TARGETS, "bookworm", "trixie") == [
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
        "deb http://security.example trixie-security main",
    ]


def test_a_machine_without_the_sources_of_its_own_release_makes_no_host() -> None:
    with pytest.raises(LookupError, match="no release sid"):
        apt_sources(TARGETS, "sid", "trixie")


def test_a_private_key_is_for_root_alone() -> None:
    files = {file.path: file for file in laid_files(KINDS["apparmor"], "user", "host", "public")}
    assert files["etc/ssh/ssh_host_ed25519_key"].mode == 0o600
    assert files["home/ops/.ssh/authorized_keys"].text == "user"
    assert "etc/apt/sources.list" not in files


def test_the_bare_host_has_what_the_role_installs_in_an_archive_of_its_own() -> None:
    bare = KINDS["bare"]
    assert bare.offered == role_packages()
    assert set(bare.offered).isdisjoint(bare.packages)
    assert not [name for name in role_packages() if "{" in name]
    sources = {file.path: file.text for file in laid_files(bare, "", "", "")}["etc/apt/sources.list"]
    assert sources == "deb [trusted=yes] file:/srv/packages ./\n"


def test_hosts_are_chosen_by_name() -> None:
    assert [kind.name for kind in chosen(["selinux", "bare"])] == ["selinux", "bare"]
    assert chosen([]) == list(KINDS.values())
    with pytest.raises(KeyError, match="fedora"):
        chosen(["fedora"])


def test_a_chosen_playbook_comes_with_those_before_it_and_without_those_behind_it() -> None:
    (chapter,) = chapters_for(KINDS["apparmor"], ["snapshot_merge"])
    assert [playbook.name for playbook in chapter.playbooks] == ["snapshot_take", "snapshot_merge"]
    (chapter,) = chapters_for(KINDS["apparmor"], ["attach"])
    assert [playbook.name for playbook in chapter.playbooks] == ["attach"]
    assert chapters_for(KINDS["bare"], ["attach"]) == []


def test_every_playbook_is_run_and_every_run_has_a_playbook() -> None:
    folder = Path(__file__).resolve().parents[1] / "hosts" / "playbooks"
    assert all_names() == sorted(path.stem for path in folder.glob("*.yml"))


def test_an_inventory_names_the_host_in_the_group_of_the_playbooks() -> None:
    group, host = inventory("bare", Path("/run/ssh_config"), Path("/run/output")).splitlines()
    assert group == "[kvm_hosts]"
    assert host.startswith("bare ansible_ssh_common_args='-F /run/ssh_config' ")
    assert host.endswith(" output=/run/output")


@pytest.mark.parametrize(
    ("counts", "is_done"),
    [
        ("ok=3    changed=2    unreachable=0    failed=0", True),
        ("ok=3    changed=2    unreachable=0    failed=1", False),
        ("ok=3    changed=2    unreachable=1    failed=0", False),
        ("ok=0    changed=0    unreachable=0    failed=0", False),
    ],
)
def test_a_recap_says_whether_all_went_well(counts: str, is_done: bool) -> None:
    output = f"PLAY RECAP ****\nother  : ok=9    changed=9    unreachable=0    failed=0\nbare   : {counts}\n"
    assert recap(output, "bare").is_done is is_done


def test_output_without_a_recap_is_no_success() -> None:
    assert not recap("ERROR! the playbook could not be found", "bare").is_done


def test_a_seed_gives_a_playbook_the_same_instants_whatever_else_is_run() -> None:
    assert instants(7, "bare", "hypervisor", 4) == instants(7, "bare", "hypervisor", 4)
    assert instants(7, "bare", "hypervisor", 4) != instants(8, "bare", "hypervisor", 4)
    assert instants(7, "trixie", "resize", 4)[:2] == instants(7, "trixie", "resize", 3)[:2]


def test_the_last_cut_comes_right_after_the_success() -> None:
    *before, last = instants(7, "trixie", "resize", 5)
    assert last == 1.0
    assert all(0 < instant < 1 for instant in before)
    assert instants(7, "trixie", "resize", 0) == []


def test_denials_are_told_from_what_a_permissive_domain_is_let() -> None:
    found = denials(
        'audit: type=1400 audit(1.0:1): apparmor="DENIED" operation="open" name="/srv/x"\n'
        'audit: type=1400 audit(1.0:2): apparmor="STATUS" operation="profile_load"\n'
        "audit: type=1400 audit(1.0:3): avc:  denied  { read } for scontext=system_u:system_r:svirt_t:s0 permissive=0\n"
        "audit: type=1400 audit(1.0:4): avc:  denied  { read } for scontext=system_u:system_r:virtd_t:s0 permissive=1\n"
    )
    assert [len(found.enforced), len(found.permitted)] == [2, 1]


def test_a_converted_disk_that_belongs_to_whom_the_old_one_did_is_as_it_should_be() -> None:
    assert faults(MADE, CONVERTED) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"rest": {**CONVERTED.rest, COPY: QEMU}},
            f"{COPY}: is libvirt-qemu:libvirt-qemu 0644, and libvirt leaves root",
        ),
        ({"stopped": {**CONVERTED.stopped, IMAGE: QEMU}}, f"{IMAGE}: is libvirt-qemu:libvirt-qemu 0644, and libvirt"),
        ({"started": {**CONVERTED.started, COPY: ROOT}}, "libvirt leaves libvirt-qemu:libvirt-qemu 0644 (started)"),
        ({"rest": {**CONVERTED.rest, "/srv/dest/.half": ROOT}}, "/srv/dest/.half: is left, and nobody's (rest)"),
        ({"content": {"web": False}}, "web: its disk does not hold its content"),
        ({"disks": CONTROLS}, "web: is gone"),
    ],
)
def test_what_is_wrong_after_a_playbook_is_said(changed: dict[str, Any], said: str) -> None:
    assert any(said in fault for fault in faults(MADE, replace(CONVERTED, **changed)))


def test_categories_of_a_running_guest_differ_from_start_to_start_and_are_not_left_at_rest() -> None:
    def labelled(label: str, *paths: str) -> dict[str, State]:
        return dict.fromkeys(paths, replace(ROOT, label=f"system_u:object_r:{label}"))

    rest = labelled("virt_image_t:s0", *FILES)
    running = {**labelled("svirt_image_t:s0:c1,c2", CONTROL), **labelled("svirt_image_t:s0:c5,c9", IMAGE)}
    made = replace(MADE, files=rest)
    after = Restarted(rest, {**rest, **running}, rest, made.disks, {})
    assert faults(made, after) == []
    assert faults(made, replace(after, rest={**rest, **labelled("svirt_image_t:s0:c5,c9", IMAGE)})) != []


def test_files_in_private_folders_belong_to_anybody() -> None:
    after = replace(CONVERTED, rest={**CONVERTED.rest, "/srv/backup/1/vda.qcow2": QEMU})
    assert faults(MADE, after, private=["/srv/backup"]) == []


def test_a_backing_file_may_be_as_libvirt_leaves_that_of_the_control_and_an_overlay_may_not() -> None:
    over = "/srv/vm/web.before-upgrade.qcow2"
    started = {**FILES, over: QEMU, CONTROL: QEMU, GOLDEN: QEMU, IMAGE: QEMU}
    rest = {**FILES, over: ROOT, GOLDEN: QEMU, IMAGE: QEMU}
    after = Restarted(rest, started, rest, {**CONTROLS, "web": {"vda": over}}, {})
    assert faults(MADE, after) == []
    assert faults(MADE, replace(after, rest={**rest, over: QEMU})) != []


def test_a_disk_of_a_clone_is_like_that_of_the_control() -> None:
    desk = "/srv/vm/desk-1.qcow2"
    disks = {**MADE.disks, "desk-1": {"vda": desk}}
    after = Restarted({**FILES, desk: ROOT}, {**FILES, desk: QEMU, CONTROL: QEMU, IMAGE: QEMU}, FILES, disks, {})
    assert faults(MADE, after) == []
    assert faults(MADE, replace(after, rest={**FILES, desk: QEMU})) != []


def test_the_table_says_what_became_of_each_playbook() -> None:
    rows = [
        Row("apparmor", "resize", changed=2, cuts=3, survived=3),
        Row("trixie", "attach", changed=1, again=1, faults=("sda is gone",)),
        Row("apparmor", "snapshot_revert", not_run="libvirt 9.0 cannot do it"),
    ]
    assert [row.is_good for row in rows] == [True, False, True]
    assert table(rows).splitlines() == [
        "host      playbook         changed  second run  denials  cuts survived",
        "apparmor  resize           2        unchanged   0        3 of 3",
        "trixie    attach           1        1 changed   0        -              FAILED",
        "apparmor  snapshot_revert  -        -           -        -              not run: libvirt 9.0 cannot do it",
        "trixie attach: sda is gone",
    ]
