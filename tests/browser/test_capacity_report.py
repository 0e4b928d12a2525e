# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/capacity_report.yml on hosts with all that can be wrong, and its page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.kvmops.disk.plugins.filter.capacity_report import capacity_report
from browser.chromium import Page, chromium
from lab import Disk, Hypervisor
from lab.tree import tree_state
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from support.damage import leak, miscount
from support.file_systems import in_memory
from support.image_tools import create, overlay
from support.scene import MIB, make_image
from unit.reported import GIB, checked, disk, image, rendered, system

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "tests" / "output"
#: A script that tells on itself wherever it is let run.
SCRIPT = "<img src=x onerror=document.title=1><script>document.title=1;"


@dataclass(frozen=True)
class Played:
    """A run of the playbook, and the page that it made."""

    status: int
    output: str
    page: Path

    @property
    def changed(self) -> int:
        return sum(int(count) for count in re.findall(r"\bchanged=(\d+)", self.output))


def play(base: Path, hosts: str, page: Path, *options: str, **variables: object) -> Played:
    """Plays on HOSTS, lines of an inventory, each with its uri and its places."""
    (base / "hosts").write_text(f"[kvm_hosts]\n{hosts}\n")
    hosts_own = {"capacity_report_uri": "{{ uri }}", "capacity_report_paths": "{{ places }}"}
    given = {**hosts_own, "capacity_report_dest": page, **variables}
    typed = [f"--extra-vars={name}={value}" for name, value in given.items()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_HOME": str(base / "ansible-home"), "ANSIBLE_TIMEOUT": "5"}
    playbook = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/capacity_report.yml"]
    done = subprocess.run(
        [*playbook, "--inventory", str(base / "hosts"), *options, *typed],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Played(done.returncode, done.stdout + done.stderr, page)


def local(name: str, uri: str, places: Path | str) -> str:
    return f"{name} ansible_connection=local ansible_python_interpreter={sys.executable} uri={uri} places={places}"


@pytest.fixture(scope="module")
def base(hv: Hypervisor) -> Iterator[Path]:
    directory = hv.images / "capacity-report"
    directory.mkdir(mode=0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def small(hv: Hypervisor, base: Path) -> Iterator[Path]:
    """A file system of 40 MiB on which much is promised and something is wrong with nearly everything."""
    domains = {
        SCRIPT: "mine.qcow2",
        "golden": "golden.qcow2",
        "clone-1": "clone-1.qcow2",
        "orphan": "orphan.qcow2",
        "corrupt": "corrupt.qcow2",
    }
    with in_memory(base / "small", 40) as place:
        golden = make_image(place / "golden.qcow2", "qcow2")
        for number in (1, 2):
            overlay(place / f"clone-{number}.qcow2", golden)
        overlay(place / "top.qcow2", place / "clone-2.qcow2")
        lost = create(place / "lost.qcow2", "qcow2", MIB)
        overlay(place / "orphan.qcow2", lost)
        lost.unlink()
        leak(make_image(place / "leaking.qcow2", "qcow2"))
        miscount(make_image(place / "corrupt.qcow2", "qcow2"))
        create(place / f"{SCRIPT} & \"quoted\" 'too'.qcow2", "qcow2", 30 * MIB)
        create(place / "mine.qcow2", "qcow2", MIB)
        (place / "torn.qcow2").write_bytes(b"QFI\xfb" + bytes(4096 - 4))
        for name, file in domains.items():
            hv.define(hv.domain_xml(f"report-{name}", [Disk(place / file, "qcow2")], kernel=False))
        try:
            yield place
        finally:
            for name in domains:
                hv.remove(f"report-{name}")


@pytest.fixture(scope="module")
def played(hv: Hypervisor, base: Path, small: Path) -> Played:
    """A host with the file system, one that cannot be reached, one without a libvirt, one without the directory."""
    hosts = [
        f"unreachable ansible_host=127.0.0.1 ansible_port=1 uri={hv.uri} places={small}",
        local("kvm1", hv.uri, small),
        local("kvm2", "qemu+unix:///system?socket=/nonexistent/socket", small),
        local("kvm3", hv.uri, "/nonexistent/images"),
    ]
    return play(base, "\n".join(hosts), base / "page.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(played: Played, browser: Chrome) -> Page:
    opened = Page(browser, played.page)
    opened.looks()
    return opened


# --- the role ---------------------------------------------------------------------------------------------------


def test_hosts_that_cannot_be_looked_at_are_told_of_and_fail_the_play(played: Played, page: Page) -> None:
    assert played.status != 0
    assert "unreachable=1" in played.output
    assert re.search(r"kvm1 .*failed=0 .*\n.*kvm2 .*failed=1 .*\n.*kvm3 .*failed=1 ", played.output), played.output
    told = " ".join(one.text for one in page.all("#warnings li") if "Not looked at" in one.text)
    for words in (
        "at unreachable\n",
        "at kvm2\nqemu+unix:///system",
        "at kvm3\npaths: /nonexistent/images does not exist",
    ):
        assert words in told
    assert "4 hosts" in page.one("header").text


def test_nothing_is_written_but_the_page_and_that_only_without_check_mode(
    hv: Hypervisor, base: Path, small: Path, played: Played, tmp_path: Path
) -> None:
    assert played.page.stat().st_mode & 0o777 == 0o644
    before, page = tree_state(small), played.page.read_bytes()
    host = local("kvm1", hv.uri, small)
    predicted = play(base, host, tmp_path / "new.html", "--check")
    assert (predicted.status, predicted.changed) == (0, 1), predicted.output
    assert not (tmp_path / "new.html").exists()
    shutil.copy(played.page, tmp_path / "there.html")
    again = play(base, host, tmp_path / "there.html", "--diff", capacity_report_check="false")
    assert (again.status, again.changed) == (0, 0), again.output
    assert f"file://{tmp_path}/there.html" in again.output
    assert "<html" not in again.output
    assert "Corrupt image" not in (tmp_path / "there.html").read_text()
    assert (tree_state(small), played.page.read_bytes()) == (before, page)


def test_bad_input_is_refused_before_anything_is_gathered(hv: Hypervisor, base: Path, tmp_path: Path) -> None:
    refused = play(base, local("kvm1", hv.uri, "/"), tmp_path / "page.html", capacity_report_limit="much")
    assert refused.status != 0
    assert "capacity_report_limit" in refused.output
    assert os.listdir(tmp_path) == []


# --- the page ---------------------------------------------------------------------------------------------------


def test_warnings_come_first_and_the_worst_before_all_others(page: Page, small: Path) -> None:
    sections = [section.get_attribute("id") for section in page.all("main > section[id]")]
    assert sections == ["warnings", "hosts", "filesystems", "disks", "chains"]
    kinds = [one.text for one in page.all("#warnings li strong")]
    assert kinds.index("Missing base") < kinds.index("Corrupt image") < kinds.index("Over the limit")
    assert {"Base in danger", "Leaking image", "Unreadable image"} <= set(kinds)
    levels = [str(one.get_attribute("class")) for one in page.all("#warnings li")]
    assert levels == sorted(levels)
    text = page.one("#warnings").text
    assert f"{small}/orphan.qcow2" in text
    assert "3 images stand on it" not in text
    assert "2 images stand on it, and domain report-golden would write it" in text
    assert page.one("#warnings .count").text == str(len(kinds))


def test_bars_show_what_is_used_and_promised_beside_the_size_and_the_limit(page: Page, small: Path) -> None:
    (system,) = [one for one in page.all(".system") if str(small) in one.text]
    promised = int(re.search(r"Promised\s+\d+ MiB (\d+) %", system.text)[1])  # type: ignore[index]
    assert promised > 120
    assert "over the limit" in system.text
    ends = {}
    for part in ("has", "used", "promised", "beyond"):
        box = page.run(
            "return arguments[0].querySelector('rect.' + arguments[1]).getBoundingClientRect()", system, part
        )
        ends[part] = (box["left"], box["right"])
    size, limit = (
        page.run("return arguments[0].querySelector('line.' + arguments[1]).getBoundingClientRect().left", system, name)
        for name in ("size", "limit")
    )
    start = ends["has"][0]
    assert ends["has"][1] == pytest.approx(size, abs=2)
    assert (limit - start) / (size - start) == pytest.approx(1.2, abs=0.02)
    assert (ends["beyond"][1] - start) / (size - start) == pytest.approx(promised / 100, abs=0.02)
    assert ends["beyond"][0] == pytest.approx(ends["promised"][1], abs=1)
    assert start < ends["used"][1] < size


def test_the_table_is_sorted_by_any_column_also_from_the_keyboard(page: Page) -> None:
    sizes = [int(cell.get_attribute("data-value") or 0) for cell in page.all("tbody td:nth-child(6)")]
    heading = page.one("th:nth-child(6)")
    page.click("th:nth-child(6) button")
    assert heading.get_attribute("aria-sort") == "ascending"
    now = [int(cell.get_attribute("data-value") or 0) for cell in page.all("tbody td:nth-child(6)")]
    assert now == sorted(sizes)
    page.press(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "descending"
    now = [int(cell.get_attribute("data-value") or 0) for cell in page.all("tbody td:nth-child(6)")]
    assert now == sorted(sizes, reverse=True)
    page.press(Keys.TAB, *[Keys.TAB] * 3)
    page.press(Keys.SPACE)
    assert page.one("th:nth-child(10)").get_attribute("aria-sort") == "ascending"
    assert heading.get_attribute("aria-sort") is None
    assert page.column(10)[0] in ("broken chain", "corrupt")
    page.click("th:nth-child(3) button")
    names = [str(cell.get_attribute("textContent")).strip() for cell in page.all("tbody td:nth-child(3)")]
    assert names == page.run("return arguments[0].sort(new Intl.Collator(undefined, {numeric: true}).compare)", names)


def test_the_table_is_searched_by_words(page: Page, small: Path) -> None:
    everything = len(page.column(3))
    page.type("#search", f"{small}/clone")
    assert sorted(page.column(3)) == [f"{small}/\nclone-{number}.qcow2" for number in (1, 2)]
    assert page.one("#found").text == f"2 of {everything}"
    page.type("#search", "CORRUPT report-corrupt")
    assert page.column(10) == ["corrupt"]
    page.type("#search", "nothing like that")
    assert page.column(3) == []
    assert page.one(".nothing").is_displayed()
    page.press(Keys.ESCAPE)
    assert len(page.column(3)) == everything
    assert not page.one(".nothing").is_displayed()


def test_a_host_in_short_leads_to_its_disks(page: Page) -> None:
    told = {one.text.split("\n")[0].rsplit(" ", 2)[0]: one for one in page.all(".hosts li")}
    assert set(told) == {"unreachable", "kvm1", "kvm2", "kvm3"}
    assert "It could not be looked at." in told["unreachable"].text
    everything = len(page.column(3))
    page.click("[data-host='kvm2']")
    assert page.column(3) == [], "the host whose name begins alike is another one"
    page.click("[data-host='kvm1']")
    assert page.one("#found").text == f"{everything} of {everything}"
    assert re.search(r"\d+ domains, \d+ disks, \d+ file system", told["kvm1"].text)


def test_without_scripts_the_page_says_the_same(played: Played, page: Page, browser: Chrome) -> None:
    told = [page.column(number) for number in range(1, 11)]
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        plain = Page(browser, played.page)
        assert [plain.column(number) for number in range(1, 11)] == told
        assert not plain.one(".tools").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_rows_tell_what_each_disk_is_and_how_it_is(page: Page) -> None:
    rows = {row.text.split("\n")[1]: row.text for row in page.all("tbody tr")}
    assert re.search(r"qcow2 linked clone\s+no discard\s+8 MiB \S+ KiB 2 0\s+good", rows["report-clone-1"]), rows
    assert "broken chain" in rows["report-orphan"]
    assert "vda, shut off" in rows["report-golden"]
    assert any("leaks" in row.text for row in page.all("tbody tr"))
    for width in (1110, 1280):
        page.looks(width=width)
        assert page.run(SPILLED) == [], width


def test_chains_are_drawn_from_their_base_to_their_top(page: Page, small: Path) -> None:
    places = {}
    for node in page.all(".node"):
        title = page.run("return arguments[0].querySelector('title').textContent", node)
        places[title] = node.rect["x"]
    chain = [places[f"{small}/{name}.qcow2"] for name in ("golden", "clone-2", "top")]
    assert chain == sorted(set(chain))
    assert f"{small}/lost.qcow2" in places
    assert len(page.all(".forest .line")) == len(places) - 2
    assert page.run(OVERHANG) == []


def test_what_a_path_holds_is_text(page: Page, small: Path) -> None:
    assert page.driver.title == "Storage of virtual machines"
    assert page.all("img") == []
    assert len(page.all("script")) == 1
    name = f"{SCRIPT} & \"quoted\" 'too'.qcow2"
    assert f"{small}/\n{name}" in page.column(3)
    assert f"report-{SCRIPT}\nvda, shut off" in page.column(2)
    assert page.complaints() == []


def test_the_page_asks_for_nothing(played: Played, page: Page) -> None:
    page.click("th:nth-child(1) button")
    assert page.requested() == []
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    text = played.page.read_text()
    assert not re.search(r"<(?:link|script|img|iframe)[^>]+(?:src|href)=[\"'](?!data:)", text)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_on_light_and_dark_screens(page: Page, dark: bool) -> None:
    page.looks(dark=dark)
    ground, text = page.style("body", "backgroundColor"), page.style("body", "color")
    assert (brightness(ground) < 60) == dark
    for selector in ("body", ".muted", "td", ".tile .value", ".warnings .text", ".warnings .muted", ".critical .level"):
        behind = page.run(BEHIND, selector)
        assert contrast(page.style(selector, "color"), behind) >= 4.5, selector
    assert abs(brightness(ground) - brightness(text)) > 150
    assert not page.is_too_wide()
    page.keep(KEPT / f"capacity_report-{'dark' if dark else 'light'}.png")


def test_a_narrow_screen_needs_no_scrolling_sideways(page: Page) -> None:
    for width in (360, 700, 1024, 1120):
        page.looks(width=width)
        assert not page.is_too_wide(), width
        if width == 360:
            page.keep(KEPT / "capacity_report-narrow.png")
    page.click("th:nth-child(1) button")


def test_on_paper_it_is_dark_on_white_and_without_controls(page: Page, tmp_path: Path) -> None:
    page.looks(dark=True, medium="print", width=760)
    assert page.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    assert brightness(page.style("body", "color")) < 60
    assert not page.one(".tools").is_displayed()
    assert not page.one("th button").is_displayed()
    assert page.one("#table").is_displayed()
    assert page.print_to(KEPT / "capacity_report.pdf").startswith(b"%PDF")


# --- hundreds of disks --------------------------------------------------------------------------------------------


def opened_page(browser: Chrome, path: Path, hosts: list[dict[str, object]]) -> Page:
    path.write_text(rendered(capacity_report(hosts)))
    opened = Page(browser, path)
    opened.looks()
    return opened


@pytest.fixture
def crowded(browser: Chrome, tmp_path: Path) -> Page:
    """Five hosts with two hundred clones each, and much that is wrong with them."""
    hosts: list[dict[str, object]] = []
    for host in range(5):
        clones = [f"/srv/clones/{'W' * 40 if number == 7 else 'pc'}-{number:03}.qcow2" for number in range(200)]
        base = image("/srv/golden.qcow2", dependents=clones, grows=False, writable=False)
        images = [image(path, backing_file=base["path"], promised=GIB) for path in clones]
        disks = [disk(f"pc-{number:03}", path) for number, path in enumerate(clones)]
        checks = [checked(path, "leaks" if number < 40 else "good", leaks=1) for number, path in enumerate(clones)]
        name = f"hypervisor-{host}.a-long-domain-name.example.org"
        hosts.append({"name": name, "filesystems": [system(base, *images)], "disks": disks, "checks": checks})
    return opened_page(browser, tmp_path / "page.html", hosts)


def test_a_page_of_a_thousand_disks_is_legible_and_quick(crowded: Page) -> None:
    assert crowded.one("#found").text == "1005 of 1005"
    assert crowded.one("#filesystems").rect["y"] < 6000, "two hundred warnings do not bury the rest"
    assert len([one for one in crowded.all("#warnings details li") if one.is_displayed()]) == 0
    crowded.click("#warnings summary")
    assert len([one for one in crowded.all("#warnings details li") if one.is_displayed()]) == 35
    assert crowded.one("#chains").rect["height"] < 9000, "not every clone is drawn"
    assert crowded.run(OVERHANG) == []
    widths = crowded.run("return [...document.querySelectorAll('th')].map((one) => one.offsetWidth)")
    assert crowded.effort(SORTING) < 5
    crowded.type("#search", "hypervisor-3 pc-19")
    assert crowded.one("#found").text == "10 of 1005"
    assert crowded.run("return [...document.querySelectorAll('th')].map((one) => one.offsetWidth)") == widths
    for width in (360, 1120, 1280):
        crowded.looks(width=width)
        assert not crowded.is_too_wide(), width


@pytest.fixture
def fleet(browser: Chrome, tmp_path: Path) -> Page:
    """Fifty hosts with two hundred disks each, each of which has its own base."""
    hosts: list[dict[str, object]] = []
    for host in range(50):
        names = [f"pc-{host:02}-{number:03}" for number in range(200)]
        of_base = {"grows": False, "promised": GIB}
        bases = [image(f"/srv/{name}.base", dependents=[f"/srv/{name}"], **of_base) for name in names[:60]]
        overlays = [image(f"/srv/{name}", promised=GIB // 9) for name in names]
        disks = [disk(name, f"/srv/{name}") for name in names]
        checks = [checked(f"/srv/{name}", "leaks" if host == 7 else "good", leaks=1) for name in names]
        hosts.append({"name": f"kvm{host}", "filesystems": [system(*bases, *overlays)], "disks": disks})
        hosts[-1]["checks"] = checks
    return opened_page(browser, tmp_path / "page.html", hosts)


def test_of_ten_thousand_disks_only_those_that_are_read_are_in_the_page(fleet: Page) -> None:
    assert fleet.one("#found").text == "13000 of 13000"
    assert len(fleet.all("tbody tr")) == 200
    assert fleet.one("#more").text == "Show 200 more of 12800"
    fleet.click("#more")
    assert len(fleet.all("tbody tr")) == 400
    fleet.click("th:nth-child(3) button")
    fleet.click("th:nth-child(3) button")
    assert fleet.column(3)[0] == "/srv/\npc-49-199", "all are sorted, not only those that are shown"
    fleet.type("#search", "kvm4 pc-49-19")
    assert fleet.one("#found").text == "10 of 13000"
    assert not fleet.one("#more").is_displayed()
    assert fleet.run("return document.getElementsByTagName('*').length") < 100_000, "a row has 27"


def test_each_of_fifty_hosts_is_told_of_in_short(fleet: Page) -> None:
    assert len(fleet.all(".hosts li")) == 50
    assert [one.text.split("\n")[0] for one in fleet.all(".hosts li.warning")] == ["kvm7"]
    assert "200 warnings" in fleet.one(".hosts li.warning").text
    fleet.click("[data-host='kvm7']")
    assert fleet.one("#found").text == "260 of 13000"
    for width in (360, 1120, 1280):
        fleet.looks(width=width)
        assert not fleet.is_too_wide(), width


def test_all_rows_are_printed(browser: Chrome, tmp_path: Path) -> None:
    images = [image(f"/srv/{number}") for number in range(300)]
    page = opened_page(browser, tmp_path / "page.html", [{"name": "kvm1", "filesystems": [system(*images)]}])
    page.run("addEventListener('beforeprint', () => { window.printed = document.querySelectorAll('tbody tr').length })")
    page.print_to(tmp_path / "page.pdf")
    assert page.run("return window.printed") == 300
    assert len(page.all("tbody tr")) == 200


def test_on_paper_nothing_is_folded_away(browser: Chrome, tmp_path: Path) -> None:
    checks = [checked(f"/srv/{number}", "leaks", leaks=1) for number in range(20)]
    images = [image(str(one["path"])) for one in checks]
    page = opened_page(
        browser, tmp_path / "page.html", [{"name": "kvm1", "filesystems": [system(*images)], "checks": checks}]
    )
    assert len(page.all("#warnings details:not([open])")) == 1
    page.print_to(tmp_path / "page.pdf")
    assert len(page.all("#warnings details[open]")) == 1


#: The names of chains that are wider than their boxes, as far as they are seen.
OVERHANG = """
return [...document.querySelectorAll(".node")].filter((node) => {
  if (getComputedStyle(node).overflow === "hidden") return false;
  const box = node.getBoundingClientRect();
  return [...node.querySelectorAll("text")].some((text) => text.getBoundingClientRect().right > box.right);
}).map((node) => node.textContent);
"""
#: The cells of the table that are too small for what is in them.
SPILLED = """
const cells = [...document.querySelectorAll("th, td")];
return cells.filter((cell) => {
  const style = getComputedStyle(cell);
  const room = cell.getBoundingClientRect().right - parseFloat(style.paddingRight);
  const range = document.createRange();
  range.selectNodeContents(cell);
  return range.getBoundingClientRect().right > room + 0.5;
}).map((cell) => cell.textContent.trim());
"""
#: Sorts the table by a column, and has it laid out anew.
SORTING = """
document.querySelector("th:nth-child(7) button").click();
document.body.offsetHeight;
"""


#: The colour that is seen behind the text of an element.
BEHIND = """
let element = document.querySelector(arguments[0]);
while (element && getComputedStyle(element).backgroundColor === "rgba(0, 0, 0, 0)") element = element.parentElement;
return getComputedStyle(element || document.body).backgroundColor;
"""


def parts(color: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", color)[:3]]


def brightness(color: str) -> float:
    return sum(parts(color)) / 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2)."""

    def luminance(color: str) -> float:
        shares = [value / 255 for value in parts(color)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear))

    lighter, darker = sorted([luminance(one), luminance(other)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
