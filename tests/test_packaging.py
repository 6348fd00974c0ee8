"""The wheel holds every module and data file: a build that drops a folder still says success."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKED = ("components", "shared", "cni")


def test_the_wheel_holds_every_module_and_what_they_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {
        f"vpccni/{path.relative_to(ROOT)}"
        for folder in PACKED
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".c", ".h", ".tsv", ".gz") and "__pycache__" not in path.parts
    }
    assert wanted - names == set()
    assert not [name for name in names if name.startswith(("vpccni/lab", "vpccni/bench", "shared", "components"))]
