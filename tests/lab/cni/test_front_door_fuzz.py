"""Whatever reaches the front door of a running node is answered with JSON, breaks nothing, and leaves the node as it was."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpccni.components.netlink_programmer.frontdoor import (
    HEAD,
    KIND_CNI,
    MAGIC_REPLY,
    MAGIC_REQUEST,
    REPLY_HEAD,
    VERSION,
)
from vpccni.lab.api import Lab

EXAMPLES = 150
ANSWER_WITHIN_S = 30.0
DEADLINE_MS = 3000
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from(["true", "10.0.96.1", "0.4.0"])
)
KEYS = st.sampled_from(
    "cniVersion name mtu vethPrefix prevResult runtimeConfig interfaces ips mac sandbox address ip4 enabled nodeIP ipam ranges subnet "
    "randomizeSNAT cni.dev/valid-attachments containerID ifname pluginLogLevel".split()
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=15
)
STDIN = st.binary(max_size=60) | st.dictionaries(KEYS, ANYTHING, max_size=6).map(
    lambda more: json.dumps({"cniVersion": "0.4.0", "name": "aws-cni", **more}).encode()
)
VALUES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)
ENVIRONMENT = st.fixed_dictionaries(
    {"CNI_COMMAND": st.sampled_from(["ADD", "DEL", "CHECK", "STATUS", "VERSION"]) | VALUES},
    optional={
        "CNI_CONTAINERID": st.just("fuzzed") | VALUES,
        "CNI_NETNS": VALUES,
        "CNI_IFNAME": st.just("eth0") | VALUES,
        "CNI_PATH": VALUES,
        "CNI_ARGS": st.just("IgnoreUnknown=1;K8S_POD_NAME=a") | VALUES,
        "VPCCNI_PLUGIN": st.just("egress-cni"),
    },
)


def asked(door: Path, env: dict[str, str], stdin: bytes) -> tuple[int, str]:
    """Send one frame without descriptors; return the exit code and the text of the reply."""
    block = b"".join(f"{name}={value}".encode() + b"\0" for name, value in env.items())
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(str(door))
        head = HEAD.pack(MAGIC_REQUEST, VERSION, KIND_CNI, 0, DEADLINE_MS, len(block), len(stdin))
        connection.sendall(head + block + stdin)
        magic, _, code, _, size = REPLY_HEAD.unpack(connection.recv(REPLY_HEAD.size, socket.MSG_WAITALL))
        assert magic == MAGIC_REPLY
        return code, connection.recv(size, socket.MSG_WAITALL).decode() if size else ""


def broken(lab: Lab) -> str:
    log = "/var/log/aws-routed-eni/netlink_programmer.log"
    return lab.nodes[0].exec(["sh", "-c", f"grep 'cni call broke' {log} | tail -3"], check=False).stdout


@pytest.mark.spec("dataplane.18.31", "rpc.11.8")
def test_every_frame_is_answered_and_the_pods_keep_their_network(lab: Lab) -> None:
    node, pod = lab.nodes[0], lab.add_pod("node-1", "bystander")
    short = Path(f"/tmp/vpc-fuzz-{os.getpid()}")  # a socket's path may have 107 characters
    short.symlink_to(node.root)
    pid = node.pids()["netlink_programmer"]
    look = "ip rule | grep -E '^(512|1536):'; ip route | grep 'dev eni'; ip -o link | cut -d: -f2 | grep -E ' (eni|veth|gone)'"
    before = node.exec(["sh", "-c", look]).stdout

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(env=ENVIRONMENT, stdin=STDIN)
    def ask(env: dict[str, str], stdin: bytes) -> None:
        code, text = asked(short / "front-door.sock", env, stdin)
        if code:
            document: dict[str, Any] = json.loads(text)
            assert {"cniVersion", "code", "msg"} <= document.keys()
        elif text:
            json.loads(text)
        assert broken(lab) == "", (env, stdin)

    try:
        ask()
    finally:
        short.unlink()
    assert node.pids()["netlink_programmer"] == pid
    assert node.exec(["sh", "-c", look]).stdout == before
    assert pod.exec(["ping", "-c", "1", "-W", "1", node.primary_address], check=False).returncode == 0
    lab.delete_pod("bystander")
