"""The owner of eBPF programs, maps and verdicts on the host end of every pod's veth pair.

It never touches routes or addresses, and no packet waits for it: programs, maps and filters stay while it is down.

Core: `layout` (what C and Python share), `objectfile` (the compiled programs), `repair` (what a restart has to mend).
Adapters: `libbpf` (the kernel's bpf call), `datapath` (maps and programs with their pins), `filters` (tc), `objects` (where the
compiled file comes from). `compile` is a program of its own, for the Python that has BCC.
"""
