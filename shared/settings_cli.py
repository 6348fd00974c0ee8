"""`vpccni settings`: every variable with its value, where it came from and what it means now."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpccni.shared import settings_file
from vpccni.shared.errors import SettingsError
from vpccni.shared.process import RUN_DIR_DEFAULT
from vpccni.shared.settings import Settings, read
from vpccni.shared.settings_advice import TABLE, Row, note, traps


def main(argv: Sequence[str]) -> int:
    """Print the settings; return 1 when they would stop a process from starting."""
    parser = argparse.ArgumentParser(prog="vpccni settings")
    parser.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--changed", action="store_true", help="only what is set")
    arguments = parser.parse_args(argv)
    environ = {name: text for name, text in os.environ.items() if name != "MY_POD_UID"}  # do not wait for a file
    try:
        raw = settings_file.raw_settings(arguments.run_dir, environ)
    except SettingsError as error:
        sys.stderr.write(f"vpccni settings: {error}\n")
        return 1
    origin = "settings.json" if (arguments.run_dir / settings_file.FILE).exists() else "environment"
    reading = read(raw)
    rows = [_row(row, raw, reading.settings, origin) for row in TABLE if not arguments.changed or row.name in raw]
    trouble = {"errors": reading.errors, "warnings": reading.warnings, "traps": traps(raw, reading.settings)}
    misspelt = settings_file.unknown_names(environ)
    if arguments.json:
        sys.stdout.write(json.dumps({"settings": rows, **trouble, "unknown": misspelt}, indent=2) + "\n")
    else:
        for row in rows:
            remark = f"  ({row['note']})" if row["note"] else ""
            sys.stdout.write(f"{row['name']:<38} {row['value']!s:<28} {row['source']:<14} {row['meaning']}{remark}\n")
        for kind, sentences in (*trouble.items(), ("unknown", [f"{name}: no setting of ours" for name in misspelt])):
            for sentence in sentences:
                sys.stdout.write(f"{kind.rstrip('s')}: {sentence}\n")
    return 1 if reading.errors else 0


def _row(row: Row, raw: dict[str, str], settings: Settings, origin: str) -> dict[str, Any]:
    value = getattr(settings, row.field) if row.field else raw.get(row.name, "")
    shown = ",".join(value) if isinstance(value, tuple) else value
    return {
        "name": row.name,
        "value": shown if shown != "" else '""',
        "source": origin if row.name in raw else "default",
        "meaning": row.meaning,
        "note": note(row.name, settings),
    }
