"""The node's window: Prometheus on port 61678 and introspection on 127.0.0.1:61679, fed by events alone.

It holds nothing that others need and asks nobody while it answers a scrape: what it shows is its copy of what the owners
published, and it says so when a copy is old.

Core: `sources` (counters across restarts of their owners), `pool` (gauges from inventory and ledger), `exposition` (families and
the text format), `introspection` (the documents of spec operations.md 3).
Adapter: `own_process` (what /proc says of this process).
"""
