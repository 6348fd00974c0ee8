"""What we wrote is known before the watch shows it, and not longer than that."""

from __future__ import annotations

from dataclasses import replace

from vpccni.components.policy_controller.endpoints import CONFIRMED_WITHIN_S, Endpoints
from vpccni.components.policy_controller.model import Head, Rows, Stored
from vpccni.shared.kube.objects import Key

KEY = Key("n", "p-1")
ONE = Stored("p-1", "n", "u", "5", Head("p", {}), Rows())


def test_what_was_written_is_there_at_once_and_its_own_echo_is_no_news() -> None:
    endpoints = Endpoints()
    endpoints.written(ONE, 0.0)
    assert endpoints.of("u") == [ONE]
    assert endpoints.shown(KEY, ONE) == ""
    assert list(endpoints.forget_unconfirmed(1e9)) == []


def test_an_older_state_that_the_watch_shows_late_changes_nothing() -> None:
    endpoints = Endpoints()
    endpoints.written(replace(ONE, resource_version="9"), 0.0)
    assert endpoints.shown(KEY, replace(ONE, resource_version="10")) == "u"
    assert endpoints.shown(KEY, ONE) == ""
    assert endpoints.of("u")[0].resource_version == "10"


def test_a_foreign_change_and_a_foreign_deletion_are_news_of_the_owner() -> None:
    endpoints = Endpoints()
    assert endpoints.shown(KEY, ONE) == "u"
    assert endpoints.shown(KEY, replace(ONE, resource_version="6", owner_uid="v")) == "v"
    assert endpoints.owners() == {"v"}
    assert endpoints.shown(KEY, None) == "v"
    assert endpoints.of("v") == []


def test_what_the_watch_never_shows_is_forgotten_and_its_owner_looked_at() -> None:
    endpoints = Endpoints()
    endpoints.written(ONE, 0.0)
    assert list(endpoints.forget_unconfirmed(CONFIRMED_WITHIN_S - 1)) == []
    assert list(endpoints.forget_unconfirmed(CONFIRMED_WITHIN_S)) == ["u"]
    assert endpoints.of("u") == []
    endpoints.written(ONE, 0.0)
    endpoints.deleted(ONE)
    assert list(endpoints.forget_unconfirmed(1e9)) == []
