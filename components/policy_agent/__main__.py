"""Run the policy agent: `python -m vpccni.components.policy_agent --run-dir FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import vpccni
from vpccni.components.policy_agent import layout
from vpccni.components.policy_agent.datapath import Datapath
from vpccni.components.policy_agent.enforcement import Enforcement
from vpccni.components.policy_agent.events import Ring
from vpccni.components.policy_agent.filters import Filters
from vpccni.components.policy_agent.flags import Flags, flags_of
from vpccni.components.policy_agent.knowledge import Knowledge
from vpccni.components.policy_agent.objects import ObjectSource, compiled_programs
from vpccni.components.policy_agent.service import Service
from vpccni.components.policy_agent.shipper import Logs, Shipper
from vpccni.components.policy_agent.telling import FlowLog
from vpccni.shared import names
from vpccni.shared.clock import wall_ns
from vpccni.shared.kube import Kube
from vpccni.shared.process import Process

BPFFS: Final = "/sys/fs/bpf"


def main(argv: list[str]) -> int:
    """Start, serve until SIGTERM, and leave programs, maps and filters as they are."""
    flags = flags_of(os.environ)
    process = Process.start(names.POLICY_AGENT, argv)
    raw = process.raw
    prebuilt = raw.get("VPCCNI_BPF_OBJECT", "")
    source = ObjectSource(cache=process.run_dir / "bpf", prebuilt=Path(prebuilt) if prebuilt else None)
    bpffs = Path(raw.get("VPCCNI_BPFFS", "") or BPFFS)
    node = process.settings.node_name
    service = Service(
        process,
        mode=process.settings.network_policy_mode,
        prepare=lambda: compile_ahead(source),
        load=lambda: Datapath(bpffs, compiled_programs(source), Filters()),
        know=lambda hosts, changed: Knowledge(Kube.of(process), node, hosts=hosts, changed=changed),
        flow_log=(lambda *of: flow_log(process, flags, *of)) if flags.event_logs else None,
        switched_off=flags.enabled is False,
    )
    service.start()
    return process.run()


def flow_log(process: Process, flags: Flags, datapath: Datapath, enforcement: Enforcement) -> FlowLog:
    """Begin to write verdicts, into the agent's log as the reference does."""
    ring = Ring(datapath.map(layout.EVENTS), datapath.map(layout.EVENT_LIMITS))
    shipper = None
    if flags.cloudwatch:
        shipper = Shipper(process, lambda: open_logs(process), node=process.settings.node_name, wall_ms=wall_ms)
    return FlowLog(ring, enforcement, process, structured=flags.structured_log, shipper=shipper)


def open_logs(process: Process) -> Logs:
    """Import what ships, some 20 MB, and return it."""
    from vpccni.components.policy_agent import cloudwatch

    raw = process.raw
    return cloudwatch.Logs(
        region=raw.get("AWS_REGION", "") or raw.get("AWS_DEFAULT_REGION", ""),
        cluster=process.settings.cluster_name,
        metadata=raw.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""),
        version=vpccni.__version__,
    )


def wall_ms() -> int:
    """Return the wall clock in ms."""
    return wall_ns() // 1_000_000


def compile_ahead(source: ObjectSource) -> None:
    """Have the compiled file in the cache, so that loading only reads it: a child of half a second must not stop the loop."""
    compiled_programs(source)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
