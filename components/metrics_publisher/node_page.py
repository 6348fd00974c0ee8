"""The node's page: the view as HTML, whole, without a script needed and without anything from elsewhere. Pure.

With a script (below) the parts that an event changes are replaced; without one the browser loads the page again every few seconds. Everything a process or a pod's name brings is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

from vpccni.shared.node_view import (
    HELD,
    STATES,
    BlockMap,
    CallRow,
    Cell,
    EniMap,
    NodeView,
    PodRow,
    ProcessRow,
)
from vpccni.shared.units import duration, size

PATH: Final = "/node"
EVENTS_PATH: Final = "/node/events"
CONTENT_TYPE: Final = "text/html; charset=utf-8"
AGAIN_S: Final = 5
"""Without a script."""

STYLE: Final = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2430;--dim:#667184;--line:#e2e6ec;--held:#2563eb;--free:#c9e9d3;--cooling:#f4b740;
--fenced:#d9534f;--waiting:#cfd5de;--ok:#1f9d55;--warn:#c77700;--bad:#c9302c}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1a2029;--ink:#e6eaf0;--dim:#93a0b4;--line:#2b3440;--held:#5b8def;
--free:#24533a;--cooling:#d79a2b;--fenced:#d9534f;--waiting:#3a4452;--ok:#4cc38a;--warn:#e3a03c;--bad:#ef6a65}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:14px/1.45 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 24px 48px}h1{font-size:22px;margin:0}h2{font-size:15px;margin:0 0 10px}
header{display:flex;flex-wrap:wrap;gap:4px 22px;align-items:baseline;margin-bottom:18px}header span{color:var(--dim)}header b{color:var(--ink);font-weight:600}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;margin-bottom:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(185px,1fr));gap:12px;margin-bottom:16px}
.tile{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--ok);border-radius:8px;padding:10px 12px}
.tile.degraded,.tile.starting{border-left-color:var(--warn)}.tile.silent{border-left-color:var(--bad)}
.tile b{display:block}.tile .state{font-weight:600;color:var(--ok)}.tile.degraded .state,.tile.starting .state{color:var(--warn)}
.tile.silent .state{color:var(--bad)}.tile p{margin:4px 0 0;color:var(--dim);font-size:12.5px}.tile ul{margin:6px 0 0;padding-left:16px;font-size:12.5px}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin-bottom:12px;color:var(--dim);font-size:12.5px}
i{display:inline-block;width:11px;height:11px;border-radius:2px;background:var(--waiting)}
.legend i{vertical-align:-1px;margin-right:6px}i.held{background:var(--held)}i.free{background:var(--free)}i.cooling{background:var(--cooling)}
i.fenced{background:var(--fenced)}i.waiting{background:var(--waiting)}
.eni{border-top:1px solid var(--line);padding:12px 0 10px}.eni h3{font-size:13.5px;margin:0 0 6px;font-weight:600}
.eni p{margin:0;font-size:12.5px}.eni h3 span{font-weight:400;color:var(--dim);margin-left:10px}.mark{border:1px solid var(--line);border-radius:9px;padding:0 8px;font-size:12px;margin-left:8px;color:var(--dim)}
.blocks{display:flex;flex-wrap:wrap;gap:10px 22px}.block{min-width:150px}.block code{display:block;color:var(--dim);font-size:11.5px;margin-bottom:3px}
.cells{display:flex;flex-wrap:wrap;gap:2px}.prefix{width:102px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th{text-align:left;color:var(--dim);font-weight:500;font-size:12.5px}
td,th{padding:4px 14px 4px 0;border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}.n{text-align:right}
code{font:12.5px ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}.bad{color:var(--bad)}.warn{color:var(--warn)}.dim{color:var(--dim)}
.bar{display:flex;height:12px;border-radius:6px;overflow:hidden;background:var(--line);margin:2px 0 10px}.bar u{display:block}
.scroll{overflow-x:auto}footer{color:var(--dim);font-size:12.5px}
"""
SCRIPT: Final = """
const main = document.querySelector("main"), told = document.querySelector("footer");
const stream = new EventSource("/node/events");
stream.onmessage = event => {
  const next = document.createElement("main");
  next.innerHTML = event.data;
  [...next.children].forEach((part, at) => {
    const old = main.children[at];
    if (!old) main.append(part.cloneNode(true));
    else if (old.outerHTML !== part.outerHTML) old.replaceWith(part.cloneNode(true));
  });
  told.textContent = "Live.";
};
stream.onerror = () => { told.textContent = "The publisher does not answer: this is how it last was. Trying again."; };
"""
_SCRIPT_HASH: Final = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
_POLICY: Final = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'; connect-src 'self'; base-uri 'none'"


def page(view: NodeView) -> str:
    """Return the whole document."""
    title = escape(view.name or "node")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · vpccni</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<noscript><meta http-equiv="refresh" content="{AGAIN_S}"></noscript><style>{STYLE}</style></head>'
        f"<body><main>{content(view)}</main>"
        f'<footer style="text-align:center">Loaded once; without a script again every {AGAIN_S} s.</footer>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def content(view: NodeView) -> str:
    """Return what changes: one line, as an event carries it."""
    parts = (_header(view), _processes(view), _addresses(view), _calls(view), _policy(view), _pods(view))
    return "".join(parts).replace("\n", " ")


def _header(view: NodeView) -> str:
    pairs = "".join(f"<span>{escape(what)} <b>{escape(value)}</b></span>" for what, value in view.identity)
    return f"<header><h1>{escape(view.name or 'this node')}</h1>{pairs}</header>"


def _processes(view: NodeView) -> str:
    return f'<div class="tiles" id="processes">{"".join(map(_process, view.processes))}</div>'


def _process(row: ProcessRow) -> str:
    if row.pid:
        up = f"pid {row.pid}, up {duration(row.up_s)}" if row.state != "silent" else f"heard {duration(row.age_s)} ago"
        more = f"<p>{up}</p><p>log level {escape(row.log_level)}{_restarts(row.restarts)}</p>"
    else:
        more = "<p>not heard yet</p>"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in row.reasons)
    return (
        f'<div class="tile {escape(row.state)}" data-process="{escape(row.name)}"><b>{escape(row.name)}</b>'
        f'<span class="state">{escape(row.state)}</span>{more}{f"<ul>{reasons}</ul>" if reasons else ""}</div>'
    )


def _restarts(count: int) -> str:
    return "" if count < 1 else f", {count} restart{'s' if count > 1 else ''} seen"


def _addresses(view: NodeView) -> str:
    totals = {state: sum(eni.counts[state] for eni in view.enis) for state in STATES}
    legend = "".join(
        f'<span title="{escape(told)}"><i class="{state}"></i>{totals[state]} {state}</span>'
        for state, told in STATES.items()
    )
    trouble = ""
    if view.pool is not None and view.pool.cause:
        trouble = f'<p class="warn">No address is free: {escape(view.pool.cause)}. {escape(view.pool.detail)}</p>'
    if view.growth:
        trouble += f'<p class="warn">Growing waits: {escape(view.growth)}</p>'
    return (
        f'<section id="addresses"><h2>Addresses</h2>{_bar(totals)}<div class="legend">{legend}</div>{trouble}'
        f"{''.join(map(_eni, view.enis)) or _nothing('The ENIs of this instance are not known yet.')}</section>"
    )


def _bar(totals: dict[str, int]) -> str:
    whole = sum(totals.values())
    if not whole or whole > 1 << 32:  # an IPv6 node's prefix: any share of it is nothing
        return ""
    parts = "".join(
        f'<u style="width:{count / whole:.2%};background:var(--{state})"></u>'
        for state, count in totals.items()
        if count
    )
    return f'<div class="bar">{parts}</div>'


def _eni(eni: EniMap) -> str:
    marks = "".join(f'<span class="mark">{escape(mark)}</span>' for mark in eni.marks)
    table = f"table {eni.table}" if eni.table else "no table"
    where = f"card {eni.card}, device {eni.device}, {table}"
    head = f"<h3>{escape(eni.eni_id)}<span>{where} · {escape(eni.primary_address)} · {escape(eni.subnet)}</span>{marks}</h3>"
    singles = "".join(_cell(cell) for block in eni.blocks if block.total == 1 for cell in block.cells)
    prefixes = "".join(_prefix(block) for block in eni.blocks if block.total > 1)
    cells = (f'<div class="cells">{singles}</div>' if singles else "") + (
        f'<div class="blocks">{prefixes}</div>' if prefixes else ""
    )
    return f'<div class="eni" data-eni="{escape(eni.eni_id)}">{head}{cells or _nothing("no addresses for pods")}</div>'


def _prefix(block: BlockMap) -> str:
    held = sum(cell.state == HELD for cell in block.cells)
    total = f"{block.total}" if block.total < 1 << 20 else f"2^{block.total.bit_length() - 1}"
    cells = "".join(map(_cell, block.cells))
    return f'<div class="block"><code>{escape(block.item)} · {held}/{total}</code><div class="cells prefix">{cells}</div></div>'


def _cell(cell: Cell) -> str:
    who = f" {cell.who}" if cell.who else ""
    return f'<i class="{cell.state}" title="{escape(cell.address + ": " + cell.state + who)}"></i>'


def _pods(view: NodeView) -> str:
    rows = "".join(map(_pod, view.pods))
    left_out = f'<p class="dim">{view.omitted} more addresses are in use.</p>' if view.omitted else ""
    head = "<tr><th>pod</th><th>address</th><th>ENI</th><th>host veth</th><th class=n>for</th><th class=n>in</th><th class=n>out</th><th class=n>denied</th></tr>"
    table = f'<div class="scroll"><table>{head}{rows}</table></div>' if rows else _nothing("No pod holds an address.")
    return f'<section id="pods"><h2>Pods <span class="dim">{len(view.pods)}</span></h2>{table}{left_out}</section>'


def _pod(row: PodRow) -> str:
    veth = f"<code>{escape(row.host_veth)}</code>" if row.host_veth else '<span class="warn">none of ours</span>'
    return (
        f"<tr><td>{escape(row.pod)}</td><td><code>{escape(row.address)}</code></td><td><code>{escape(row.eni_id)}</code></td>"
        f'<td>{veth}</td><td class="n">{duration(row.held_s)}</td><td class="n">{_traffic(row.ingress_packets, row.ingress_bytes)}</td>'
        f'<td class="n">{_traffic(row.egress_packets, row.egress_bytes)}</td>'
        f'<td class="n">{_denied(row.denied_packets)}</td></tr>'
    )


def _traffic(packets: int, count: int) -> str:
    return (
        f'<span title="{packets} packets">{size(count)}</span>' if packets >= 0 else '<span class="dim">&ndash;</span>'
    )


def _denied(packets: int) -> str:
    if packets < 0:
        return '<span class="dim">&ndash;</span>'
    return f'<span class="bad">{packets} packets</span>' if packets else "0"


def _policy(view: NodeView) -> str:
    if not view.policy:
        told = _nothing("The policy agent told nothing: policies are off, or it is away.")
    else:
        counted = sum(row.ingress_packets >= 0 for row in view.pods)
        denied = sum(max(0, row.denied_packets) for row in view.pods)
        programs = ", ".join(map(str, view.programs)) or "none"
        told = f"<p>{counted} of {len(view.pods)} pod interfaces are judged, {denied} packets were denied; programs {programs}, layout <code>{escape(view.policy)}</code>.</p>"
    return f'<section id="policies"><h2>Policies</h2>{told}</section>'


def _calls(view: NodeView) -> str:
    head = "<tr><th>EC2 action</th><th class=n>calls</th><th class=n>errors</th><th class=n>mean</th><th class=n>tokens left</th></tr>"
    rows = "".join(map(_call, view.calls))
    table = f'<div class="scroll"><table>{head}{rows}</table></div>' if rows else _nothing("No call was made yet.")
    return f'<section id="ec2"><h2>EC2</h2>{table}</section>'


def _call(row: CallRow) -> str:
    errors = f'<span class="bad">{row.errors}</span>' if row.errors else "0"
    denied = ' <span class="bad">denied</span>' if row.denied else ""
    tokens = f"{row.tokens:.1f}" if row.tokens >= 0 else "&ndash;"
    return (
        f'<tr><td>{escape(row.api)}{denied}</td><td class="n">{row.calls}</td><td class="n">{errors}</td>'
        f'<td class="n">{row.mean_ms:.0f} ms</td><td class="n">{tokens}</td></tr>'
    )


def _nothing(text: str) -> str:
    return f'<p class="dim">{escape(text)}</p>'
