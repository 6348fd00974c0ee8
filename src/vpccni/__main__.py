"""`vpccni`, also `python -m vpccni`: the lab, the node's commands, and each component by name.

vpccni lab up|down|status|pod|exec|kill|...     a VPC on this machine
vpccni status [--json]                          what each process of this node says of itself
vpccni ps                                       what each process of this node uses
vpccni top [--once]                             processes, addresses, EC2 calls and pods, again and again
vpccni log-level PROCESS LEVEL [--for 10m]      change a level at run time
vpccni trace ID                                 what all processes remember of one trace
vpccni plan [--json]                            what would be changed in the node's kernel now, and why
vpccni why [NAMESPACE/]POD [--json]             one pod's whole network, and what is missing or foreign
vpccni support-bundle [--out FILE]              everything a supporter asks for, as one archive
vpccni why POD --to|--from ADDRESS:PORT         what network policy says of a connection, and which rule decides
vpccni policy dry-run FILE                      what policies would change for this node's pods, before they are applied
vpccni settings [--json] [--changed]            every variable: its value, its source, what it means now
vpccni node-start [-- COMMAND...]               prepare the node once, before the processes
vpccni node-init                                the init container: plugins and sysctls
vpccni agent-start [FLAGS]                      the policy agent from the original's flags
vpccni metrics-helper                           publish the sums of a cluster's nodes (off the nodes)
vpccni NAME                                     run one component (eni_manager, ip_allocator, ...)
"""

from __future__ import annotations

import importlib
import os
import sys

from vpccni.shared import names

ELSEWHERE = {
    "lab": "vpccni.lab.cli",
    "metrics-helper": "vpccni.components.metrics_helper.__main__",
    "agent-start": "vpccni.cni.agent_start",
    "node-init": "vpccni.cni.node_init",
    "node-start": "vpccni.cni.node_start",
    "policy": "vpccni.components.policy_controller.dry_run",
    "ps": "vpccni.shared.ps_cli",
    "settings": "vpccni.shared.settings_cli",
    "support-bundle": "vpccni.shared.support_bundle",
    "top": "vpccni.shared.top_cli",
}
"""Commands whose module has its own `main(argv)`; imported only when asked for, so that each starts fast."""

EXIT_UNREAD = 141  # what a shell shows for a program that SIGPIPE ended


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    command = arguments[0] if arguments else ""
    modules = {**ELSEWHERE, **{name: f"vpccni.components.{name}.__main__" for name in names.NODE_PROCESSES}}
    module = modules.get(command, "vpccni.shared.node_cli")
    run = importlib.import_module(module).main
    try:
        status: int = run(arguments[1:] if command in modules else arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `vpccni settings | head`: nobody reads on, which is no trouble
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD
    return status


if __name__ == "__main__":
    raise SystemExit(main())
