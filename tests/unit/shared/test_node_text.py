from __future__ import annotations

import re

import pytest
from support.node_copies import NOW_NS, NOW_S, some_copies, some_heard

from vpccni.shared.node_text import coloured, lines, plain
from vpccni.shared.node_view import Copies, NodeView, view

COLOUR = re.compile(r"\x1b\[\d+m")


def seen(pods: int = 3) -> NodeView:
    return view(some_copies(pods), some_heard(), wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30)


def test_everything_the_page_shows_is_there() -> None:
    text = "\n".join(lines(seen(), plain, width=120))
    for words in (
        "ip-10-0-0-4.example",
        "- EC2 throttles <this> account",
        "# 3 held  . 30 free  ~ 1 cooling  x 16 fenced  ? 1 waiting",
        "10.0.16.0/28 ###~............",
        "10.0.31.240/28 xxxxxxxxxxxxxxxx",
        "growing waits: THROTTLED until EC2 answers",
        "AssignPrivateIpAddresses                  7       2      100    12.5",
        "none of ours",
        "default/web-002",
    ):
        assert words in text, words


@pytest.mark.parametrize("width", [80, 120, 200])
def test_blocks_are_wrapped_at_the_width(width: int) -> None:
    shown = lines(seen(110), plain, width=width)
    assert all(len(line) <= width for line in shown if line.startswith("    10."))
    assert "".join(shown).count("#") == 110 + 1, "and the legend"


def test_colours_change_nothing_but_the_colour() -> None:
    with_colour = [COLOUR.sub("", line).rstrip() for line in lines(seen(), coloured, width=120)]
    assert with_colour == [line.rstrip() for line in lines(seen(), plain, width=120)]


@pytest.mark.parametrize("height", [40, 60])
def test_the_list_of_pods_is_cut_to_the_height_and_says_so(height: int) -> None:
    shown = lines(seen(110), plain, width=120, height=height)
    assert len(shown) < height
    pods = sum("/web-" in line for line in shown)
    assert shown[-1] == f"... {110 - pods} more"


def test_a_node_of_which_nothing_is_known_is_shown() -> None:
    assert lines(view(Copies(), {}, wall_ns=NOW_NS, boot_s=NOW_S, cooldown_s=30), plain, width=80)
