"""From nothing to a `Manager`: metadata, limits, EC2 client, first look; repeated with pauses until it works, saying why not.

A wish that comes earlier is kept for the manager; the latest one counts.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from vpccni.components.eni_manager.annotator import Annotator
from vpccni.components.eni_manager.cloud import Cloud
from vpccni.components.eni_manager.facts import InstanceFacts
from vpccni.components.eni_manager.imds import Imds
from vpccni.components.eni_manager.kube_facts import KubeFacts
from vpccni.components.eni_manager.limits import InstanceLimits, find_limits
from vpccni.components.eni_manager.node_count import count_nodes
from vpccni.components.eni_manager.reporter import Reporter
from vpccni.components.eni_manager.reports import Note
from vpccni.components.eni_manager.service import Manager, first_pause_s
from vpccni.shared.bus import Call
from vpccni.shared.errors import CloudRefused, SettingsError
from vpccni.shared.kube import Kube
from vpccni.shared.messages.base import Message
from vpccni.shared.messages.common import Done
from vpccni.shared.messages.inventory import CapacityAccepted, CapacityTarget, Report
from vpccni.shared.process import Process
from vpccni.shared.settings_advice import traps

if TYPE_CHECKING:
    from vpccni.components.eni_manager.ec2 import Ec2

STARTUP: Final = "awscni_ipamd_startup_duration_seconds"
NOT_INITIALIZED: Final = "node_initialization"  # spec operations.md 2.2
REASON_TRAP: Final = "SettingHasNoSuchEffect"


class Service:
    """The requests this process answers, and its start."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._manager: Manager | None = None
        self._early_wish: CapacityTarget | None = None
        self._imds = Imds(
            process.raw.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""),
            v1_allowed=process.raw.get("AWS_EC2_METADATA_V1_DISABLED", "").lower() != "true",
            of_ipv6_node=process.settings.ipv6,
            on_error=lambda api: process.loop.call_from_thread(lambda: self._imds_failed(api)),
        )
        self._kube = Kube.of(process)
        self._facts = KubeFacts(process, self._kube, changed=self._facts_changed)
        self._reporter = Reporter(process, self._kube, self._facts)
        self._cloud = Cloud(process, on_denied=lambda api, sentence: self._reporter.denied(api))
        self._annotator: Annotator | None = None
        if process.settings.annotate_pod_ip:
            self._annotator = Annotator(process, self._kube, self._facts, is_ours=self._is_ours)
        self._ec2: Ec2 | None = None
        process.gauge("awscni_ipamd_action_inprogress", lambda: float(self._manager is None), fn="nodeInit")
        process.handle(CapacityTarget, self._on_target)
        process.handle(Report, self._on_report)
        for sentence in traps(process.raw, process.settings):
            self._reporter.report(Note(REASON_TRAP, sentence))
        process.loop.spawn(self._start(), name="start")

    async def _start(self) -> None:
        tries = 0
        while self._manager is None:
            try:
                self._manager = await self._first_look()
            except SettingsError as error:
                self._process.log.error("start given up", error=error)
                self._process.degraded("start", f"No inventory. {error}")
                return
            except (CloudRefused, OSError) as error:
                tries += 1
                self._note_startup(
                    after_s=self._process.loop.clock() - self._process.started_at, failure=NOT_INITIALIZED
                )
                self._process.degraded("start", f"No inventory yet. {error}")
                await self._process.loop.sleep(first_pause_s(tries))
        self._note_startup(after_s=self._process.served_at - self._process.started_at)
        self._process.healthy("start")
        self._facts_changed()
        if self._early_wish is not None:
            self._manager.wish(self._early_wish)

    def _note_startup(self, *, after_s: float, failure: str = "") -> None:
        """Note how long the start took, or took in vain: the original's process ends with a try that fails, and starts anew."""
        nodes = self._facts.nodes
        self._process.observe(
            STARTUP,
            after_s,
            success=str(not failure).lower(),
            with_api_server=str(nodes is not None and nodes.synced).lower(),
            failure_reason=failure,
        )

    async def _first_look(self) -> Manager:
        loop = self._process.loop
        instance = await loop.in_thread(self._imds.instance)
        if self._ec2 is None:
            connected = await loop.in_thread(_connect, self._process, instance)
            self._ec2 = connected
        ec2 = self._ec2
        limits = await self._limits(ec2, instance.instance_type)
        if self._process.settings.ipv6 and not limits.prefixes:
            raise SettingsError(
                "an IPv6 node is not possible on this type",
                on=instance.instance_type,
                why="EC2 gives prefixes to nitro and bare metal types only",
                remedy="Use another type, or ENABLE_IPv4",
            )
        if self._facts.node is not None:
            limits = replace(limits, kubelet_pods=self._facts.node.max_pods)
        manager = Manager(
            self._process,
            self._imds,
            self._cloud,
            ec2,
            instance,
            limits,
            tell=self._tell,
            nodes=lambda: count_nodes(self._kube),
        )
        await manager.start()
        return manager

    async def _limits(self, ec2: Ec2, instance_type: str) -> InstanceLimits:
        table = files("vpccni.components.eni_manager").joinpath("limits.tsv").read_text()
        known = find_limits(table, instance_type)
        if known is not None:
            return known
        return await self._cloud.call("DescribeInstanceTypes", lambda: ec2.limits(instance_type))

    async def _on_target(self, message: CapacityTarget, call: Call) -> Message:
        if self._manager is None:
            self._early_wish = message
        else:
            self._manager.wish(message)
        return CapacityAccepted()

    async def _on_report(self, message: Report, call: Call) -> Message:
        self._reporter.report(
            Note(message.reason, message.note, pod_namespace=message.pod_namespace, pod_name=message.pod_name)
        )
        return Done()

    def _imds_failed(self, api: str) -> None:
        self._process.count("awscni_aws_api_error_count", 1, api=api, error="")

    def _tell(self, reason: str, sentence: str) -> None:
        self._reporter.report(Note(reason, sentence))

    def _is_ours(self, address: str) -> bool:
        return self._manager is not None and self._manager.has(address)

    def _facts_changed(self) -> None:
        if self._annotator is not None:
            self._annotator.look()
        node, manager = self._facts.node, self._manager
        if manager is None:
            return
        if node is not None:
            manager.kubelet_pods(node.max_pods)
            manager.cordoned(node.unschedulable)
        if self._process.settings.custom_networking:
            manager.eni_config(self._facts.eni_config())


def _connect(process: Process, instance: InstanceFacts) -> Ec2:
    """Import boto3 in the pool's thread: it takes a second, and requests are answered meanwhile."""
    from vpccni.components.eni_manager.ec2 import Ec2

    settings = process.settings
    return Ec2(
        region=instance.region,
        endpoint=settings.ec2_endpoint,
        version=settings.cni_version,
        timeout_s=settings.http_timeout_s,
        of_ipv6_node=settings.ipv6,
    )
