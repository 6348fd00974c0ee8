"""The controller beside a lab's cloud, as `vpccni lab up --policy-controller` starts it."""

from __future__ import annotations

import os

from support.waiting import until

from vpccni.lab import cleanup
from vpccni.lab.api import Lab

WITHIN_S = 20.0


def test_it_works_beside_the_cloud_and_ends_with_the_lab() -> None:
    endpoints = "/apis/networking.k8s.aws/v1alpha1/policyendpoints"
    with Lab.up(f"pol-{os.getpid() % 10000}", nodes=1, start_processes=False, transition_s=0.1) as lab:
        lab.start_policy_controller()
        policy = {"metadata": {"name": "deny"}, "spec": {"podSelector": {}}}
        lab.kube("POST", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", policy, expect=(201,))
        until(
            lambda: [one["spec"]["podIsolation"] for one in lab.kube("GET", endpoints)["items"]] == [["Ingress"]],
            (lab.state / "policy_controller.log").read_text,
            within_s=WITHIN_S,
        )
        state = lab.state
    assert cleanup.processes_of(state) == []
