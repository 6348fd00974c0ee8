"""Which pods' annotation vpc.amazonaws.com/pod-ips is to be written (ANNOTATE_POD_IP, spec ipam.md 20): what the ledger says against what
the pods carry. Pure; `annotator` writes.

    pod holds an address ──▶ its annotation is that address       pod holds none any more ──▶ its annotation is empty

Nothing waits in a queue: what is due follows from both pictures at any time, so only the latest value of a pod counts, a pod that is
gone is no work, and a process that starts goes on where another ended. A value is written once: what somebody else puts over it
stays, and so does whatever is no address of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from vpccni.shared.messages.allocation import LedgerEntry, LedgerState
from vpccni.shared.messages.inventory import PodFact

POD_IPS: Final = "vpc.amazonaws.com/pod-ips"


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a pod's annotation should become. `address` is empty when the pod holds none any more."""

    namespace: str
    name: str
    uid: str
    address: str

    def body(self) -> dict[str, object]:
        """Return the merge patch. The uid makes the API refuse it for a later pod of the same name."""
        return {"metadata": {"uid": self.uid, "annotations": {POD_IPS: self.address}}}


def due(
    ledger: LedgerState, pods: Iterable[PodFact], written: Mapping[str, str], *, is_ours: Callable[[str], bool]
) -> list[Annotation]:
    """Return what is to be written now. `written`: by pod uid, what was; `is_ours`: whether a text is an address of this node's ENIs."""
    holders = _holders(ledger.entries)
    found = []
    for pod in pods:
        keys = ((pod.uid, "", ""), (pod.static_uid, "", ""), ("", pod.namespace, pod.name))
        entry = next((holders[key] for key in keys if key in holders), None)
        told = written.get(pod.uid, pod.pod_ips)
        if entry is not None:
            wanted = entry.address
        elif ledger.omitted or _is_strange(pod, written, is_ours):
            continue
        else:
            wanted = ""
        if wanted != told:
            found.append(Annotation(pod.namespace, pod.name, pod.uid, wanted))
    return found


def _holders(entries: Iterable[LedgerEntry]) -> dict[tuple[str, str, str], LedgerEntry]:
    """Return the entries by pod: by uid, or by name where the runtime gave none. Of a pod's sandboxes the latest counts."""
    found: dict[tuple[str, str, str], LedgerEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.assigned_at_ns):
        pod = entry.pod
        found[(pod.uid, "", "") if pod.uid else ("", pod.namespace, pod.name)] = entry
    return found


def _is_strange(pod: PodFact, written: Mapping[str, str], is_ours: Callable[[str], bool]) -> bool:
    return bool(pod.pod_ips) and pod.pod_ips != written.get(pod.uid) and not is_ours(pod.pod_ips)


def is_among(text: str, items: Iterable[str]) -> bool:
    """Return whether a text is an address that one of `items`, addresses and prefixes, is or holds."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return any(address in ip_network(item) for item in items)
