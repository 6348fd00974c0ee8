"""`vpccni policy dry-run FILE`: what the policies in a file would change for the pods of this node.

The file is resolved here as the controller would resolve it, against the cluster as the API shows it now; this node's agent, which knows
what is in force, then says what would change. Nothing is written anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from vpccni.components.policy_controller.chunks import name_groups, plan_objects
from vpccni.components.policy_controller.cluster import Cluster
from vpccni.components.policy_controller.documents import head_of, new_object
from vpccni.components.policy_controller.facts import (
    PodWire,
    ServiceWire,
    SliceWire,
    namespace_of,
    pod_of,
    service_of,
    slice_of,
)
from vpccni.components.policy_controller.model import Kind, Policy, PolicyId, Rows
from vpccni.components.policy_controller.policies import policy_of
from vpccni.components.policy_controller.policy_wires import PolicyWire
from vpccni.components.policy_controller.resolve import resolve
from vpccni.shared import names
from vpccni.shared.errors import VpccniError
from vpccni.shared.kube import NAMESPACES, PODS, KubeRefused, Wire
from vpccni.shared.kube.access import find_access
from vpccni.shared.kube.follow import Follower, Listed, Pace
from vpccni.shared.kube.objects import Key, Projection
from vpccni.shared.kube.resources import ENDPOINT_SLICES, SERVICES, Resource
from vpccni.shared.kube.transport import Transport
from vpccni.shared.messages.policy import PodPreview, PolicyName, PreviewPolicies, Previews
from vpccni.shared.node_cli import ask_all
from vpccni.shared.process import RUN_DIR_DEFAULT

FORBIDDEN: Final = 403
EXIT_TROUBLE, EXIT_CHANGES = 1, 2
PEERS_SHOWN: Final = 10
NO_LIMIT: Final = sys.maxsize
T = TypeVar("T")


def main(argv: Sequence[str]) -> int:
    """Print what would change; return 0 for nothing, 2 for something, 1 when it could not be found out."""
    arguments = _parser().parse_args(argv)
    raw = {**os.environ, **({"KUBECONFIG": arguments.kubeconfig} if arguments.kubeconfig else {})}
    try:
        policies = list(policies_in(arguments.file, namespace=arguments.namespace))
        ask = question(policies, cluster_of(raw))
        answer = ask_all(arguments.run_dir, [names.POLICY_AGENT], ask)[names.POLICY_AGENT]
    except (VpccniError, OSError, ValueError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_TROUBLE
    if not isinstance(answer, Previews) or not answer.known:
        why = "the agent does not know the policies yet" if isinstance(answer, Previews) else str(answer)
        sys.stderr.write(f"{why}\n")
        return EXIT_TROUBLE
    if arguments.json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(answer), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for pod in answer.pods for line in lines(pod))
    return EXIT_CHANGES if any(_changes(pod) for pod in answer.pods) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vpccni policy")
    command = parser.add_subparsers(dest="command", required=True).add_parser("dry-run")
    command.add_argument("file", type=Path, help="policies in YAML or JSON")
    command.add_argument("--namespace", default="default", help="of policies that name none")
    command.add_argument("--kubeconfig", default="", help="who may list pods, namespaces, services and endpoint slices")
    command.add_argument("--run-dir", type=Path, default=Path(os.environ.get("VPCCNI_RUN_DIR", RUN_DIR_DEFAULT)))
    command.add_argument("--json", action="store_true")
    return parser


def policies_in(path: Path, *, namespace: str) -> Iterator[Policy]:
    """Yield the policies of a file; raises ValueError for one that is none, or that the controller could not use whole."""
    import yaml  # type: ignore[import-untyped]  # part of the Kubernetes client; each document is checked below

    try:
        documents = [one for one in yaml.safe_load_all(path.read_text()) if one is not None]
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    for document in documents:
        kind = document.get("kind", "") if isinstance(document, dict) else ""
        if kind not in set(Kind):
            raise ValueError(f"{path}: {kind!r} is none of {', '.join(Kind)}")
        wire = msgspec.convert(document, PolicyWire)
        within = "" if kind == Kind.CLUSTER else wire.metadata.namespace or namespace
        policy = policy_of(PolicyId(Kind(kind), within, wire.metadata.name), wire)
        if policy.problems:
            raise ValueError(f"{policy.id}: {'; '.join(one.text for one in policy.problems)}")
        yield policy


def cluster_of(raw: Mapping[str, str]) -> Cluster:
    """Return the cluster as the API shows it now. Services that may not be listed are left out, and it is said."""
    transport = Transport(find_access(raw), user_agent="vpccni-dry-run")
    cluster = Cluster()
    try:
        for key, labels in _listed(transport, NAMESPACES, Wire, namespace_of):
            cluster.put_namespace(key.name, labels)
        for key, pod in _listed(transport, PODS, PodWire, pod_of):
            cluster.put_pod(key, pod)
        try:
            for key, service in _listed(transport, SERVICES, ServiceWire, service_of):
                cluster.put_service(key, service)
            for key, part in _listed(transport, ENDPOINT_SLICES, SliceWire, slice_of):
                cluster.put_slice(key, part)
        except KubeRefused as error:
            if error.status != FORBIDDEN:
                raise
            sys.stderr.write(f"services are left out: {error}\n")
    finally:
        transport.close()
    return cluster


def _listed(
    transport: Transport, resource: Resource, wire: type[Any], project: Callable[[Any], T | None]
) -> list[tuple[Key, T]]:
    follower = Follower(resource, Projection(wire, project), namespace="", query={}, pace=Pace())
    (step,) = follower.turn(transport)
    return list(step.objects.items()) if isinstance(step, Listed) else []


def question(policies: Sequence[Policy], cluster: Cluster) -> PreviewPolicies:
    """Return what to ask the agent; raises ValueError for a policy that no node can hold."""
    return PreviewPolicies(
        policies=[PolicyName(str(one.id.kind), one.id.namespace, one.id.name) for one in policies],
        endpoints=[json.dumps(document) for one in policies for document in _documents(one, cluster)],
    )


def _documents(policy: Policy, cluster: Cluster) -> Iterator[dict[str, object]]:
    resolution = resolve(policy, cluster)
    for problem in resolution.problems:
        sys.stderr.write(f"{policy.id}: {problem.reason}: {problem.text}\n")
    if resolution.is_too_large:
        raise ValueError(f"{policy.id} is refused: it is too large")
    for reference, group in name_groups(policy.id.name, resolution.groups, ()):
        rows = Rows(group.ingress, resolution.egress, group.targets)
        for wanted in plan_objects(head_of(policy, reference), rows, (), size=NO_LIMIT).create:
            document = dict(new_object(policy, wanted, changed_at=""))
            document["metadata"] = {**document["metadata"], "name": reference}  # type: ignore[dict-item]  # a document's member
            yield document


def lines(pod: PodPreview) -> Iterator[str]:
    """Yield what would change for a pod, for people."""
    name = f"{pod.pod.namespace}/{pod.pod.name}"
    if not _changes(pod):
        yield f"{name}: no change"
        return
    yield name
    for way in pod.isolated:
        yield f"    {way} is isolated: what no rule allows is denied"
    for way in pod.opened:
        yield f"    {way} is no more isolated"
    for change in pod.changes:
        way = "from" if change.direction == "ingress" else "to"
        more = len(change.peers) - PEERS_SHOWN
        peers = ", ".join(change.peers[:PEERS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        yield f"    newly {change.outcome} {way} {peers}: {', '.join(change.ports)}"


def _changes(pod: PodPreview) -> bool:
    return bool(pod.isolated or pod.opened or pod.changes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
