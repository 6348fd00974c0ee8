"""The cluster's sums (cni-metrics-helper): what all aws-node pods count, added up, for CloudWatch and for a Prometheus scrape.

It runs once a cluster, off the nodes, and owns nothing: what it does not know any more after a restart it learns in one cycle. It never
changes anything but its own lease. Of several replicas one collects and publishes (spec operations.md 4 and 17.1 to 17.8, 17.28).

Core: `config` (flags and environment), `families` (what is forwarded under which name), `parse` (a pod's page), `aggregate` (sums and
counters' deltas), `outbox` (what waits for CloudWatch), `republish` (the page of the sums).
Adapters: `scrape` (pages through the API server), `cloudwatch`, `instance` (the cluster id by tags), `election` (the lease object).
"""
