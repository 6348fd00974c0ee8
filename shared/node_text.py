"""The view of a node for a terminal: what the page shows, as lines of a given width. Pure.

Colours are added by `Paint`, so that plain text, as for a pipe, is the same text without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from vpccni.shared.node_view import (
    COOLING,
    FENCED,
    FREE,
    HELD,
    SILENT,
    STATES,
    WAITING,
    BlockMap,
    CallRow,
    EniMap,
    NodeView,
    PodRow,
    ProcessRow,
)
from vpccni.shared.units import duration, size

Paint = Callable[[str, str], str]
"""Text and a role (`STATES`, `good`, `warn`, `bad`, `dim`, `head`) to text."""
MARKS: Final = {HELD: "#", FREE: ".", COOLING: "~", FENCED: "x", WAITING: "?"}
COLOURS: Final = {
    HELD: "34", FREE: "32", COOLING: "33", FENCED: "31", WAITING: "90", "good": "32", "warn": "33", "bad": "31", "dim": "90", "head": "1",
}  # fmt: skip


def plain(text: str, role: str) -> str:
    """Return the text as it is."""
    return text


def coloured(text: str, role: str) -> str:
    """Return the text in the role's colour."""
    return f"\x1b[{COLOURS[role]}m{text}\x1b[0m"


def lines(view: NodeView, paint: Paint, *, width: int, height: int = 0) -> list[str]:
    """Return the whole view. `height`: at most so many lines, the list of pods is cut and says so; 0: all."""
    above = [
        *_head(view, paint),
        "",
        *_processes(view, paint, width),
        "",
        *_addresses(view, paint, width),
        "",
        *_calls(view, paint),
    ]
    pods = list(_pods(view, paint))
    room = len(pods) if height == 0 else max(2, height - len(above) - 2)
    shown = pods[:room] if len(pods) <= room else [*pods[: room - 1], paint(f"... {len(pods) - room + 1} more", "dim")]
    return [*above, "", *shown]


def _head(view: NodeView, paint: Paint) -> Iterator[str]:
    yield (
        paint(view.name or "this node", "head")
        + "  "
        + "  ".join(f"{paint(what, 'dim')} {value}" for what, value in view.identity)
    )


def _processes(view: NodeView, paint: Paint, width: int) -> Iterator[str]:
    for row in view.processes:
        yield _process(row, paint)
        yield from (f"{'':<22}- {reason}"[:width] for reason in row.reasons)


def _process(row: ProcessRow, paint: Paint) -> str:
    role = {"serving": "good", SILENT: "bad"}.get(row.state, "warn")
    told = f"pid {row.pid:<8} up {duration(row.up_s):<14} log {row.log_level}" if row.pid else ""
    return f"{row.name:<20}  {paint(f'{row.state:<9}', role)}  {told}".rstrip()


def _addresses(view: NodeView, paint: Paint, width: int) -> Iterator[str]:
    totals = {state: sum(eni.counts[state] for eni in view.enis) for state in STATES}
    yield "  ".join(paint(f"{MARKS[state]} {totals[state]} {state}", state) for state in STATES)
    if view.pool is not None and view.pool.cause:
        yield paint(f"no address is free: {view.pool.cause}. {view.pool.detail}"[:width], "warn")
    if view.growth:
        yield paint(f"growing waits: {view.growth}"[:width], "warn")
    for eni in view.enis:
        yield from _eni(eni, paint, width)


def _eni(eni: EniMap, paint: Paint, width: int) -> Iterator[str]:
    marks = f"  ({', '.join(eni.marks)})" if eni.marks else ""
    where = f"card {eni.card} device {eni.device} table {eni.table or '-'}"
    yield f"{paint(eni.eni_id, 'head')}  {where}  {eni.primary_address}{paint(marks, 'dim')}"
    line, used = "    ", 4
    for block in eni.blocks:
        text, length = _block(block, paint)
        if used + length > width:
            yield line
            line, used = "    ", 4
        line, used = line + text, used + length
    if used > 4:
        yield line


def _block(block: BlockMap, paint: Paint) -> tuple[str, int]:
    """Return a block's cells and how wide they are without their colours."""
    cells = "".join(paint(MARKS[cell.state], cell.state) for cell in block.cells)
    if block.total == 1:
        return cells, 1
    name = f"{block.item} "
    return f"{paint(name, 'dim')}{cells}  ", len(name) + len(block.cells) + 2


def _calls(view: NodeView, paint: Paint) -> Iterator[str]:
    if view.calls:
        yield paint(f"{'EC2 action':<36}{'calls':>7}{'errors':>8}{'mean ms':>9}{'tokens':>8}", "dim")
        yield from (_call(row, paint) for row in view.calls)


def _call(row: CallRow, paint: Paint) -> str:
    errors = paint(f"{row.errors:>8}", "bad" if row.errors else "dim")
    tokens = f"{row.tokens:>8.1f}" if row.tokens >= 0 else f"{'-':>8}"
    return f"{row.api:<36}{row.calls:>7}{errors}{row.mean_ms:>9.0f}{tokens}" + (
        paint("  denied", "bad") if row.denied else ""
    )


def _pods(view: NodeView, paint: Paint) -> Iterator[str]:
    yield paint(
        f"{f'{len(view.pods)} pods':<44}{'address':<18}{'host veth':<18}{'for':>13}{'in':>11}{'out':>11}{'denied':>9}",
        "dim",
    )
    yield from (_pod(row, paint) for row in view.pods)
    if view.omitted:
        yield paint(f"{view.omitted} more addresses are in use", "dim")


def _pod(row: PodRow, paint: Paint) -> str:
    veth = f"{row.host_veth:<18}" if row.host_veth else paint(f"{'none of ours':<18}", "warn")
    return (
        f"{row.pod[:43]:<44}{row.address:<18}{veth}{duration(row.held_s):>13}"
        f"{_traffic(row.ingress_packets, row.ingress_bytes):>11}{_traffic(row.egress_packets, row.egress_bytes):>11}"
        + paint(
            f"{row.denied_packets if row.denied_packets >= 0 else '-':>9}", "bad" if row.denied_packets > 0 else "dim"
        )
    )


def _traffic(packets: int, count: int) -> str:
    return size(count) if packets >= 0 else "-"
