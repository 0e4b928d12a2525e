# Copyright: kvmops.disk contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the capacity report says: which warnings in which order, how long the bars are, where the boxes stand."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.kvmops.disk.plugins.filter import capacity_report_page as _page
from ansible_collections.kvmops.disk.plugins.filter.capacity_report import FilterModule, capacity_report
from ansible_collections.kvmops.disk.plugins.plugin_utils._report_host import short_size
from unit.reported import GIB, TEMPLATES, Facts, checked, disk, image, rendered, system


def page(*images: Facts, disks: tuple[Facts, ...] = (), checks: tuple[Facts, ...] = (), **facts: Any) -> Facts:
    return capacity_report(
        [{"name": "kvm1", "filesystems": [system(*images, **facts)], "disks": list(disks), "checks": list(checks)}]
    )


def kinds(found: Facts) -> list[tuple[str, str]]:
    return [(one["level"], one["kind"]) for one in found["warnings"]]


def health(found: Facts) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["health"], row["level"]) for row in found["rows"]}


def test_the_filter_has_its_name() -> None:
    assert FilterModule().filters() == {"capacity_report": capacity_report}


def test_what_no_host_reported_is_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="not what hosts report"):
        capacity_report([{"disks": []}])


class Kept:
    """Variables of hosts as Ansible has them: for templates one at a time, and all of them as they were kept."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.given: list[str] = []

    def raw_get(self, host: str) -> Facts:
        self.given.append(host)
        return {"capacity_report_result": self._facts[host]} if host in self._facts else {}

    def __getitem__(self, host: str) -> Facts:
        raise AssertionError(f"each value of {host} would be looked at for templates")


def test_the_page_is_made_of_what_was_kept_of_each_host_and_tells_of_those_without() -> None:
    facts = {"filesystems": [system(image("/srv/a"))], "disks": [disk("web", "/srv/a")], "checks": []}
    kept = Kept({"kvm1": facts})
    html = _page.FilterModule().filters()["capacity_report_page"](kept, ["kvm1", "kvm2"], "A <title>", str(TEMPLATES))
    assert kept.given == ["kvm1", "kvm2"], "each host is asked for once"
    assert "<title>A &lt;title&gt;</title>" in html
    assert "<b>web</b>" in html
    assert "It could not be reached, or failed" in html


@pytest.mark.parametrize(
    ("facts", "templates", "words"),
    [
        ({"disks": [{}]}, str(TEMPLATES), "not what hosts report"),
        ({"disks": []}, "/nonexistent", "/nonexistent: TemplateNotFound"),
    ],
)
def test_a_page_that_cannot_be_made_is_an_error(facts: Facts, templates: str, words: str) -> None:
    with pytest.raises(AnsibleFilterError, match=words):
        _page.capacity_report_page(Kept({"kvm1": facts}), ["kvm1"], "title", templates)


class Counted(dict[str, Any]):
    """Facts of an image that count how often somebody asks what stands on it."""

    asked = 0

    def __getitem__(self, key: str) -> Any:
        Counted.asked += key == "dependents"
        return super().__getitem__(key)


def asked_of(number: int) -> int:
    """How often the overlays of images are asked for, where NUMBER of them stand on one base."""
    Counted.asked = 0
    clones = [f"/srv/{clone}" for clone in range(number)]
    base = image("/srv/base", dependents=clones, grows=False)
    images = [Counted(base), *(Counted(image(clone, backing_file="/srv/base")) for clone in clones)]
    page(*images, disks=tuple(disk(clone, clone) for clone in clones), checks=tuple(map(checked, clones)))
    return Counted.asked


def test_twice_as_many_disks_are_no_more_than_twice_the_work() -> None:
    assert asked_of(200) <= 2 * asked_of(100)


def test_where_all_is_well_nothing_is_warned_of() -> None:
    found = page(image("/srv/a"), disks=(disk("web", "/srv/a"),), checks=(checked("/srv/a"),))
    assert found["warnings"] == []
    assert found["critical"] == 0
    assert health(found) == {"/srv/a": ("good", "good")}


def test_the_worst_comes_first_whatever_host_it_is_on() -> None:
    full = system(image("/srv/a"), image("/srv/b", promised=120 * GIB), used=97 * GIB, available=3 * GIB)
    found = capacity_report(
        [
            {"name": "a", "filesystems": [full], "disks": [], "checks": [checked("/srv/a", "leaks", leaks=1)]},
            {"name": "b", "filesystems": [system(image("/srv/c", missing=["/gone"], problem="x"))], "disks": []},
            {"name": "c", "problem": "It could not be reached."},
        ]
    )
    assert [(one["level"], one["host"], one["kind"]) for one in found["warnings"]] == [
        ("critical", "c", "not looked at"),
        ("critical", "b", "missing base"),
        ("critical", "a", "nearly full"),
        ("warning", "a", "over the limit"),
        ("warning", "a", "leaking image"),
    ]
    assert found["critical"] == 3
    assert "130 GiB are promised, 1.30 times the 100 GiB" in found["warnings"][3]["text"]


def test_a_full_file_system_on_which_nothing_grows_is_not_critical() -> None:
    thick = image("/srv/a", actual_size=10 * GIB)
    assert kinds(page(thick, used=97 * GIB, available=3 * GIB)) == [("warning", "nearly full")]


def test_clones_of_a_missing_base_are_one_warning_and_so_is_what_stands_on_them() -> None:
    clones = [image(f"/srv/{name}", missing=["/gone"], problem="needs") for name in "ab"]
    clones[0] |= {"dependents": ["/srv/top"], "grows": False}
    top = image("/srv/top", backing_file="/srv/a")
    found = page(*clones, top, disks=(disk("web", "/srv/top", problem="no such image"),), checks=(checked("/srv/top"),))
    assert kinds(found) == [("critical", "missing base")]
    assert found["warnings"][0]["subject"] == "/gone"
    assert found["warnings"][0]["text"] == "2 images need this file, and it is missing: /srv/a, /srv/b"
    assert health(found)["/srv/top"] == ("broken chain", "critical")


def test_a_disk_that_cannot_be_looked_at_is_a_warning_of_its_own() -> None:
    found = page(disks=(disk("web", "/srv/a", problem="/srv/a: no such image", backing_chain=[]),))
    assert kinds(found) == [("critical", "broken disk")]
    assert found["warnings"][0]["subject"] == "web vda"
    assert found["rows"][0]["depth"] is None


def test_a_torn_image_that_nobody_uses_is_a_lesser_evil() -> None:
    found = page(image("/srv/a", format=None, problem="/srv/a: the header is cut off"))
    assert kinds(found) == [("warning", "unreadable image")]
    assert health(found) == {"/srv/a": ("unreadable", "warning")}


@pytest.mark.parametrize(
    ("check", "kind", "word"),
    [
        (checked("/srv/a", "corrupt", corruptions=2), ("critical", "corrupt image"), ("corrupt", "critical")),
        (checked("/srv/a", "good", corrupt=True), ("critical", "corrupt image"), ("corrupt", "critical")),
        (checked("/srv/a", "leaks", leaks=5), ("warning", "leaking image"), ("leaks", "warning")),
        (checked("/srv/a", "good", check_errors=1), ("warning", "check failed"), ("check failed", "warning")),
        (checked("/srv/a", "unsupported"), None, ("not checked", "good")),
        ({**checked("/srv/a"), "check": None}, None, ("in use", "good")),
    ],
)
def test_what_a_check_found_is_told(check: Facts, kind: tuple[str, str] | None, word: tuple[str, str]) -> None:
    found = page(image("/srv/a"), checks=(check,))
    assert kinds(found) == ([kind] if kind else [])
    assert health(found) == {"/srv/a": word}


def test_a_check_that_failed_is_told() -> None:
    found = capacity_report([{"name": "a", "filesystems": [system()], "check_problem": "/srv/a: no such image"}])
    assert kinds(found) == [("warning", "not all checked")]
    assert found["warnings"][0]["text"] == "/srv/a: no such image"


def test_a_base_that_a_domain_would_write_is_in_danger_unless_its_mode_protects_it() -> None:
    base = image("/srv/base", dependents=["/srv/clone"], grows=False)
    clone = image("/srv/clone", backing_file="/srv/base")
    golden = disk("golden", "/srv/base", state="shut off")
    found = page(base, clone, disks=(golden,))
    assert kinds(found) == [("warning", "base in danger")]
    assert "1 image stands on it, and domain golden would write it" in found["warnings"][0]["text"]
    assert kinds(page({**base, "writable": False}, clone, disks=(golden,))) == []
    assert kinds(page(base, clone, disks=({**golden, "readonly": True},))) == []
    assert kinds(page(base, clone)) == []
    assert kinds(page({**base, "grows": True}, clone, disks=(golden,))) == [("critical", "base is written")]


def test_rows_say_what_each_image_is_for_and_how_it_is_allocated() -> None:
    base = image("/srv/base", dependents=["/srv/clone"], grows=False)
    clone = image("/srv/clone", backing_file="/srv/base", domains=["web"])
    thick = image("/srv/thick", actual_size=10 * GIB)
    shot = image("/srv/shot", domains=["db"])
    chain = [
        {"path": "/srv/clone", "format": "qcow2", "virtual_size": GIB, "actual_size": 1, "backing_file": "/srv/base"}
    ]
    web = disk("web", "/srv/clone", backing_chain=[*chain, {"path": "/srv/base"}])
    empty = disk("web", None, device="cdrom")
    rows = {row["path"]: row for row in page(base, clone, thick, shot, disks=(web, empty))["rows"]}
    told = {path: (row["domain"], row["user"], row["policy"], row["depth"]) for path, row in rows.items()}
    assert told == {
        "/srv/clone": ("web", "disk", "linked clone", 2),
        "/srv/base": ("", "base of 1", "thin", 1),
        "/srv/thick": ("", "no domain", "thick", 1),
        "/srv/shot": ("", "db", "thin", 1),
    }
    assert rows["/srv/clone"]["virtual_text"] == "1 GiB"


def test_it_says_what_could_be_won_back_and_which_disks_cannot_discard() -> None:
    base = image("/srv/base", dependents=["/srv/clone"], grows=False)
    clone, other, odd = image("/srv/clone", backing_file="/srv/base"), image("/srv/other"), image("/srv/odd.vmdk")
    gains = {"/srv/base": GIB, "/srv/clone": 3 * GIB, "/srv/other": 2 * GIB, "/srv/odd.vmdk": None}
    checks = tuple(checked(path, reclaimable=gain) for path, gain in gains.items())
    disks = (
        disk("web", "/srv/clone", discard="unmap"),
        disk("db", "/srv/other"),
        disk("iso", "/srv/odd.vmdk", device="cdrom", readonly=True),
    )
    found = page(base, clone, other, odd, disks=disks, checks=checks)
    assert found["filesystems"][0]["reclaimable"] == "5 GiB", "a base stays as it is"
    told = {row["path"]: (row["reclaimable_text"], row["no_discard"]) for row in found["rows"]}
    assert told == {
        "/srv/base": ("", False),
        "/srv/clone": ("3 GiB", False),
        "/srv/other": ("2 GiB", True),
        "/srv/odd.vmdk": ("", False),
    }
    html = rendered(found)
    assert "<dt>Reclaimable</dt><dd>5 GiB</dd>" in html
    assert html.count(">no discard</span>") == 1
    assert ">&minus;3 GiB</span>" in html
    assert "&minus;1 GiB" not in html
    assert page(image("/srv/a"))["filesystems"][0]["reclaimable"] == "unknown", "nothing was checked"


def test_a_bar_ends_beyond_all_that_is_on_it() -> None:
    bars = [page(image("/srv/a", promised=promised * GIB))["filesystems"][0]["bar"] for promised in (50, 110, 900)]
    for drawn in bars:
        assert max(drawn.values()) < 100
        assert drawn["limit"] == pytest.approx(1.2 * drawn["size"], abs=0.02)
    assert bars[1]["promised"] == pytest.approx(1.1 * bars[1]["size"], abs=0.02)
    assert bars[2]["promised"] > 90
    unknown = page(size=None, used=None, available=None, ratio=None, over_limit=None)["filesystems"][0]
    assert (unknown["bar"]["used"], unknown["size"], unknown["over_limit"]) == (0, "unknown", False)


def test_storage_that_hosts_share_counts_once() -> None:
    shared = system(device="server:/export", type="nfs4")
    hosts = [{"name": name, "filesystems": [shared, system()], "disks": []} for name in ("a", "b")]
    totals = capacity_report(hosts)["totals"]
    assert (totals["filesystems"], totals["size"], totals["used_percent"]) == (3, "300 GiB", 10)


def test_of_many_warnings_of_a_kind_most_are_folded_away_and_none_is_left_out() -> None:
    paths = [f"/srv/{number:02}" for number in range(20)]
    checks = (*(checked(path, "leaks", leaks=1) for path in paths), checked("/srv/bad", "corrupt", corruptions=1))
    found = page(*(image(path) for path in (*paths, "/srv/bad")), checks=checks)
    groups = [(len(group["first"]), len(group["more"])) for group in found["warning_groups"]]
    assert groups == [(1, 0), (1, 0), (5, 15)], "a corrupt image, a file system over the limit, and leaks"
    together = [one for group in found["warning_groups"] for one in (*group["first"], *group["more"])]
    assert together == found["warnings"]
    html = rendered(found)
    assert "15 more of this kind" in html
    assert all(f"<b>{path[-2:]}</b>" in html for path in paths)
    six = page(*(image(path) for path in paths[:6]), checks=checks[:6])
    assert [(len(group["first"]), len(group["more"])) for group in six["warning_groups"]] == [(6, 0)]


class Elements(HTMLParser):
    """The elements of a page, and all their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _value in attrs}


def elements(found: Facts, title: str) -> Elements:
    parsed = Elements()
    parsed.feed(rendered(found, title))
    return parsed


def everything(mark: str) -> Facts:
    """A page that says MARK wherever a host, a guest or a person has chosen the words."""
    base = image(f"/srv/{mark}/base", dependents=[f"/srv/{mark}/clone", f"/srv/{mark}"], grows=False)
    named = image(f"/srv/{mark}", backing_file=f"/srv/{mark}/base", domains=[mark])
    clone = image(f"/srv/{mark}/clone", backing_file=f"/srv/{mark}/base", domains=[mark])
    strange = image(f"/srv/{mark}.img", format=mark, problem=mark)
    orphan = image(f"/srv/{mark}/orphan", missing=[f"/srv/{mark}/gone"], problem=mark)
    sick = [checked(f"/srv/{mark}/{name}", "corrupt", corruptions=1, problems=[mark]) for name in ("base", *"abcdefgh")]
    disks = [
        disk(mark, f"/srv/{mark}/base", target=mark, state=mark),
        disk(mark, f"/srv/{mark}/clone", problem=mark),
        disk(mark, f"/srv/{mark}/torn", problem=mark, backing_chain=[]),
    ]
    full = {"mount": f"/{mark}", "device": mark, "type": mark, "pools": [mark], "used": 99 * GIB, "over_limit": True}
    return capacity_report(
        [
            {
                "name": mark,
                "filesystems": [system(base, named, clone, strange, orphan, **full)],
                "disks": disks,
                "checks": sick,
            },
            {"name": f"{mark}2", "problem": mark},
            {"name": f"{mark}3", "filesystems": [], "check_problem": mark},
        ]
    )


def test_no_word_that_a_host_says_becomes_a_part_of_the_page() -> None:
    plain, hostile = "plain", "<img src=x onerror=alert(1)>\"'><script>x</script></svg></style>&amp;"
    expected, found = elements(everything(plain), plain), elements(everything(hostile.replace("/", "|")), hostile)
    assert "img" not in found.tags
    assert found.tags == expected.tags
    assert found.attributes == expected.attributes
    assert len([tag for tag in found.tags if tag == "script"]) == 1


@pytest.mark.parametrize("element", ["noscript", "tbody", "tr"])
def test_the_script_finds_the_rows_whatever_is_in_them(element: str) -> None:
    told = everything(f"<{element}></{element}>")
    held = rendered(told).partition("<noscript>")[2].partition("</noscript>")[0]
    assert held.partition("<tbody>")[2].partition("</tbody>")[0].count("<tr>") == len(told["rows"])


def boxes(found: Facts) -> dict[str, Facts]:
    return {node["path"]: node for node in found["pictures"][0]["picture"]["nodes"]}


def test_each_link_of_a_chain_stands_one_column_further() -> None:
    base = image("/srv/base", dependents=["/srv/a", "/srv/mid"])
    mid = image("/srv/mid", backing_file="/srv/base", dependents=["/srv/top"])
    found = page(base, mid, image("/srv/a"), image("/srv/top"), image("/srv/alone"))
    drawn = boxes(found)
    picture = found["pictures"][0]["picture"]
    assert "/srv/alone" not in drawn
    columns = [drawn[path]["x"] for path in ("/srv/base", "/srv/mid", "/srv/top")]
    assert columns[0] < columns[1] < columns[2]
    assert drawn["/srv/a"]["x"] == drawn["/srv/mid"]["x"]
    assert len({(node["x"], node["y"]) for node in picture["nodes"]}) == 4
    assert len(picture["lines"]) == 3
    assert all(0 <= node["x"] <= picture["width"] - picture["node_width"] for node in picture["nodes"])
    assert all(0 <= node["y"] <= picture["height"] - picture["node_height"] for node in picture["nodes"])


def test_where_nothing_stands_on_anything_nothing_is_drawn() -> None:
    assert page(image("/srv/a"))["pictures"] == []


def test_a_missing_base_is_drawn_as_what_it_is() -> None:
    drawn = boxes(page(image("/srv/a", missing=["/gone"], problem="x")))
    assert (drawn["/gone"]["kind"], drawn["/gone"]["text"], drawn["/gone"]["level"]) == (
        "missing",
        "missing",
        "critical",
    )
    assert drawn["/srv/a"]["text"] == "broken chain"


def test_a_circle_is_drawn_once_around() -> None:
    a = image("/srv/a", backing_file="/srv/b", dependents=["/srv/b"])
    b = image("/srv/b", backing_file="/srv/a", dependents=["/srv/a"])
    assert sorted(boxes(page(a, b))) == ["/srv/a", "/srv/b"]


def test_of_many_clones_some_are_drawn_and_the_others_counted_by_how_they_are() -> None:
    names = [f"/srv/{number:03}" for number in range(100)]
    base = image("/srv/base", dependents=names)
    checks = (checked("/srv/099", "corrupt", corruptions=1),)
    found = page(base, *(image(name, backing_file="/srv/base") for name in names), checks=checks)
    drawn = found["pictures"][0]["picture"]["nodes"]
    assert len(drawn) == 1 + 12 + 1 + 1
    assert "and 87 more" in [node["name"] for node in drawn]
    assert "/srv/099" in [node["path"] for node in drawn]
    lost = page(*(image(name, missing=["/gone"], problem="x") for name in names))["pictures"][0]["picture"]["nodes"]
    assert [(node["name"], node["text"], node["level"]) for node in lost if node["kind"] == "more"] == [
        ("and 88 more", "broken chain", "critical")
    ]


def test_of_many_bases_those_with_trouble_are_drawn_and_the_others_counted() -> None:
    bases = [image(f"/srv/base-{number:03}", dependents=[f"/srv/{number:03}"]) for number in range(100)]
    clones = [image(f"/srv/{number:03}", backing_file=f"/srv/base-{number:03}") for number in range(100)]
    found = page(*bases, *clones, checks=(checked("/srv/099", "corrupt", corruptions=1),))
    drawn = boxes(found)
    assert {"/srv/base-000", "/srv/000", "/srv/base-099", "/srv/099"} <= set(drawn)
    assert len(drawn) == 80
    assert found["pictures"][0]["picture"]["left_out"] == 60
    assert "60 more bases are not drawn" in rendered(found)


def test_each_of_several_hosts_is_told_of_in_short() -> None:
    sick = {"name": "b", "filesystems": [system(image("/srv/a"))], "disks": [disk("web", "/srv/a"), disk("web", None)]}
    sick["checks"] = [checked("/srv/a", "leaks", leaks=1)]
    found = capacity_report([{"name": "a", "filesystems": [system()]}, sick, {"name": "c", "problem": "gone"}])
    told = [(one["host"], one["level"], one["warnings"], one["domains"], one["disks"]) for one in found["summaries"]]
    assert told == [("a", "good", 0, 0, 0), ("b", "warning", 1, 1, 1), ("c", "critical", 1, 0, 0)]
    assert 'data-host="b"' in rendered(found)
    assert "data-host=" not in rendered(page(image("/srv/a"))), "one host is what the page tells of"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (512, "512 bytes"),
        (1000, "1 KiB"),
        (1536, "1.5 KiB"),
        (338 << 20, "338 MiB"),
        (1023 << 20, "1 GiB"),
    ],
)
def test_a_size_is_told_in_few_digits(size: int, text: str) -> None:
    assert short_size(size) == text


def test_a_long_name_keeps_both_its_ends() -> None:
    name = "a-name-that-is-much-longer-than-the-box-2026-11-24.qcow2"
    drawn = boxes(page(image(f"/srv/{name}", missing=["/gone"], problem="x")))
    shown = drawn[f"/srv/{name}"]["name"]
    assert len(shown) == 26
    assert (shown[:10], shown[-10:]) == (name[:10], name[-10:])


def test_the_sizes_beside_a_long_domain_name_are_whole() -> None:
    base = image("/srv/base", dependents=["/srv/clone"], grows=False)
    drawn = boxes(page(base, image("/srv/clone", domains=["a-domain-whose-name-is-much-longer-than-the-box"])))
    assert drawn["/srv/clone"]["text"] == "a-dom…he-box · 1 GiB of 10 GiB"
