"""EC2 over HTTP: moto's server and serialisers, with the ENI half answered by our model.

`Ec2` is what a call passes through: fault, model, invariant check, fabric, call log. `serve` hooks it into moto at its extension
point; an action that the model does not know goes on to moto.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vpccni.lab import ec2_actions
from vpccni.lab.ec2_limits import Limits
from vpccni.lab.ec2_model import Ec2Model
from vpccni.lab.ec2_objects import Eni, Refused

CALLS_KEPT: Final = 20_000
HISTORY_KEPT: Final = 500
DROP_CONNECTION: Final = "lab.drop-connection"
HTTP_STATUS: Final = {
    "RequestLimitExceeded": 503,
    "UnauthorizedOperation": 403,
    "InternalError": 500,
    "Unavailable": 503,
}


@dataclass
class Fault:
    """What happens to the next `times` calls of an action (None: until cleared; action "*": all)."""

    action: str
    error: str | None = None
    message: str | None = None
    times: int | None = None
    latency_ms: int = 0
    lost_reply: bool = False


class LostReply(Exception):
    """The call was carried out; its answer never arrives."""


class Ec2:
    """The model behind one lock, with call log, faults and the history that staleness looks back into."""

    def __init__(self, model: Ec2Model, on_change: Callable[[Ec2Model], None]) -> None:
        self.model = model
        self.lock = threading.RLock()
        self.calls: deque[dict[str, Any]] = deque(maxlen=CALLS_KEPT)
        self.counts: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.limits = Limits()
        self.describe_lag_s = 0.0
        self._on_change = on_change
        self._history: deque[tuple[float, dict[str, Eni]]] = deque(maxlen=HISTORY_KEPT)
        self._wake = threading.Event()

    def call(self, action: str, params: Mapping[str, Any]) -> dict[str, Any] | None:
        """Carry out an action; None if it is not ours. Raises Refused or LostReply."""
        handler = ec2_actions.HANDLERS.get(action)
        fault = self._take_fault(action)
        if fault is not None and fault.latency_ms:
            time.sleep(fault.latency_ms / 1000)
        error: str | None = None
        try:
            with self.lock:
                self.limits.check(action, now=time.monotonic())
            if fault is not None and fault.error:
                raise Refused(fault.error, fault.message or f"{action} refused by a fault of the lab")
            if handler is None:
                return None
            reply = self._carry_out(action, handler, params)
        except Refused as refusal:
            error = refusal.code
            raise
        finally:
            self._log(action, error, params)
        if fault is not None and fault.lost_reply:
            raise LostReply(action)
        return reply

    def changed(self) -> None:
        """After every change: prove the invariants, remember the picture, tell the fabric. Hold the lock."""
        self.model.check()
        self._on_change(self.model)
        self._history.append((time.monotonic(), self.model.snapshot()))
        self._wake.set()

    def picture(self, age_s: float = 0.0) -> dict[str, Eni]:
        """Return the ENIs as they were `age_s` seconds ago (0: now)."""
        with self.lock:
            if age_s <= 0:
                return self.model.snapshot()
            limit = time.monotonic() - age_s
            older = [enis for at, enis in self._history if at <= limit]
            return older[-1] if older else self._history[0][1]

    def keep_settling(self) -> None:
        """End attach and detach transitions when they are due; runs for ever in its own thread."""
        while True:
            with self.lock:
                if self.model.settle(now=time.monotonic()):
                    self.changed()
                due = self.model.next_transition()
                self._wake.clear()
            self._wake.wait(None if due is None else max(0.0, due - time.monotonic()))

    def _carry_out(self, action: str, handler: ec2_actions.Handler, params: Mapping[str, Any]) -> dict[str, Any]:
        with self.lock:
            if action.startswith("Describe"):
                return handler(self.model, self.picture(self.describe_lag_s), params)
            reply = handler(self.model, self.model.enis, params)
            self.changed()
            return reply

    def _take_fault(self, action: str) -> Fault | None:
        with self.lock:
            fault = next((f for f in self.faults if f.action in (action, "*")), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
            return fault

    def _log(self, action: str, error: str | None, params: Mapping[str, Any]) -> None:
        with self.lock:
            self.counts[action] += 1
            self.calls.append(
                {"action": action, "at": time.time(), "error": error, "params": ec2_actions.plain(params)}
            )


def serve(ec2: Ec2, address: str, port: int) -> None:
    """Start moto's server with our EC2 in place of its own, in a thread; returns when it accepts connections."""
    import flask
    import moto.ec2.urls
    from moto.core.responses import ActionResult
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.responses import EC2Response
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    class LabEC2(EC2Response):  # type: ignore[misc,unused-ignore]
        def call_action(self) -> Any:
            try:
                reply = ec2.call(self._get_action(), self.params)
            except Refused as refusal:
                status, headers, body = self.serialized(ActionResult(EC2ClientError(refusal.code, refusal.message)))
                return HTTP_STATUS.get(refusal.code, status), headers, body
            except LostReply:
                import socket

                flask.request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                return 500, {}, ""
            if reply is None:
                return super().call_action()
            return self.serialized(ActionResult(reply))

    moto.ec2.urls.url_paths["{0}/"] = LabEC2.dispatch
    ThreadedMotoServer(address, port, verbose=False).start()
