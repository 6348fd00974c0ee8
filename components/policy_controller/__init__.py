"""The cluster's translator of policies: NetworkPolicy, ApplicationNetworkPolicy and ClusterNetworkPolicy in, endpoint objects out.

It owns PolicyEndpoints, ClusterPolicyEndpoints, its finalizers and the conditions it writes. It never touches a node, judges no packet and
calls no cloud. It runs as two or more replicas of which one leads (a Kubernetes lease).

Core: `model` (what is known and what is wanted), `selectors`, `policies` with `policy_wires` and `policy_parts` (documents to policies:
defaults, and what is wrong with them), `facts` (pods, namespaces, services), `cluster` (all of it, with look-ups), `index` (which policies a
change touches), `knowledge` (these together), `resolve` with `allowed` and `services` (a policy and the cluster to rules), `chunks` (rules to
objects with the fewest writes), `documents` (objects as the API has them), `endpoints` (objects as we know them), `work` (what is due when),
`exposition`, `flags`, `crds`.
Shell: `service` (the loop), `watches`, `passes` (one pass over one policy).
Adapters: `writer` (calls that change something), `definitions` (custom resource definitions).
"""
