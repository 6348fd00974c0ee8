"""Speaks gRPC with neighbours of the original: its plugin still on disk, its health probe, its node agent (spec rpc.md 10).

    plugin, probe, agent ──gRPC──▶ http2 ─▶ messages ─▶ service ──bus──▶ ip_allocator, policy_agent, netlink_programmer

Holds no state of its own and is no part of an ADD through our plugin. Optional: only the swap shape runs it (design 3).
"""
