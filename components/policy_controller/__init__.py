"""The cluster's translator of policies: NetworkPolicy, ApplicationNetworkPolicy and ClusterNetworkPolicy in, endpoint objects out.

It owns PolicyEndpoints, ClusterPolicyEndpoints, its finalizers and the conditions it writes. It never touches a node, judges no packet and
calls no cloud. It runs as two or more replicas of which one leads (a Kubernetes lease).

Core: `model` (what is known and what is wanted), `selectors`, `policies` (documents to policies: defaults, and what is wrong with them),
`facts` (pods, namespaces, services), `cluster` (all of it, with look-ups), `index` (which policies a change touches), `resolve` (a policy and
the cluster to rules), `services` (virtual addresses by their backends), `chunks` (rules to objects with the fewest writes), `documents`
(objects as the API has them), `work` (what is due when), `election`, `exposition`, `flags`, `crds`.
Adapters: `writer` (calls that change something), `leader`, `standalone` (log, counters, health and signals without a bus).
"""
