"""Adapter: writes pods' addresses into their annotations (ANNOTATE_POD_IP), as `annotations` finds them due.

Nobody waits for it, least of all an ADD. With the API away nothing is lost: what is due is found anew from the ledger and the pods, with
growing pauses until it can be written.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from vpccni.components.eni_manager.annotations import Annotation, due
from vpccni.components.eni_manager.kube_facts import KubeFacts
from vpccni.shared import names
from vpccni.shared.backoff import Backoff
from vpccni.shared.kube import PODS, Kube, KubeRefused
from vpccni.shared.kube.errors import INVALID, NOT_FOUND
from vpccni.shared.messages.allocation import LedgerState
from vpccni.shared.process import Process

CALL_TIMEOUT_S: Final = 5.0
AGAIN: Final = Backoff(1.0, 30.0)
POD_IS_GONE: Final = frozenset({NOT_FOUND, INVALID})
"""The second: its name is another pod's now, since the uid does not fit."""


class Annotator:
    """See the module. `is_ours` tells whether a text is an address of this node's ENIs."""

    def __init__(self, process: Process, kube: Kube, facts: KubeFacts, *, is_ours: Callable[[str], bool]) -> None:
        self._process, self._kube, self._facts, self._is_ours = process, kube, facts, is_ours
        self._ledger: LedgerState | None = None
        self._written: dict[str, str] = {}
        self._failures = 0
        self._busy = False
        process.subscribe(names.IP_ALLOCATOR, {LedgerState: self._on_ledger})
        process.gauge("vpccni_annotations_due", lambda: float(len(self._due())))

    def look(self) -> None:
        """Write what is due, unless that is under way or waits for the API; call it when pods or addresses changed."""
        if not self._busy and self._due():
            self._busy = True
            self._process.loop.spawn(self._work(), name="annotations")

    def _on_ledger(self, ledger: LedgerState) -> None:
        self._ledger = ledger
        self.look()

    def _due(self) -> list[Annotation]:
        pods = self._facts.pods
        if self._ledger is None or pods is None or not pods.synced:
            return []
        here = pods.objects.values()
        self._written = {pod.uid: self._written[pod.uid] for pod in here if pod.uid in self._written}
        return due(self._ledger, here, self._written, is_ours=self._is_ours)

    async def _work(self) -> None:
        try:
            while todo := self._due():
                for annotation in todo:
                    if not await self._write(annotation):
                        await self._process.loop.sleep(AGAIN.pause_s(self._failures, random.random()))
                        break
            self._failures = 0  # also where what could not be written is no longer due
            self._process.healthy("annotations")
        finally:
            self._busy = False

    async def _write(self, annotation: Annotation) -> bool:
        """Write one; return False when the API takes none at present."""
        at = f"{annotation.namespace}/{annotation.name}"
        try:
            await self._kube.patch(
                PODS,
                annotation.body(),
                name=annotation.name,
                namespace=annotation.namespace,
                timeout_s=CALL_TIMEOUT_S,
            )
            self._process.log.debug("pod annotated", pod=at, address=annotation.address)
        except KubeRefused as error:
            if not error.is_final:
                self._failures += 1
                self._process.degraded(
                    "annotations", f"Pods' addresses cannot be written into annotations yet. {error}"
                )
                return False
            if error.status not in POD_IS_GONE:
                self._process.count("vpccni_annotations_refused", 1)
                self._process.log.warning("annotation refused", pod=at, error=str(error))
        self._written[annotation.uid] = annotation.address
        self._failures = 0
        return True
