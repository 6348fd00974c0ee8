"""Adapter: reports as Kubernetes events (events.k8s.io/v1, spec operations.md 2.5), from `Report` messages and from EC2's denials.

Nobody waits for it: with the API away reports are kept and sent later, with the time at which they happened. They are hints, not
records: a process that is killed loses those not yet sent.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

from vpccni.components.eni_manager.kube_facts import KubeFacts
from vpccni.components.eni_manager.reports import Entry, Note, Reports
from vpccni.shared.kube import EVENTS, Kube, KubeRefused
from vpccni.shared.kube.errors import CONFLICT, NOT_FOUND
from vpccni.shared.loop import Timer
from vpccni.shared.process import Process

REPORTING_CONTROLLER: Final = "aws-node"  # spec operations.md 2.5
OWN_NAMESPACE: Final = "kube-system"
IAM_DOCUMENT: Final = "https://github.com/aws/amazon-vpc-cni-k8s/blob/master/docs/iam-policy.md"
MISSING_PERMISSIONS: Final = "MissingIAMPermissions"
NOTE_AT_MOST: Final = 1024
NAME_AT_MOST: Final = 128
"""Limits of the events API for notes, and for reasons and actions."""
CALL_TIMEOUT_S: Final = 5.0
UID_WITHIN_S: Final = 30.0
"""So long after the start an event waits for the uid of the pod it is about; `kubectl describe` finds it by that."""
PREFIX_AT_MOST: Final = 220
"""Of an object's name in its events' names: they end in a number and may have 253 characters."""
LOOK_AGAIN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object an event is about."""

    kind: str
    namespace: str
    name: str
    uid: str = ""

    @property
    def event_namespace(self) -> str:
        """Events on objects of the cluster live in namespace default."""
        return self.namespace or "default"


def event_body(entry: Entry, about: Regarding, reporter: str) -> dict[str, object]:
    """Return the event as the API takes it (events.k8s.io/v1); `reporter` names this instance of the controller."""
    regarding = {
        "apiVersion": "v1",
        "kind": about.kind,
        "namespace": about.namespace,
        "name": about.name,
        "uid": about.uid,
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": entry.name, "namespace": about.event_namespace},
        "eventTime": micro_time(entry.first_us),
        "type": "Warning",
        "reason": cut(entry.note.reason, NAME_AT_MOST),
        "action": cut(entry.note.action, NAME_AT_MOST),
        "note": cut(entry.note.text, NOTE_AT_MOST),
        "regarding": {key: value for key, value in regarding.items() if value},
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": cut(reporter, NAME_AT_MOST),
        **({"series": series(entry)} if entry.count > 1 else {}),
    }


def series(entry: Entry) -> dict[str, object]:
    """Return how often and when last."""
    return {"count": entry.count, "lastObservedTime": micro_time(entry.last_us)}


def micro_time(wall_us: int) -> str:
    """Return a time as the API's MicroTime."""
    seconds, rest = divmod(wall_us, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:06d}Z"


def cut(text: str, bytes_at_most: int) -> str:
    """Return the text, cut where it would be too long for the API."""
    raw = text.encode()
    return text if len(raw) <= bytes_at_most else raw[: bytes_at_most - 3].decode(errors="ignore") + "..."


class Reporter:
    """Sends reports through the API, one after the other; see the module."""

    def __init__(self, process: Process, kube: Kube, facts: KubeFacts) -> None:
        self._process, self._kube, self._facts = process, kube, facts
        self._reports = Reports()
        self._own_pod, self._node = process.settings.pod_name, process.settings.node_name
        self._running = False
        self._timer: Timer | None = None
        process.gauge("vpccni_reports_kept", lambda: float(len(self._reports)))

    def report(self, note: Note) -> None:
        """Take a report: counted and logged at once, an event when the API takes it."""
        self._process.count("vpccni_reports", 1, reason=note.reason)
        pod = f"{note.pod_namespace}/{note.pod_name}" if note.pod_name else ""
        self._process.log.warning("report", reason=note.reason, detail=note.text, on=pod)
        if not (note.pod_name or self._own_pod or self._node):
            return  # neither MY_POD_NAME nor MY_NODE_NAME: there is no object to put it on
        now = self._process.loop.clock()
        if not self._reports.add(note, wall_us=time.time_ns() // 1000, now=now):
            self._process.count("vpccni_reports_dropped", 1)
        self._wake()

    def denied(self, api: str) -> None:
        """Take an EC2 action that the IAM policy lacks (spec ipam.md 27)."""
        text = f"The IAM role of this node may not call ec2:{api}. Add the action to its policy: {IAM_DOCUMENT}"
        self.report(Note(MISSING_PERMISSIONS, text, action=f"ec2:{api}"))

    def _wake(self) -> None:
        if not self._running:
            self._running = True
            self._process.loop.spawn(self._work(), name="reports")

    async def _work(self) -> None:
        loop = self._process.loop
        try:
            while (wait := self._reports.wait_s(loop.clock())) == 0.0:
                entry = self._reports.due(loop.clock())
                about = self._regarding(entry.note) if entry is not None else None
                if entry is None or about is None:
                    wait = LOOK_AGAIN_S
                    break
                await self._send(entry, about)
        finally:
            self._running = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(wait, self._wake) if wait is not None else None

    async def _send(self, entry: Entry, about: Regarding) -> None:
        reports, clock, count = self._reports, self._process.loop.clock, entry.count
        reports.spend(clock())
        try:
            if entry.written:
                await self._kube.patch(
                    EVENTS,
                    {"series": series(entry)},
                    name=entry.name,
                    namespace=entry.namespace,
                    timeout_s=CALL_TIMEOUT_S,
                )
            else:
                entry.name = entry.name or f"{about.name[:PREFIX_AT_MOST]}.{time.time_ns():x}"
                entry.namespace = about.event_namespace
                body = event_body(entry, about, self._own_pod or self._node)
                await self._kube.create(EVENTS, body, namespace=entry.namespace, timeout_s=CALL_TIMEOUT_S)
            self._sent(entry, count)
        except KubeRefused as error:
            self._not_sent(entry, error)

    def _sent(self, entry: Entry, count: int) -> None:
        self._reports.sent(entry, count, self._process.loop.clock())
        self._process.healthy("reports")

    def _not_sent(self, entry: Entry, error: KubeRefused) -> None:
        now = self._process.loop.clock()
        if error.status == CONFLICT and not entry.written:
            self._reports.sent(entry, 1, now)  # our own, whose answer was lost
        elif error.status == NOT_FOUND and entry.written:
            entry.name = ""
            self._reports.gone(entry)
        elif error.is_final:
            self._reports.refused(entry)
            self._process.count("vpccni_reports_dropped", 1)
            self._process.log.error("event refused", reason=entry.note.reason, error=str(error))
        else:
            self._reports.unanswered(now, random.random())
            self._process.degraded("reports", f"Kubernetes events cannot be written and are kept. {error}")

    def _regarding(self, note: Note) -> Regarding | None:
        """Return what the event is about; None while the pods of this node are still to be read."""
        facts, settled = self._facts, self._process.loop.clock() - self._process.started_at > UID_WITHIN_S
        namespace, name = note.pod_namespace, note.pod_name
        if not name:
            namespace, name = OWN_NAMESPACE, self._own_pod
        pod = facts.pod(namespace, name)
        if pod is None and not settled and facts.pods is not None and not facts.pods.synced:
            return None
        if pod is not None or note.pod_name:
            return Regarding("Pod", namespace, name, pod.uid if pod is not None else "")
        if self._node:
            return Regarding("Node", "", self._node, self._node)
        return Regarding("Pod", namespace, name)
