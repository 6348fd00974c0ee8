"""Links, addresses, routes, rules, sysctls and firewall chains of the node and its pods, and the CNI front door.

Never decides addresses and never calls AWS or Kubernetes. Core: `request`, `naming`, `node_plan`, `firewall`. Adapters:
`frontdoor` (the plugin's socket), `rtnl` and `templates` (netlink on the way of an ADD), `kernel` (dumps and node set-up),
`iptables`, `sysctl`, `spool`. `wiring` does the steps of an ADD and DEL; `service` joins all.
"""
