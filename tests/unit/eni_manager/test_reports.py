"""What of the reports is sent when: series, rate, bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vpccni.components.eni_manager.reporter import NOTE_AT_MOST, Regarding, cut, event_body, series
from vpccni.components.eni_manager.reports import (
    BURST,
    QUEUE_AT_MOST,
    REFILL_S,
    REPEAT_S,
    SERIES_S,
    Note,
    Reports,
)
from vpccni.lab.kube import events as api

T0 = 1_000.0


def note(number: int = 0) -> Note:
    return Note("Reason", f"number {number}")


def send_all(reports: Reports, now: float) -> list[tuple[str, int]]:
    """Send what is due; return text and count of each request."""
    sent = []
    while (entry := reports.due(now)) is not None:
        reports.spend(now)
        sent.append((entry.note.text, entry.count))
        reports.sent(entry, entry.count, now)
    return sent


def test_the_first_is_due_at_once_and_repeats_together_after_a_pause() -> None:
    reports = Reports()
    reports.add(note(), wall_us=1, now=T0)
    assert send_all(reports, T0) == [("number 0", 1)]
    for _ in range(3):
        reports.add(note(), wall_us=2, now=T0 + 1)
    assert send_all(reports, T0 + 1) == []
    assert reports.wait_s(T0 + 1) == REPEAT_S - 1
    assert send_all(reports, T0 + REPEAT_S) == [("number 0", 4)]
    assert reports.wait_s(T0 + REPEAT_S) is None


def test_after_a_long_silence_it_is_a_new_series() -> None:
    reports = Reports()
    reports.add(note(), wall_us=1, now=T0)
    send_all(reports, T0)
    reports.add(note(), wall_us=2, now=T0 + SERIES_S + 1)
    assert send_all(reports, T0 + SERIES_S + 1) == [("number 0", 1)]


def test_what_waits_is_counted_however_long_the_api_is_away() -> None:
    reports = Reports()
    reports.add(note(), wall_us=1, now=T0)
    for tries in range(5):
        reports.unanswered(T0 + tries, 0.0)
    reports.add(note(), wall_us=2, now=T0 + 10 * SERIES_S)
    assert send_all(reports, T0 + 11 * SERIES_S) == [("number 0", 2)]


def test_an_api_that_does_not_answer_is_left_alone_for_longer_each_time() -> None:
    reports = Reports()
    reports.add(note(), wall_us=1, now=T0)
    waits = []
    for _ in range(8):
        reports.unanswered(T0, 0.0)
        waits.append(reports.wait_s(T0))
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_flood_is_sent_slowly_and_new_ones_are_refused_when_it_is_full() -> None:
    reports = Reports()
    taken = [reports.add(note(number), wall_us=number, now=T0) for number in range(QUEUE_AT_MOST + 5)]
    assert taken.count(True) == QUEUE_AT_MOST
    assert len(send_all(reports, T0)) == BURST
    assert reports.wait_s(T0) == REFILL_S
    assert send_all(reports, T0 + REFILL_S) == [(f"number {BURST}", 1)]
    assert reports.add(note(999), wall_us=1, now=T0), "the place of one that is sent is free"


def test_an_event_that_the_api_has_forgotten_begins_again_with_what_is_new() -> None:
    reports = Reports()
    reports.add(note(), wall_us=1, now=T0)
    send_all(reports, T0)
    reports.add(note(), wall_us=5, now=T0 + 1)
    entry = reports.due(T0 + REPEAT_S)
    assert entry is not None
    reports.gone(entry)
    assert (entry.count, entry.written, entry.first_us) == (1, 0, 5)
    assert send_all(reports, T0 + REPEAT_S) == [("number 0", 1)]


def test_one_that_the_api_will_never_take_is_forgotten() -> None:
    reports = Reports()
    reports.add(note(), wall_us=1, now=T0)
    entry = reports.due(T0)
    assert entry is not None
    reports.refused(entry)
    assert (reports.due(T0), len(reports)) == (None, 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 200)), max_size=60))
def test_every_report_is_told_in_the_end(steps: list[tuple[int, float]]) -> None:
    reports, now, told = Reports(), T0, 0
    counts: dict[str, int] = {}
    for number, pause in steps:
        now += pause
        reports.add(note(number), wall_us=1, now=now)
        for text, count in send_all(reports, now):
            told += count - counts.get(text, 0) if count > counts.get(text, 0) else count
            counts[text] = count
    for _ in range(100):
        now += REPEAT_S
        for text, count in send_all(reports, now):
            told += count - counts.get(text, 0) if count > counts.get(text, 0) else count
            counts[text] = count
    assert told == len(steps)


@given(
    st.text(max_size=2000), st.text(min_size=1, max_size=300), st.integers(1, 5),
    st.sampled_from([Regarding("Pod", "shop", "web", "u"), Regarding("Pod", "kube-system", "x"), Regarding("Node", "", "n", "n")]),
)  # fmt: skip
def test_whatever_is_reported_makes_an_event_that_the_api_takes(
    text: str, reason: str, times: int, about: Regarding
) -> None:
    reports = Reports()
    for _ in range(times):
        reports.add(Note(reason, text), wall_us=1_700_000_000_000_000, now=T0)
    entry = reports.due(T0)
    assert entry is not None
    entry.name = "web.1"
    body = event_body(entry, about, "aws-node-1")
    api.check_new(dict(body), about.event_namespace)
    if times > 1:
        api.check_change(dict(body), {**body, "series": series(entry)})


def test_a_long_note_is_cut_between_letters() -> None:
    assert len(cut("ä" * 2000, NOTE_AT_MOST).encode()) <= NOTE_AT_MOST
    assert cut("ä" * 2000, NOTE_AT_MOST).endswith("ä...")
    assert cut("short", NOTE_AT_MOST) == "short"
