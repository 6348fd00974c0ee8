"""A kubelet's part for one pod of the chart's DaemonSet: its template becomes requests to the container runtime.

Rights, mounts, environment, commands and images' names are the manifest's. Added is what a cluster adds: the downward API, the service
account's folder where the pod has one, and where the API server is: the lab's, so a kubeconfig lies in that folder beside the token.
"""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from charts.objects import Object
from e2e.containerd import Containerd
from support.waiting import until

MASKED = """/proc/asound /proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug
    /proc/scsi /sys/firmware""".split()
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
"""What kubelet tells the runtime to hide, and to keep from being written, in a container that is not privileged."""
NODE_NETWORK, OWN_PIDS, RUNTIME_DEFAULT, UNCONFINED = 2, 1, 0, 1
"""Numbers of the CRI's enumerations."""
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
API_ACCESS = "api-access"
"""The volume behind it, whether the pod names it or gets it by itself."""
ENDS_WITHIN_S = 60.0
READY_WITHIN_S = 60.0


@dataclass
class DaemonPod:
    """The pod of a DaemonSet on a node. `images`: what to run for a name of the chart; `env`: what an operator has set, by container."""

    runtime: Containerd
    spec: Object
    images: dict[str, str]
    env: Mapping[str, Mapping[str, str]]
    folder: Path
    kubeconfig: str
    uid: str = ""
    sandbox: str = ""
    running: dict[str, str] = field(default_factory=dict)
    """Ids of the containers by their names."""
    _attempts: dict[str, int] = field(default_factory=dict)

    @property
    def containers(self) -> dict[str, Object]:
        return {item["name"]: item for item in self.spec["containers"]}

    def mounts(self, item: Object) -> list[Object]:
        """Return a container's mounts: the service account's folder is in every one, unless the pod says that it is not."""
        everywhere = [{"name": API_ACCESS, "mountPath": SERVICE_ACCOUNT, "readOnly": True}]
        return [*item["volumeMounts"], *(everywhere if self.spec.get("automountServiceAccountToken", True) else [])]

    @property
    def name(self) -> str:
        return f"aws-node-{self.uid[:5]}"

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Create the pod: a sandbox, the init containers one after the other, then all others."""
        self.uid, self.running = str(uuid.uuid4()), {}
        self._prepare_volumes()
        self.sandbox = self.runtime.cri("runp", self._file("sandbox", self._sandbox_config())).stdout.strip()
        for item in self.spec["initContainers"]:
            begun = self._create(item)
            until(partial(self.has_ended, begun), item["name"], within_s=ENDS_WITHIN_S)
            assert self.inspect(begun)["status"]["exitCode"] == 0, self.log(item["name"])
        for name in self.containers:
            self.start_container(name)

    def start_container(self, name: str) -> None:
        self.running[name] = self._create(self.containers[name])

    def stop_container(self, name: str) -> None:
        """End a container as kubelet does; it ends in order, within the grace period."""
        self._stop([self.running[name]])

    def kill_processes(self, name: str) -> None:
        """Kill all that a container's first process has started; that one goes on."""
        for pid in self.processes(name)[1:]:
            os.kill(pid, signal.SIGKILL)

    def kill_container(self, name: str) -> None:
        """Kill a container's first process, and start the container again once the runtime knows of its end."""
        container = self.running[name]
        os.kill(self.pid(name), signal.SIGKILL)
        until(partial(self.has_ended, container), f"the end of {name}", within_s=ENDS_WITHIN_S)
        self.start_container(name)

    def replace_image(self, name: str, image: str) -> None:
        """Let a container run another image, as kubelet does for a pod whose spec names another: that container alone is ended."""
        self.stop_container(name)
        self.images[image_name(self.containers[name]["image"])] = image
        self.start_container(name)

    def end(self) -> None:
        """Delete the pod: every container asked to end, then the sandbox."""
        self._stop(list(self.running.values()))
        self.runtime.remove_pod(self.sandbox)

    def _stop(self, containers: list[str]) -> None:
        self.runtime.cri("stop", "-t", str(self.spec["terminationGracePeriodSeconds"]), *containers)
        assert {self.inspect(one)["status"]["exitCode"] for one in containers} == {0}, self.log("*")

    # ------------------------------------------------------------------ questions

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.runtime.cri("inspect", container).stdout)
        return found

    def has_ended(self, container: str) -> bool:
        return bool(self.inspect(container)["status"]["state"] == "CONTAINER_EXITED")

    def pid(self, name: str) -> int:
        """Return a container's first process, as the machine numbers it."""
        return int(self.inspect(self.running[name])["info"]["pid"])

    def processes(self, name: str) -> list[int]:
        """Return a container's first process and its children."""
        first = self.pid(name)
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def image_of(self, name: str) -> str:
        """Return the digest of the image that a container runs."""
        return str(self.inspect(self.running[name])["status"]["imageRef"])

    def log(self, name: str) -> str:
        """Return the end of what a container's last attempts wrote."""
        return self.runtime.node.exec(["sh", "-c", f"tail -n 20 {self._logs}/{name}_*.log"], check=False).stdout

    def probe(self, name: str, kind: str) -> int:
        """Run a container's probe in it; return its exit code, 0 where it has none."""
        probe = self.containers[name].get(f"{kind}Probe")
        if probe is None:
            return 0
        timeout = str(probe["timeoutSeconds"])
        argv = ["exec", "-s", "--timeout", timeout, self.running[name], *probe["exec"]["command"]]
        return self.runtime.cri(*argv, check=False).returncode

    def wait_ready(self) -> None:
        """Wait until every container is ready and alive in the eyes of its probes."""

        def unready() -> list[str]:
            return [
                name
                for name in self.containers
                if self.probe(name, "readiness") != 0 or self.probe(name, "liveness") != 0
            ]

        until(
            lambda: not unready(),
            lambda: {name: self.log(name) for name in unready()},
            within_s=READY_WITHIN_S,
            every_s=0.5,
        )

    # ------------------------------------------------------------------ the template in the runtime's words

    @property
    def _logs(self) -> str:
        return f"/var/log/pods/kube-system_{self.name}_{self.uid}"

    def _create(self, item: Object) -> str:
        name = item["name"]
        self._attempts[name] = self._attempts.get(name, 0) + 1
        files = [self._file(name, self._container_config(item)), self._file("sandbox", self._sandbox_config())]
        container = self.runtime.cri("create", self.sandbox, *files).stdout.strip()
        self.runtime.cri("start", container)
        return str(container)

    def _sandbox_config(self) -> Object:
        assert self.spec["hostNetwork"] is True
        all_of_them = [*self.spec["initContainers"], *self.spec["containers"]]
        context = {
            "namespace_options": {"network": NODE_NETWORK, "pid": OWN_PIDS},
            "privileged": any(item["securityContext"].get("privileged", False) for item in all_of_them),
        }
        return {
            "metadata": {"name": self.name, "namespace": "kube-system", "uid": self.uid, "attempt": 0},
            "log_directory": self._logs,
            "linux": {"security_context": context},
        }

    def _container_config(self, item: Object) -> Object:
        name = item["name"]
        return {
            "metadata": {"name": name, "attempt": self._attempts[name]},
            "image": {"image": self.images[image_name(item["image"])]},
            "command": item.get("command", []),
            "args": item.get("args", []),
            "envs": [{"key": key, "value": value} for key, value in self._environment(item).items()],
            "mounts": [self._mount(mount) for mount in self.mounts(item)],
            "log_path": f"{name}_{self._attempts[name]}.log",
            "linux": {"security_context": _security(item["securityContext"])},
        }

    def _environment(self, item: Object) -> dict[str, str]:
        facts = {
            "spec.nodeName": self.runtime.node.name,
            "metadata.name": self.name,
            "metadata.uid": self.uid,
        }
        rows = {
            row["name"]: row["value"] if "value" in row else facts[row["valueFrom"]["fieldRef"]["fieldPath"]]
            for row in item["env"]
        }
        sees_api = any(mount["mountPath"] == SERVICE_ACCOUNT for mount in self.mounts(item))
        return {
            **rows,
            **({"KUBECONFIG": f"{SERVICE_ACCOUNT}/kubeconfig"} if sees_api else {}),
            **self.env.get("*", {}),
            **self.env.get(item["name"], {}),
        }

    def _mount(self, mount: Object) -> Object:
        return {
            "container_path": mount["mountPath"],
            "host_path": self._volumes()[mount["name"]],
            "readonly": mount.get("readOnly", False),
        }

    def _volumes(self) -> dict[str, str]:
        """Return each volume's path on the node."""
        projected = f"/var/lib/kubelet/pods/{self.uid}/volumes/{API_ACCESS}"
        rows = {item["name"]: item.get("hostPath", {}).get("path", projected) for item in self.spec["volumes"]}
        return {**rows, API_ACCESS: projected}

    def _prepare_volumes(self) -> None:
        root = self.runtime.node.filesystem
        folder = root / self._volumes()[API_ACCESS].lstrip("/")
        folder.mkdir(parents=True)
        for name, text in {"token": "lab", "namespace": "kube-system", "kubeconfig": self.kubeconfig}.items():
            (folder / name).write_text(text)
        for item in self.spec["volumes"]:
            host = item.get("hostPath", {})
            if host.get("type") == "FileOrCreate":
                self.runtime.node.exec(["touch", host["path"]])
            elif host.get("type") == "DirectoryOrCreate":
                self.runtime.node.exec(["mkdir", "-p", host["path"]])

    def _file(self, name: str, content: Object) -> str:
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(content))
        return str(file)


def image_name(image: str) -> str:
    """Return an image's name without registry and tag."""
    return image.partition("/")[2].rpartition(":")[0]


def _security(context: Object) -> Object:
    """Return a container's security context in the CRI's words."""
    capabilities = context.get("capabilities", {})
    common = {
        "namespace_options": {"network": NODE_NETWORK, "pid": OWN_PIDS},
        "run_as_user": {"value": context.get("runAsUser", 0)},
        "readonly_rootfs": context.get("readOnlyRootFilesystem", False),
        "no_new_privs": context.get("allowPrivilegeEscalation") is False,
        "capabilities": {
            "add_capabilities": capabilities.get("add", []),
            "drop_capabilities": capabilities.get("drop", []),
        },
    }
    if context.get("privileged", False):
        return {**common, "privileged": True, "seccomp": {"profile_type": UNCONFINED}}
    confined = context.get("seccompProfile", {}).get("type") == "RuntimeDefault"
    return {
        **common,
        "seccomp": {"profile_type": RUNTIME_DEFAULT if confined else UNCONFINED},
        "masked_paths": MASKED,
        "readonly_paths": READ_ONLY,
    }
