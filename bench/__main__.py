"""`make bench`: measure, print one table, store the figures, compare with the last run of the same size. Exit status 1 only when a pod failed."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vpccni.bench.measure import QUICK, Bench, Size
from vpccni.bench.rows import Row, table

RESULTS: Final = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str]) -> int:
    """Measure everything; return the exit status."""
    parser = argparse.ArgumentParser(prog="vpccni.bench")
    parser.add_argument("--quick", action="store_true", help="fewer pods, 10 s of idle CPU, one kill a process")
    quick = parser.parse_args(argv).quick
    began, load = time.monotonic(), os.getloadavg()
    bench = Bench(QUICK if quick else Size(), lambda text: say(f"[{time.monotonic() - began:5.0f} s] {text}"))
    bench.all()
    facts = {
        "utc": datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ"),
        "quick": quick,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_before": load,
        "load_after": os.getloadavg(),
        "seconds": round(time.monotonic() - began),
    }
    last = last_run(quick=quick)
    say("\n" + table(bench.rows, {row["name"]: row["figures"] for row in last.get("rows", [])}))
    say(
        f"\nload {load[0]:.2f} before, {facts['load_after'][0]:.2f} after; {facts['cores']} cores, {facts['seconds']} s"
    )
    say(f"compared with the run of {last['utc']}" if last else "no earlier run of this size to compare with")
    say("policy on: the agent's verdict is in force before ADD returns; no NetworkPolicy is there")
    for failure in bench.failures:
        say(f"FAILED {failure}")
    say(f"stored in bench/results/{store(facts, bench).name}")
    return 1 if bench.failures else 0


def last_run(*, quick: bool) -> dict[str, Any]:
    """Return the newest stored run of this size, empty when there is none."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        document: dict[str, Any] = json.loads(path.read_text())
        if document["quick"] == quick:
            return document
    return {}


def store(facts: dict[str, Any], bench: Bench) -> Path:
    """Write the run into a file of its own; return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{facts['utc']}.json"
    document = {
        **facts,
        "rows": [_plain(row) for row in bench.rows],
        "private_mb": bench.private_mb,
        "failures": bench.failures,
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _plain(row: Row) -> dict[str, Any]:
    figures = {name: round(value, 4) for name, value in row.figures.items()}
    return {
        "name": row.name,
        "unit": row.unit,
        "figures": figures,
        "budget": dict(row.budget),
        "met": row.met(),
        "note": row.note,
        "load": round(row.load, 2),
    }


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
