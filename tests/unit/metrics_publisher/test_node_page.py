from __future__ import annotations

import time
from html.parser import HTMLParser

from support.node_copies import NOW_NS, NOW_S, some_copies, some_heard

from vpccni.components.metrics_publisher.node_page import content, page
from vpccni.shared.node_view import Copies, NodeView, view

VOID = {"meta", "br", "link", "img"}


class Reader(HTMLParser):
    """Reads a page, and fails where a tag is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data.strip())

    def cells(self, state: str) -> list[str]:
        return [
            str(more["title"]) for tag, more in self.tags if tag == "i" and more["class"] == state and "title" in more
        ]

    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def seen(pods: int = 3) -> NodeView:
    return view(some_copies(pods), some_heard(), wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30)


def test_the_page_is_whole_and_has_each_part() -> None:
    read = Reader(page(seen()))
    assert [more["id"] for _, more in read.tags if "id" in more] == [
        "processes",
        "addresses",
        "ec2",
        "policies",
        "pods",
    ]
    assert len(read.cells("held")) == 3
    assert read.cells("cooling") == ["10.0.16.3: cooling"]
    assert len(read.cells("fenced")) == 16
    assert [more["data-eni"] for _, more in read.tags if "data-eni" in more] == ["eni-0", "eni-1", "eni-2", "eni-3"]
    for words in (
        "not heard yet",
        "log level debug",
        "Growing waits: THROTTLED",
        "DeleteNetworkInterface",
        "eni00000000002",
        "3.0 MiB",
        "9 packets",
        "18 packets were denied",
    ):
        assert words in read.text()


def test_names_that_others_chose_are_escaped() -> None:
    text = page(seen())
    assert "web-000<b>" not in text
    assert "web-000<b>" in Reader(text).text()
    assert "EC2 throttles <this> account" in Reader(text).text()


def test_nothing_is_loaded_from_anywhere_and_the_browser_is_told_so() -> None:
    text = page(seen())
    assert "http://" not in text
    assert "https://" not in text
    tags = Reader(text).tags
    assert not any("src" in more or "href" in more for _, more in tags)
    (policy,) = [more["content"] for _, more in tags if more.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_without_a_script_it_is_loaded_again() -> None:
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page(seen())


def test_an_event_is_one_line_that_reads_as_the_page_does() -> None:
    assert "\n" not in content(seen())
    assert content(seen()) in page(seen())


def test_a_page_of_nothing_says_so() -> None:
    read = Reader(page(view(Copies(), {}, wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30)))
    assert "The ENIs of this instance are not known yet." in read.text()
    assert "No pod holds an address." in read.text()


def test_110_pods_are_rendered_in_less_than_100_ms() -> None:
    copies, heard = some_copies(110), some_heard()
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        text = page(view(copies, heard, wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30))
        took.append(time.perf_counter() - begun)
    assert text.count("<tr>") > 110
    assert min(took) < 0.1
