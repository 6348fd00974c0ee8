"""Where the compiled programs come from: a prebuilt file, else one made before, else a compiler child now."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vpccni.components.policy_agent import layout
from vpccni.components.policy_agent.objectfile import ObjectFile, ObjectRefused, read, source_hash
from vpccni.shared.effects import effect

HERE: Final = Path(__file__).resolve().parent
SOURCE: Final = HERE / "bpf" / "pod.c"
PREBUILT: Final = HERE / "bpf" / "pod.json"
COMPILER: Final = HERE / "compile.py"
SYSTEM_PYTHON: Final = "/usr/bin/python3"
"""Debian's BCC binding works in this Python alone."""
COMPILE_WITHIN_S: Final = 30.0
OUTPUT_SHOWN: Final = 600


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """`prebuilt`: a file that must fit when it is named or part of the package; `cache`: where a compiled one is kept."""

    cache: Path
    prebuilt: Path | None = None


def compiled_programs(source: ObjectSource) -> ObjectFile:
    """Return the programs, compiling them when need be (0.5 s; blocking, with a limit).

    A prebuilt file that does not fit is an error and not compiled around: a node has no compiler to fall back on. A file in
    the cache that does not read is made again.
    """
    text, header = SOURCE.read_text(), layout.header()
    digest = source_hash(text, header)
    prebuilt = source.prebuilt or (PREBUILT if PREBUILT.exists() else None)
    if prebuilt is not None:
        return read(_bytes(prebuilt), of=digest, where=str(prebuilt))
    cached = source.cache / f"pod-{digest}.json"
    if cached.exists():
        try:
            return read(_bytes(cached), of=digest, where=str(cached))
        except ObjectRefused:
            cached.unlink(missing_ok=True)
    _compile(header, digest, cached)
    return read(_bytes(cached), of=digest, where=str(cached))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ObjectRefused(
            "the compiled programs cannot be read",
            on=str(path),
            why=str(error),
            remedy="Correct VPCCNI_BPF_OBJECT or leave it out",
        ) from error


def _compile(header: str, digest: str, out: Path) -> None:
    header_path = out.with_suffix(".h")
    command = [SYSTEM_PYTHON, "-I", str(COMPILER), str(SOURCE), str(header_path), digest, str(out)]
    try:
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        header_path.write_text(header)
        with effect("bpf.compile"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_WITHIN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _not_compiled(str(error)) from error
    if done.returncode != 0:
        raise _not_compiled(done.stderr.strip()[-OUTPUT_SHOWN:])


def _not_compiled(why: str) -> ObjectRefused:
    return ObjectRefused(
        "the policy programs could not be compiled",
        on=str(SOURCE),
        why=why,
        remedy="Install python3-bpfcc and linux-libc-dev, or name a prebuilt file in VPCCNI_BPF_OBJECT",
    )
