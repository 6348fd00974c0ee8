"""What the agent's own container says of it (spec policy.md 5.1): `vpccni agent-start` makes these variables of the flags. Pure.

They are the agent's alone, unlike the settings of aws-node that all processes share. The other flags have no effect here: both
families are always judged, flows have a table of fixed size with own timeouts, and ports are other processes'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ENABLED: Final = "VPCCNI_AGENT_ENABLE_NETWORK_POLICY"
EVENT_LOGS: Final = "VPCCNI_AGENT_ENABLE_POLICY_EVENT_LOGS"
CLOUDWATCH: Final = "VPCCNI_AGENT_ENABLE_CLOUDWATCH_LOGS"
STRUCTURED: Final = "VPCCNI_AGENT_STRUCTURED_FLOW_LOG"
TRUE: Final = "true"


@dataclass(frozen=True, slots=True)
class Flags:
    """`enabled` None: not said, NETWORK_POLICY_ENFORCING_MODE decides. `event_logs`: verdicts go to the log, structured or as the
    reference writes them; `cloudwatch`: there too, which means nothing without them.
    """

    enabled: bool | None
    event_logs: bool
    structured_log: bool
    cloudwatch: bool = False


def flags_of(environ: Mapping[str, str]) -> Flags:
    """Return the flags; agent-start has checked their form."""
    enabled = environ.get(ENABLED)
    return Flags(
        None if enabled is None else enabled.lower() == TRUE,
        environ.get(EVENT_LOGS, "").lower() == TRUE,
        environ.get(STRUCTURED, "").lower() == TRUE,
        environ.get(CLOUDWATCH, "").lower() == TRUE,
    )
