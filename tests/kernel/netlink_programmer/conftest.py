"""Namespaces of a test's own: a node and pods."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from vpccni.components.netlink_programmer.rtnl import RouteSocket
from vpccni.components.netlink_programmer.wiring import Wirer
from vpccni.lab.namespaces import Place, call_in, make_netns, remove_netns

T = TypeVar("T")
_NUMBERS = itertools.count()


class Space:
    """A network namespace; `ip` is the judge of what it holds."""

    def __init__(self, kind: str) -> None:
        self.name = f"prog-{kind}-{os.getpid()}-{next(_NUMBERS)}"
        self.path = make_netns(self.name)
        self.place = Place(net=self.path)

    def do(self, function: Callable[[], T]) -> T:
        return call_in(self.place, function)

    def run(self, *argv: str, text: str = "") -> str:
        def go() -> str:
            return subprocess.run(argv, input=text, text=True, capture_output=True, check=True).stdout

        return self.do(go)

    def ip(self, *words: str) -> list[dict[str, Any]]:
        shown = json.loads(self.run("ip", "-json", "-details", *words) or "[]")
        assert isinstance(shown, list)
        return shown

    def links(self) -> set[str]:
        return {link["ifname"] for link in self.ip("link")}

    def socket(self) -> RouteSocket:
        return self.do(RouteSocket)

    def close(self) -> None:
        remove_netns(self.name)


class Node(Space):
    """A namespace with a wirer; what it buries waits in `graves`."""

    def __init__(self) -> None:
        super().__init__("node")
        self.graves: list[int] = []
        self.wirer = self.do(lambda: Wirer(RouteSocket(), bury=self.graves.append))

    def close(self) -> None:
        self.wirer.close()
        super().close()


@pytest.fixture
def space() -> Iterator[Space]:
    one = Space("bare")
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def node() -> Iterator[Node]:
    one = Node()
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def new_pod() -> Iterator[Callable[[], Space]]:
    """Makes pods' namespaces."""
    pods: list[Space] = []

    def make() -> Space:
        pods.append(Space("pod"))
        return pods[-1]

    try:
        yield make
    finally:
        for pod in pods:
            pod.close()
