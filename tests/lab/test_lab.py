# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laboratory keeps its own promises: everything else is tested with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from lab import (
    Disk,
    Guest,
    Hypervisor,
    LabError,
    ModuleFailed,
    SessionHypervisor,
    build_boot_disk,
    pattern_sha256,
    run_module,
    start_module,
    tree_state,
    write_pattern,
)
from lab.processes import is_alive, processes_of, wait_gone
from lab.saved_guest import saved_state

if TYPE_CHECKING:
    from lab.fixtures import MakeDomain

pytest_plugins = ["lab.fixtures"]
TMP = Path(tempfile.gettempdir())
TESTS = Path(__file__).resolve().parents[1]


def make_disk(path: Path, mib: int = 64) -> Path:
    """A plain data disk: ext4 without a partition."""
    with open(path, "wb") as disk:
        disk.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


def start_anew(hv: Hypervisor, name: str) -> None:
    hv.start(name).wait_ready()


def test_two_hypervisors_side_by_side_do_not_see_each_other(hv: Hypervisor) -> None:
    with Hypervisor(TMP, f"lab2-{os.getpid()}", dynamic_ownership=False) as other:
        hv.define(hv.domain_xml("only-here"))
        try:
            for hypervisor, expected in ((hv, True), (other, False)):
                connection = hypervisor.connect()
                names = [domain.name() for domain in connection.listAllDomains()]
                assert ("only-here" in names) is expected
                assert connection.getHostname() == hypervisor.name
                connection.close()
            assert hv.pid != other.pid
        finally:
            hv.remove("only-here")


def host_libvirt() -> dict[str, list[str]]:
    """What the host has where a libvirt of its own would keep its state."""
    places = ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
    return {place: sorted(map(str, Path(place).rglob("*"))) for place in places}


def test_the_hosts_libvirt_is_not_touched() -> None:
    before = host_libvirt()
    with Hypervisor(TMP, f"lab3-{os.getpid()}") as hypervisor:
        hypervisor.define(hypervisor.domain_xml("elsewhere"))
        assert host_libvirt() == before
        assert str(hypervisor.directory) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert host_libvirt() == before


def test_kvm_is_hidden_inside_only(hv: Hypervisor) -> None:
    on_the_host = os.path.exists("/dev/kvm")
    assert hv.exec(["test", "-c", "/dev/kvm"]).returncode == 1
    assert os.path.exists("/dev/kvm") == on_the_host


def test_a_guest_finds_its_data_and_survives_restart_and_kill_of_libvirtd(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    guest = make_domain([Disk(make_disk(images / "data.raw"), serial="lab-data")], start=True)
    assert guest.disk_size("vda") == 64 << 20
    guest.must("pattern /data/pattern 8 seed")
    assert guest.must("sha256sum < /data/pattern").split()[0] == pattern_sha256(8, "seed")
    process = hv.qemu_pid(guest.name)
    guest.must("writer /data/records > /dev/null 2>&1 &")

    hv.restart()
    assert guest.must("cat /sys/block/vda/serial") == "lab-data"
    hv.kill_libvirtd()
    try:
        with pytest.raises(libvirt.libvirtError):
            hv.connect()
        assert int(guest.must("while [ ! -e /tmp/acked ]; do usleep 10000; done; cat /tmp/acked")) > 0
    finally:
        hv.start_libvirtd()

    assert hv.qemu_pid(guest.name) == process
    connection = hv.connect()
    assert connection.lookupByName(guest.name).isActive()
    connection.close()
    guest.must("touch /tmp/stop; sleep 1")
    assert int(guest.must("check /data/records").split()[1]) >= int(guest.must("cat /tmp/acked"))


@pytest.mark.parametrize("started", [Hypervisor.wake, start_anew])
def test_a_restored_guest_has_what_a_booted_one_has(
    hv: Hypervisor, images: Path, make_domain: MakeDomain, started: Callable[[Hypervisor, str], object]
) -> None:
    qcow2 = images / "second.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "48M"], check=True)
    disks = [Disk(make_disk(images / "data.raw", 40), serial="lab-data"), Disk(qcow2, "qcow2", "sda", cache="none")]
    guest = make_domain(disks)
    before = time.time()
    started(hv, guest.name)
    assert before - 1 <= int(guest.must("date +%s")) <= time.time() + 1
    assert guest.must("cat /sys/block/vda/serial") == "lab-data"
    assert (guest.disk_size("vda"), guest.disk_size("sda")) == (40 << 20, 48 << 20)
    guest.must("grep -q '^/dev/vda /data ext4 ' /proc/mounts")
    guest.must("pattern /data/pattern 1 seed && pattern /dev/sda 1 other && sync")
    with contextlib.closing(hv.connect()) as connection:
        connection.lookupByName(guest.name).shutdown()
        guest.wait_off()
        connection.lookupByName(guest.name).create()
    guest.wait_ready()
    assert guest.must("sha256sum < /data/pattern").split()[0] == pattern_sha256(1, "seed")
    assert guest.must("head -c 1048576 /dev/sda | sha256sum").split()[0] == pattern_sha256(1, "other")


def test_libvirt_knows_of_a_restored_domain_what_it_knows_of_a_booted_one(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = Disk(make_disk(images / "data.raw"), serial="lab-data", io="threads", discard="unmap")
    guest = make_domain([disk], vnc_password="secret", metadata="<x:note xmlns:x='urn:test'>kept</x:note>")
    told = []
    with contextlib.closing(hv.connect()) as connection:
        for started in (Hypervisor.wake, start_anew):
            started(hv, guest.name)
            domain = connection.lookupByName(guest.name)
            live = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE).replace(f" id='{domain.ID()}'", "")
            definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
            told.append((live, definition, domain.state()[0], domain.isPersistent(), domain.hasManagedSaveImage()))
            domain.destroy()
    assert told[0] == told[1]


def test_a_guest_boots_once_for_all_domains_with_such_a_machine(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    def saved(disk: Disk, **options: Any) -> Path | None:
        name = make_domain([disk], **options).name
        with contextlib.closing(hv.connect()) as connection:
            return saved_state(hv, connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    disk, other = Disk(images / "disk.raw"), Disk(images / "other.qcow2", "qcow2", serial="other", cache="none")
    usual = saved(disk)
    assert usual
    assert saved(other, uuid="0f0e0d0c-0b0a-4908-8706-050403020100", metadata="<x:note xmlns:x='urn:test'/>") == usual
    assert saved(Disk(images / "disk.raw", target="hda")) is None
    assert saved(disk, kernel=False) is None
    assert saved(disk, mac="52:54:00:00:00:01") is None
    assert saved(disk, nvram=images / "nvram.fd", memory_mib=256) is None


def test_the_check_command_reports_a_gap(images: Path, make_domain: MakeDomain) -> None:
    guest = make_domain([], start=True)
    record = "for n in 1 2 4; do printf '%-4095d\\n' $n; done > /tmp/records"
    status, output = guest.run(f"{record}; check /tmp/records")
    assert (status, output.strip()) == (1, "gap: record 3 holds 4")


@pytest.mark.parametrize(("target", "machine"), [("sda", "q35"), ("hda", "pc")])
def test_a_guest_finds_disks_on_other_buses(images: Path, make_domain: MakeDomain, target: str, machine: str) -> None:
    guest = make_domain([Disk(make_disk(images / "data.raw"), target=target)], start=True, machine=machine)
    assert guest.must("grep -c ' /data ext4 ' /proc/mounts").strip() == "1"
    assert guest.disk_size("sda") == 64 << 20


def test_a_boot_disk_boots_by_itself_and_answers_to_the_power_button(
    hv: Hypervisor, images: Path, make_domain: MakeDomain
) -> None:
    disk = build_boot_disk(images / "boot.raw")
    assert disk.stat().st_blocks * 512 < disk.stat().st_size
    guest = make_domain([Disk(disk)], kernel=False, start=True)
    assert guest.must("cd /data && sha256sum -c SHA256SUMS").count(": OK") == 3
    assert guest.must("sha256sum < /data/pattern.bin").split()[0] == pattern_sha256(8, "lab")

    connection = hv.connect()
    domain = connection.lookupByName(guest.name)
    domain.shutdown()
    guest.wait_off()
    assert domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN]
    with pytest.raises(Exception, match="no console"):
        guest.run(":", timeout=1)
    # Somebody else starts it again: the same handle speaks to the new QEMU.
    domain.create()
    connection.close()
    guest.wait_ready()
    assert guest.must("cd /data && sha256sum -c SHA256SUMS").count(": OK") == 3


def test_a_guest_told_to_ignores_the_power_button(hv: Hypervisor, make_domain: MakeDomain) -> None:
    guest = make_domain([], start=True, cmdline_extra="lab.ignore_acpi")
    connection = hv.connect()
    connection.lookupByName(guest.name).shutdown()
    time.sleep(2)
    assert connection.lookupByName(guest.name).isActive()
    assert guest.must("echo here").strip() == "here"
    connection.close()


def test_the_guest_agent_freezes_and_thaws(hv: Hypervisor, images: Path, make_domain: MakeDomain) -> None:
    guest = make_domain([Disk(make_disk(images / "data.raw"))], start=True, agent=True)
    connection = hv.connect()
    domain = connection.lookupByName(guest.name)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert domain.fsFreeze() == 1
            break
        except libvirt.libvirtError:
            assert time.monotonic() < deadline, "the agent never answered"
            time.sleep(0.2)
    assert domain.fsThaw() == 1
    connection.close()


def test_a_domain_keeps_metadata_uuid_and_password_of_its_xml(hv: Hypervisor, make_domain: MakeDomain) -> None:
    uuid = "0f0e0d0c-0b0a-4908-8706-050403020100"
    guest = make_domain([], uuid=uuid, vnc_password="secret", metadata="<x:note xmlns:x='urn:test'>kept</x:note>")
    connection = hv.connect()
    xml = connection.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    connection.close()
    assert f"<name>{guest.name}</name>" in xml
    assert "passwd='secret'" in xml
    assert "kept</x:note>" in xml


def test_a_pool_lists_the_images_of_its_directory(hv: Hypervisor, images: Path) -> None:
    write_pattern(images / "volume.raw", 1, "seed")
    hv.pool("lab-pool", images)
    connection = hv.connect()
    pool = connection.storagePoolLookupByName("lab-pool")
    try:
        assert pool.listVolumes() == ["volume.raw"]
    finally:
        pool.destroy()
        pool.undefine()
        connection.close()


def test_a_session_hypervisor_works_without_rights() -> None:
    with SessionHypervisor(TMP, f"labs-{os.getpid()}") as session:
        status = Path(f"/proc/{session.pid}/status").read_text(encoding="utf-8")
        assert f"Uid:\t{session.uid}\t{session.uid}" in status
        disk = session.images / "disk.raw"
        assert session.run(["qemu-img", "create", "-q", disk, "16M"]).returncode == 0
        guest = session.boot(session.domain_xml("vm", [Disk(disk)]))
        assert guest.disk_size("vda") == 16 << 20
        assert disk.stat().st_uid == session.uid
        assert is_alive(session.qemu_pid("vm"))
        assert session.run(["virsh", "-q", "list", "--name"]).stdout.split() == ["vm"]


def test_nothing_is_left_after_a_hypervisor(hv: Hypervisor) -> None:
    with Hypervisor(TMP, f"lab3-{os.getpid()}") as passing:
        passing.start(passing.define(passing.domain_xml("vm")))
        inside = processes_of(passing.directory)
        assert len(inside) >= 3, "holder, libvirtd and QEMU"
    assert not any(is_alive(pid) for pid in inside)
    assert not passing.directory.exists()
    assert str(passing.directory) not in Path("/proc/mounts").read_text(encoding="utf-8")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_test_process_is_killed(sent: signal.Signals) -> None:
    name = f"lab4-{os.getpid()}"
    script = (
        "import sys, time; from pathlib import Path; from lab import Hypervisor\n"
        f"hv = Hypervisor(Path({str(TMP)!r}), {name!r}); hv.up(); hv.start(hv.define(hv.domain_xml('vm')))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as doomed:
        assert doomed.stdout
        assert doomed.stdout.readline() == b"up\n"
        inside = processes_of(TMP / name)
        assert len(inside) >= 3
        doomed.send_signal(sent)
    assert wait_gone(inside, 10)
    assert not (TMP / name).exists()


def test_a_hypervisor_takes_the_place_of_one_whose_holder_was_killed() -> None:
    name = f"lab5-{os.getpid()}"
    first = Hypervisor(TMP, name)
    first.up()
    first.start(first.define(first.domain_xml("vm")))
    orphan = first.qemu_pid("vm")
    holder = first._namespaces.holder_pid
    assert holder
    os.kill(holder, signal.SIGKILL)
    wait_gone([holder], 5)
    assert is_alive(orphan)
    with Hypervisor(TMP, name) as second:
        assert not is_alive(orphan)
        assert second.pid
    first.down()


def test_a_long_base_is_refused_with_the_reason() -> None:
    with pytest.raises(LabError, match="107 characters: choose a shorter base"):
        Hypervisor(TMP / ("x" * 100), "hv")


def test_the_log_explains_why_libvirtd_did_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hypervisor, "_libvirtd", lambda _self: ["libvirtd", "--daemon", "--config", "/nonexistent"])
    with pytest.raises(LabError, match=r"did not come up: (?s:.)*nonexistent"):
        Hypervisor(TMP, f"lab6-{os.getpid()}").up()
    assert not (TMP / f"lab6-{os.getpid()}").exists()


TOY = """
import os, subprocess
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kvmops.disk.plugins.module_utils._toy import GREETING

def main():
    module = AnsibleModule({"word": {"required": True}, "slow": {"type": "bool"}}, supports_check_mode=True)
    if module.params["slow"]:
        subprocess.run(["sleep", "60"])
    if module.params["word"] == "crash":
        raise SystemExit("no JSON")
    module.exit_json(changed=True, said=GREETING + module.params["word"], tmpdir=module.tmpdir, uid=os.getuid(),
                     check=module.check_mode, diff_asked=module._diff, env=os.environ.get("TOY"))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A collection with one module, where every user can read it."""
    with tempfile.TemporaryDirectory() as checkout:
        plugins = Path(checkout, ".ansible/collections/ansible_collections/kvmops/disk/plugins")
        (plugins / "modules").mkdir(parents=True)
        (plugins / "module_utils").mkdir()
        (plugins / "modules/toy.py").write_text(TOY, encoding="utf-8")
        (plugins / "module_utils/_toy.py").write_text("GREETING = 'hello '", encoding="utf-8")
        Path(checkout).chmod(0o755)
        monkeypatch.setattr("lab.module.CHECKOUT", Path(checkout))
        yield


@pytest.mark.usefixtures("toy")
def test_a_module_runs_as_ansible_would_run_it() -> None:
    result = run_module(
        "toy", {"word": "you"}, check=True, diff=True, env={"TOY": "env"}, as_user=SessionHypervisor.uid
    )
    assert result["said"] == "hello you"
    assert (result["check"], result["diff_asked"], result["env"]) == (True, True, "env")
    assert result["uid"] == SessionHypervisor.uid
    assert not os.path.exists(result["tmpdir"])
    assert run_module("toy", {})["msg"] == "missing required arguments: word"
    with pytest.raises(ModuleFailed, match="no JSON"):
        run_module("toy", {"word": "crash"})


@pytest.mark.usefixtures("toy")
def test_a_killed_module_takes_its_programs_along() -> None:
    running = start_module("toy", {"word": "x", "slow": True})
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    deadline = time.monotonic() + 10
    while not children.read_text(encoding="ascii"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (child,) = map(int, children.read_text(encoding="ascii").split())
    running.kill()
    assert wait_gone([running.pid, child], 5)


def test_the_tree_state_shows_every_kind_of_change(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a", encoding="ascii")
    before = tree_state(tmp_path)
    assert tree_state(tmp_path) == before
    (tmp_path / "file").chmod(0o600)
    assert tree_state(tmp_path)["file"] != before["file"]
    (tmp_path / "new").mkdir()
    assert set(tree_state(tmp_path)) == {".", "file", "new"}


def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "lab", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def lab_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command line's hypervisors live."""
    base = TMP / f"lab7-{os.getpid()}"
    monkeypatch.setenv("KVMOPS_LAB_BASE", str(base))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    yield base
    base.rmdir()


def test_hypervisors_side_by_side_are_hosts_that_ssh_reaches_one_by_one(lab_base: Path) -> None:
    def ssh(name: str, command: str) -> str:
        door = lab_base / name / "ssh"
        server = f"ProxyCommand={sys.executable} -m lab serve-ssh {name}"
        options = ["-F", "none", "-i", f"{door}/user_key", "-o", f"UserKnownHostsFile={door}/known_hosts", "-o", server]
        argv = ["ssh", *options, f"root@{name}", command]
        return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, stdin=subprocess.DEVNULL).stdout

    names = ("kvm1", "kvm2")
    try:
        for name in names:
            assert lab("up", name, "--ssh").returncode == 0
        for name in names:
            assert ssh(name, "hostname; echo ~; virsh -q hostname; virsh -q list --all").split() == [
                name, f"{lab_base}/{name}/ssh/home", name
            ]  # fmt: skip
        devices = {ssh(name, "readlink /proc/self/ns/net; ls /sys/class/net") for name in names}
        assert len(devices | {os.readlink("/proc/self/ns/net")}) == 3, "each has a network namespace of its own"
        assert lab("kill-libvirtd", "kvm2").returncode == 0
        assert "Connection refused" in ssh("kvm2", "virsh list 2>&1; true")
        assert ssh("kvm1", "virsh -q hostname").strip() == "kvm1"
        assert lab("start-libvirtd", "kvm2").returncode == 0
        assert ssh("kvm2", "virsh -q hostname").strip() == "kvm2"
        late = lab("kill-libvirtd", "kvm2", "--copying", "nobody", "--timeout", "0.2")
        assert "no disk of it was copied within 0.2 s" in late.stderr
        late = lab("kill-libvirtd", "kvm2", "--defined", "nobody", "--timeout", "0.2")
        assert "it was not defined within 0.2 s" in late.stderr
    finally:
        for name in names:
            lab("down", name)


def test_the_command_line_keeps_a_hypervisor_between_calls(lab_base: Path) -> None:
    try:
        assert "is up:" in lab("up", "demo").stdout
        assert "is up already" in lab("up", "demo").stdout
        uri = lab("uri", "demo").stdout.strip()
        libvirt.open(uri).close()
        assert lab("define-demo", "demo", "vm", "--start").returncode == 0
        done = lab("guest", "demo", "vm", "run", "cd /data && sha256sum -c SHA256SUMS")
        assert (done.returncode, done.stdout.count("OK")) == (0, 3)
        assert lab("guest", "demo", "vm", "run", "exit 3").returncode == 3
    finally:
        assert "is down" in lab("down", "demo").stdout
    assert "was not up" in lab("down", "demo").stdout
    assert lab("uri", "demo").returncode == 1


def test_the_handle_of_a_missing_domain_says_so(hv: Hypervisor) -> None:
    with pytest.raises(Exception, match=r"no console|not found"):
        Guest(hv, "nobody").run(":")
