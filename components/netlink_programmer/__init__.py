"""Links, addresses, routes, rules, sysctls and firewall chains of the node and its pods, and the CNI front door.

Never decides addresses and never calls AWS or Kubernetes. Core: `request`, `naming`, `facts`, `decode`, `node_plan`, `firewall`,
`connmark`, `nft_only`, `nft_tables`, `nft_expressions`, `survey`, `adoption`,
`strangers`, `wired_pods`, `egress_request`.
Adapters: `frontdoor` (the plugin's socket), `rtnl` and `templates` (netlink messages), `observe`, `hearing` and `apply` (looks,
notifications and steps of a repair), `kernel` (a start's survey, CHECK), `iptables`, `nfnetlink`, `backend`, `spool`,
`carrier` (when a pod's interface sends), `dad` (when its IPv6 address is ready), `reservations` (host-local's folder), `egress_chains` and, without iptables, `egress_nft` (SNAT of egress addresses).
`node_firewall` makes a firewall pass, `wiring` does the steps of an ADD and
DEL, `adding` and `deleting` put them in order, `egress` does both for `egress-cni`, `repair` keeps the kernel as it is wanted, `explain` and `story` tell about it; `service` joins all.
"""
