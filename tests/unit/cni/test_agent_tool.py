"""The script on the node: it finds the agent's container and runs the tool there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from vpccni.cni.install import AGENT_TOOL, install_agent_tool

CRICTL = """#!/bin/sh
case "$1" in
    ps) echo "$FOUND" ;;
    exec) shift; echo "in $*" ;;
esac
"""


def called(folder: Path, found: str) -> str:
    install_agent_tool(folder)
    given = {"PATH": f"{folder}:{os.environ['PATH']}", "FOUND": found}
    command = [str(folder / AGENT_TOOL), "ebpf", "dump-maps", "7"]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout


@pytest.mark.spec("policy.5.16")
def test_it_runs_in_the_agents_container(tmp_path: Path) -> None:
    (tmp_path / "crictl").write_text(CRICTL)
    (tmp_path / "crictl").chmod(0o755)
    assert called(tmp_path, "abc") == "in abc /opt/cni/bin/aws-eks-na-cli ebpf dump-maps 7\n"
    assert called(tmp_path, "").startswith("Failed to execute the cmd -  no container")
