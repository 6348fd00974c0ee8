"""The words of the field as types, so that swapping two of them fails in mypy."""

from __future__ import annotations

from typing import Final, NewType

EniId = NewType("EniId", str)
SubnetId = NewType("SubnetId", str)

ENI_MANAGER: Final = "eni_manager"
IP_ALLOCATOR: Final = "ip_allocator"
NETLINK_PROGRAMMER: Final = "netlink_programmer"
POLICY_AGENT: Final = "policy_agent"
METRICS_PUBLISHER: Final = "metrics_publisher"
COMPAT: Final = "compat"

NODE_PROCESSES: Final = (ENI_MANAGER, IP_ALLOCATOR, NETLINK_PROGRAMMER, POLICY_AGENT, METRICS_PUBLISHER)
"""The five processes of a node (design 3); start order does not matter. `COMPAT` is not needed by any of them."""
