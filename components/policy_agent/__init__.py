"""The owner of eBPF programs, maps and verdicts on the host end of every pod's veth pair.

It never touches routes or addresses, and no packet waits for it: programs, maps and filters stay while it is down.

Core: `policy` (rules as data), `endpoints` and `selectors` (what the API's objects mean), `selection` (which policies a pod has),
`compiler` (policies to tables), `evaluate` (the same question answered directly), `layout` (what C and Python share), `objectfile`
(the compiled programs), `repair` (what a restart has to mend), `adoption` (pods of other programs), `flow_log` (verdicts as lines), `flags`.
Shell: `enforcement` (policies of now to the kernel), `knowledge` (copies of the API), `telling` (flow log, drops, why), `latency`,
`sweeper`.
Adapters: `libbpf` (the kernel's bpf call), `rule_maps` (rule sets in maps), `datapath` (maps and programs with their pins),
`events` (the ring of verdicts), `filters`, `node_addresses` and `conntrack` on `rtnetlink`, `objects` (where the compiled file comes from). `compile` is a program of its own,
for the Python that has BCC.
"""
