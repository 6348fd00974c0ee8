"""`make demo`: the main job before the reader's eyes, every claim checked; exit status 1 if one did not hold.

Two nodes, pods through the real conflist, traffic of every kind, addresses that come back, and each process of a node killed
while packets are counted; EC2 that throttles, metadata that lies and a node without addresses. The machine is compared with a snapshot at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from vpccni.lab import demo_policy
from vpccni.lab.api import Lab
from vpccni.lab.node import Node
from vpccni.lab.pod import Pod
from vpccni.lab.runtime import CniError
from vpccni.shared.messages.common import GetStatus, Status
from vpccni.shared.names import ENI_MANAGER, IP_ALLOCATOR, NODE_PROCESSES
from vpccni.shared.node_cli import ask_all

NAME: Final = "demo"
PODS_A_NODE: Final = 20
COOLDOWN_S: Final = 5
PORT: Final = demo_policy.PORT
WEB_AND_FRIEND: Final = (("node-2", "web", {"app": "web"}), ("node-1", "friend", demo_policy.FRIEND))
INTERNET: Final = "203.0.113.10"
SMALL, LARGE = 56, 8000 - 8
SERVING_AGAIN_S: Final = 10.0
MORE_THAN_FIT: Final = 30
EVENT_WITHIN_S: Final = 10.0
SNAPSHOT: Final = {
    "links": "ip -br link",
    "namespaces": "ip netns list",
    "routes": "ip route show table all; ip rule",
    "firewall": "nft list ruleset",
    "mounts": "cut -d' ' -f4,5,9- /proc/self/mountinfo | sort",
    "sysctls": "sysctl -a 2>/dev/null | grep -E '^net.ipv[46].(conf|ip_forward)' | sort",
}


@dataclass
class Show:
    """What was claimed, whether it held, and the figures."""

    begin: float = field(default_factory=time.monotonic)
    rows: list[tuple[bool, str, str]] = field(default_factory=list)

    def say(self, text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self.begin:6.2f} s] {text}\n")
        sys.stdout.flush()

    def claim(self, what: str, holds: bool, figures: str = "") -> None:
        self.rows.append((holds, what, figures))
        self.say(f"{'ok  ' if holds else 'FAIL'} {what}{f': {figures}' if figures else ''}")

    def table(self) -> int:
        width = max(len(what) for _, what, _ in self.rows)
        sys.stdout.write("\n" + "-" * (width + 40) + "\n")
        for holds, what, figures in self.rows:
            sys.stdout.write(f"{'ok  ' if holds else 'FAIL'}  {what:<{width}}  {figures}\n")
        failed = sum(not holds for holds, _, _ in self.rows)
        sys.stdout.write(
            f"{len(self.rows) - failed} of {len(self.rows)} claims held, {time.monotonic() - self.begin:.1f} s\n"
        )
        return 1 if failed else 0


def main() -> int:
    """Run the whole demonstration; return the exit status."""
    show = Show()
    before = snapshot()
    show.say(
        f"bringing up a VPC with two m5.large nodes (cool-down of released addresses: {COOLDOWN_S} s instead of 30)"
    )
    with Lab.up(NAME, nodes=2, env={"IP_COOLDOWN_PERIOD": str(COOLDOWN_S)}, progress=show.say) as lab:
        add_pods(show, lab)
        traffic(show, lab)
        address_returns(show, lab)
        kills(show, lab)
        policies(show, lab)
        cloud_trouble(show, lab)
    after = snapshot()
    different = [name for name in SNAPSHOT if before[name] != after[name]]
    show.claim("the machine is as it was", not different, ", ".join(different) or ", ".join(SNAPSHOT))
    return show.table()


def snapshot() -> dict[str, str]:
    """Return what the machine's own namespaces show now."""
    return {
        name: subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=30).stdout
        for name, command in SNAPSHOT.items()
    }


def add_pods(show: Show, lab: Lab) -> None:
    for node in lab.nodes:
        times: list[float] = []
        failed = ""
        begin = time.monotonic()
        for number in range(PODS_A_NODE):
            try:
                times.append(lab.add_pod(node.name, f"{node.name}-pod-{number}").add_seconds * 1000)
            except CniError as error:
                failed = str(error)
                break
        addresses = {pod.address for pod in lab.pods() if pod.node == node.name}
        figures = (
            f"median {sorted(times)[len(times) // 2]:.1f} ms for the whole chain, all in {time.monotonic() - begin:.1f} s"
            if times
            else ""
        )
        show.claim(
            f"{PODS_A_NODE} pods on {node.name}, each an address of its own",
            len(addresses) == PODS_A_NODE,
            failed or figures,
        )


def traffic(show: Show, lab: Lab) -> None:
    one, neighbour, far = (lab.pod(name) for name in ("node-1-pod-0", "node-1-pod-19", "node-2-pod-19"))
    for what, peer in (("pod to pod on one node", neighbour), ("pod to pod across nodes", far)):
        for size in (SMALL, LARGE):
            done = one.exec(
                ["ping", "-c", "3", "-i", "0.2", "-W", "1", "-M", "do", "-s", str(size), peer.address], check=False
            )
            show.claim(f"{what}, {size + 8} bytes", " 0% packet loss" in done.stdout, _rtt(done.stdout))
        server = Server(peer)
        seen = _ask(one, peer.address, PORT)
        server.stop()
        show.claim(f"{what}: the source seen is the pod's address", seen == one.address, seen)
    for pod in (one, neighbour):
        seen = _ask(pod, INTERNET, 80)
        primary = lab.node("node-1").primary_address
        show.claim(
            f"{pod.name} to the internet: seen as the node's primary address",
            seen == primary,
            f"{pod.address} seen as {seen}",
        )


def address_returns(show: Show, lab: Lab) -> None:
    gone = lab.pod("node-1-pod-1")
    lab.delete_pod(gone.name)
    left = lab.node("node-1").exec(["ip", "rule"]).stdout
    show.claim("a pod deleted: its rules are gone", gone.address not in left, gone.address)
    filled = [lab.add_pod("node-1", f"filler-{number}") for number in range(7)]
    early = gone.address in {pod.address for pod in filled}
    show.claim(f"its address is not given out again within {COOLDOWN_S} s", not early, gone.address)
    time.sleep(COOLDOWN_S + 0.5)
    back = lab.add_pod("node-1", "after-cool-down")
    show.claim("and is back after its cool-down", back.address == gone.address, back.address)
    for pod in [*filled, back]:
        lab.delete_pod(pod.name)
    time.sleep(COOLDOWN_S + 0.5)


def kills(show: Show, lab: Lab) -> None:
    source, target = lab.pod("node-1-pod-0"), lab.pod("node-2-pod-0")
    node = lab.node("node-1")
    server = Server(target)
    udp, tcp = Running(source, "udp", target.address), Running(source, "tcp", target.address)
    time.sleep(0.5)
    for process in NODE_PROCESSES:
        before = node.pids()[process]
        begin = time.monotonic()
        node.kill(process)
        added = _add_during(lab, f"during-{process.replace('_', '-')}")
        serving = _serving_again(node, process, before)
        show.claim(
            f"{process} killed: a pod is added all the same",
            isinstance(added, Pod) and serving,
            f"ADD {added.add_seconds * 1000:.0f} ms, serving again after at most {time.monotonic() - begin:.2f} s"
            if isinstance(added, Pod)
            else str(added),
        )
    time.sleep(0.3)
    sent, stream = udp.stop(), tcp.stop()
    received = server.stop()
    lost = int(sent["sent"]) - int(received["received"])
    show.claim(
        "1,000 numbered packets a second meanwhile: none lost",
        lost == 0 and sent["refused"] == 0,
        f"{sent['sent']} sent, {lost} lost",
    )
    show.claim(
        "a TCP stream meanwhile: not broken",
        stream["broken"] == "" and int(stream["lines"]) > 0,
        f"{stream['lines']} lines, longest wait {stream['longest_ms']} ms",
    )


def policies(show: Show, lab: Lab) -> None:
    """A policy in force before a pod's first packet, one that lets friends in, a drop explained; then both go again."""
    lab.start_policy_controller()
    web, friend = (lab.add_pod(node, name, labels=labels) for node, name, labels in WEB_AND_FRIEND)
    stranger = lab.pod("node-1-pod-0")
    demo_policy.apply(lab, "nothing-out", demo_policy.NOTHING_OUT)
    scout = lab.add_pod("node-1", "scout", labels=demo_policy.LOCKED)
    counter = Server(web)
    known = demo_policy.seconds_until(lambda: not demo_policy.asks(scout, web))
    sent = demo_policy.packets_of_a_sender(lab, "node-1", web)
    received = counter.stop()["received"]
    show.claim(
        "a policy that lets nothing out: a new pod that sends with its first instruction reaches nobody",
        known is not None and sent > 0 and received == 0,
        f"{sent} packets sent, {received} arrived",
    )
    server = Server(web)
    demo_policy.apply(lab, "only-friends", demo_policy.ONLY_FRIENDS)
    took = demo_policy.seconds_until(lambda: not demo_policy.asks(stranger, web))
    show.claim("a policy that lets friends in: a stranger is kept out", took is not None)
    show.claim("and a friend on the other node gets through", demo_policy.asks(friend, web), friend.address)
    for pod, word in ((friend, "ALLOW"), (stranger, "DENY")):
        said = demo_policy.why(lab, web, "--from", f"{pod.address}:{PORT}")
        show.claim(f"`vpccni why` tells the rule for {pod.name}", said.startswith(word), said[:110])
    for name in ("nothing-out", "only-friends"):
        demo_policy.withdraw(lab, name)
    opened = demo_policy.seconds_until(lambda: demo_policy.asks(stranger, web))
    show.claim("the policies deleted: everybody gets through again", opened is not None)
    server.stop()
    for pod in (web, friend, scout):
        lab.delete_pod(pod.name)


def cloud_trouble(show: Show, lab: Lab) -> None:
    """A throttling EC2, old metadata and an exhausted node: what pods get, and what the operator sees."""
    node = lab.node("node-2")
    lab.ec2_fault("*", error="RequestLimitExceeded")
    added = _add_during(lab, "while-throttled", node.name)
    show.claim(
        "EC2 throttles everything: a pod is added from the warm pool",
        isinstance(added, Pod),
        f"{added.address}, {added.add_seconds * 1000:.0f} ms" if isinstance(added, Pod) else str(added),
    )
    lab.ec2_clear()

    kept = {pod.address for pod in lab.pods() if pod.node == node.name}
    enis = [eni["NetworkInterfaceId"] for eni in lab.ec2_picture() if eni["node"] == node.name]
    lab.imds_fault(node.name, missing_enis=enis[1:])
    node.kill(ENI_MANAGER)
    node.kill(IP_ALLOCATOR)
    added = _add_during(lab, "while-stale", node.name)
    held = {entry["ipv4"] for entry in json.loads((node.root / "ipam.json").read_text())["allocations"]}
    fresh = isinstance(added, Pod) and added.address not in kept
    show.claim(
        "metadata hides an ENI at a restart: no pod's address is forgotten or given out again",
        kept <= held and fresh,
        f"{len(kept)} addresses kept, the new pod got {added.address if isinstance(added, Pod) else added}",
    )
    lab.ec2_clear()

    refused: Pod | CniError = added
    number = 0
    while isinstance(refused, Pod) and number < MORE_THAN_FIT:
        refused = _add_during(lab, f"one-more-{number}", node.name)
        number += 1
    said = str(refused.details) if isinstance(refused, CniError) else "no refusal"
    show.claim("a node out of addresses: ADD fails with code 11 and the cause", said.startswith("default/"), said[:110])
    event = _event_about(lab, f"one-more-{number - 1}")
    show.claim("and the pod's event says so", "addresses" in event, event[:110])


def _event_about(lab: Lab, pod: str) -> str:
    """Return the note of a pod's event, once it is there."""
    deadline = time.monotonic() + EVENT_WITHIN_S
    while time.monotonic() < deadline:
        for event in lab.kube("GET", "/apis/events.k8s.io/v1/events")["items"]:
            if event.get("regarding", {}).get("name") == pod:
                return str(event["note"])
        time.sleep(0.2)
    return "no event"


def _add_during(lab: Lab, name: str, node: str = "node-1") -> Pod | CniError:
    try:
        return lab.add_pod(node, name)
    except CniError as error:
        return error


def _serving_again(node: Node, process: str, before: int) -> bool:
    """Wait until another process of that name says that it serves."""
    deadline = time.monotonic() + SERVING_AGAIN_S
    while time.monotonic() < deadline:
        answer = ask_all(node.root, [process], GetStatus())[process]
        if isinstance(answer, Status) and answer.pid != before and answer.state != "starting":
            return True
        time.sleep(0.02)
    return False


class Running:
    """A probe process inside a pod; `stop` ends it and returns its report."""

    def __init__(self, pod: Pod, *verb: str) -> None:
        arguments = [sys.executable, "-m", "vpccni.lab.probe", *verb, str(PORT)]
        self._process = pod.popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def stop(self) -> dict[str, Any]:
        out, _ = self._process.communicate(input="", timeout=20)
        report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return report

    def wait_for_line(self) -> None:
        assert self._process.stdout is not None
        waiter = threading.Timer(10, self._process.kill)
        waiter.start()
        self._process.stdout.readline()
        waiter.cancel()


class Server(Running):
    """The counting server, ready when made."""

    def __init__(self, pod: Pod) -> None:
        super().__init__(pod, "serve")
        self.wait_for_line()


def _ask(pod: Pod, address: str, port: int) -> str:
    done = pod.exec([sys.executable, "-m", "vpccni.lab.probe", "ask", address, str(port)], check=False)
    lines = done.stdout.strip().splitlines()
    return str(json.loads(lines[-1])["seen"]) if lines else done.stderr.strip()[-120:]


def _rtt(text: str) -> str:
    found: list[str] = [line.split("=")[-1].split("/")[1] for line in text.splitlines() if line.startswith("rtt")]
    return f"{found[0]} ms on average" if found else "no answer"


if __name__ == "__main__":
    raise SystemExit(main())
