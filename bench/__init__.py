"""`make bench`: how fast, how small, how soon back; each figure beside its budget and beside the last run.

`rows` (what a figure is, and the table), `execs` (timing programs from exec to exit), `drive` (runs inside a node: pods and parts of
an ADD), `processes` (memory, idle CPU, kills), `policies` (what network policies cost pods), `measure` (which labs, which rows). Figures are
reported, never asserted.
"""
