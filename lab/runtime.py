"""A container runtime's half of CNI: runs a node's network configuration as the specification says.

ADD runs the chain forward, each plugin given the result of the one before; DEL and GC run it in reverse (GC: forward), with the
result that ADD kept. `loopback` goes first, as container runtimes do. Plugins are real programs in the node's namespaces.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PLUGIN_TIMEOUT_S: Final = 60.0
BIN_FOLDER: Final = "/opt/cni/bin"
CONF_FOLDER: Final = "etc/cni/net.d"
CACHE_FOLDER: Final = "var/lib/cni/results"
ANNOTATIONS: Final = "io.kubernetes.cri.pod-annotations"
"""The capability under which a pod's annotations are told."""
LOOPBACK: Final = {"cniVersion": "0.4.0", "name": "lo", "type": "loopback"}

Starter = Callable[..., "subprocess.Popen[str]"]
Json = dict[str, Any]


class CniError(Exception):
    """A plugin failed: its CNI code, message and details, or code 0 if it said nothing that CNI defines."""

    def __init__(
        self, code: int, msg: str, details: str = "", *, stdout: str = "", stderr: str = "", exit_code: int = 1
    ) -> None:
        super().__init__(f"CNI error {code}: {msg}{f' ({details})' if details else ''}")
        self.code, self.msg, self.details = code, msg, details
        self.stdout, self.stderr, self.exit_code = stdout, stderr, exit_code


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """What a runtime tells plugins about a pod."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    pod: str = ""
    namespace: str = "default"
    uid: str = ""
    ports: tuple[Mapping[str, Any], ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)

    def cni_args(self) -> str:
        """Return CNI_ARGS as container runtimes write them."""
        named = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.namespace,
            "K8S_POD_NAME": self.pod,
            "K8S_POD_INFRA_CONTAINER_ID": self.container_id,
            "K8S_POD_UID": self.uid,
        }
        return ";".join(f"{key}={value}" for key, value in {**named, **self.args}.items())


class Runtime:
    """CNI on one node. `root` is the node's file system as seen from here; `start` starts a program inside the node."""

    def __init__(self, root: Path, start: Starter, env: Mapping[str, str]) -> None:
        self._root, self._start, self._env = root, start, env
        self.seconds: dict[str, float] = {}
        """How long each plugin of the last chain took, exec to exit."""

    def conflist(self) -> Json:
        """Return the network configuration in force: the first file of the folder, a single plugin made a list."""
        folder = self._root / CONF_FOLDER
        files = (
            sorted(p for p in folder.iterdir() if p.suffix in (".conflist", ".conf", ".json"))
            if folder.is_dir()
            else []
        )
        if not files:
            raise CniError(0, "no network configuration", f"/{CONF_FOLDER} is empty; is the node ready?")
        conf: Json = json.loads(files[0].read_text())
        return (
            conf
            if "plugins" in conf
            else {"cniVersion": conf.get("cniVersion", "0.4.0"), "name": conf["name"], "plugins": [conf]}
        )

    def add(self, sandbox: Sandbox, conflist: Json | None = None) -> Json:
        """ADD the sandbox to the network; return the last plugin's result. A failed chain is deleted again, as runtimes do."""
        conf = conflist or self.conflist()
        self.seconds = {}
        with contextlib.suppress(FileNotFoundError):
            self._run("ADD", sandbox, LOOPBACK, ifname="lo")
        result: Json | None = None
        try:
            for plugin in conf["plugins"]:
                result = self._run("ADD", sandbox, _netconf(conf, plugin, sandbox, result))
        except CniError:
            with contextlib.suppress(CniError):
                self.delete(sandbox, conf, result=result)
            raise
        final = result or {}
        self._keep(conf, sandbox, final)
        return final

    def delete(self, sandbox: Sandbox, conflist: Json | None = None, *, result: Json | None = None) -> None:
        """DEL the sandbox: the chain in reverse, with the configuration and result that ADD kept."""
        kept = self._kept(sandbox)
        conf = conflist or (kept["conflist"] if kept else self.conflist())
        before = result or (kept["result"] if kept else None)
        self.seconds = {}
        for plugin in reversed(conf["plugins"]):
            self._run("DEL", sandbox, _netconf(conf, plugin, sandbox, before))
        with contextlib.suppress(CniError, FileNotFoundError):
            self._run("DEL", sandbox, LOOPBACK, ifname="lo")
        self._cache(sandbox).unlink(missing_ok=True)

    def check(self, sandbox: Sandbox) -> None:
        """CHECK the sandbox against the result that ADD kept."""
        kept = self._kept(sandbox)
        if kept is None:
            raise CniError(0, "nothing to check", f"no ADD of {sandbox.container_id} is recorded")
        conf = kept["conflist"]
        if conf.get("disableCheck"):
            return
        for plugin in conf["plugins"]:
            self._run("CHECK", sandbox, _netconf(conf, plugin, sandbox, kept["result"]))

    def status(self) -> None:
        """STATUS of each plugin; raises the first one's error."""
        conf = self.conflist()
        for plugin in conf["plugins"]:
            self._run("STATUS", None, _netconf(conf, plugin, None, None))

    def gc(self, valid: Sequence[Sandbox]) -> None:
        """GC: tell each plugin which attachments are still valid."""
        conf = self.conflist()
        rows = [{"containerID": sandbox.container_id, "ifname": sandbox.ifname} for sandbox in valid]
        for plugin in conf["plugins"]:
            self._run("GC", None, {**_netconf(conf, plugin, None, None), "cni.dev/valid-attachments": rows})

    def version(self, plugin: str) -> Json:
        """Return a plugin's VERSION answer."""
        return self._run("VERSION", None, {"cniVersion": "1.0.0", "type": plugin}) or {}

    def sandboxes(self) -> list[Sandbox]:
        """Return the sandboxes that an ADD recorded and no DEL removed."""
        folder = self._root / CACHE_FOLDER
        rows = (
            [json.loads(path.read_text())["sandbox"] for path in sorted(folder.glob("*.json"))]
            if folder.is_dir()
            else []
        )
        return [Sandbox(**{**row, "ports": tuple(row["ports"])}) for row in rows]

    # ------------------------------------------------------------------ inside

    def _run(self, command: str, sandbox: Sandbox | None, conf: Json, *, ifname: str | None = None) -> Json | None:
        env = {**self._env, "CNI_COMMAND": command, "CNI_PATH": BIN_FOLDER}
        if sandbox is not None:
            env |= {
                "CNI_CONTAINERID": sandbox.container_id,
                "CNI_NETNS": sandbox.netns,
                "CNI_IFNAME": ifname or sandbox.ifname,
                "CNI_ARGS": sandbox.cni_args(),
            }
        begin = time.perf_counter()
        program = self._start(
            [f"{BIN_FOLDER}/{conf['type']}"], env=env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            out, err = program.communicate(json.dumps(conf), timeout=PLUGIN_TIMEOUT_S)
        except subprocess.TimeoutExpired as late:
            program.kill()
            out, err = program.communicate()
            raise CniError(
                0, f"{conf['type']} {command} took over {PLUGIN_TIMEOUT_S:.0f} s", stdout=out, stderr=err
            ) from late
        self.seconds[conf["type"]] = time.perf_counter() - begin
        return _answer(conf["type"], command, program.returncode, out, err)

    def _cache(self, sandbox: Sandbox) -> Path:
        return self._root / CACHE_FOLDER / f"{sandbox.container_id}-{sandbox.ifname}.json"

    def _keep(self, conf: Json, sandbox: Sandbox, result: Json) -> None:
        path = self._cache(sandbox)
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {**sandbox.__dict__, "ports": list(sandbox.ports), "args": dict(sandbox.args),
               "annotations": dict(sandbox.annotations)}  # fmt: skip
        path.write_text(json.dumps({"conflist": conf, "sandbox": row, "result": result}))

    def _kept(self, sandbox: Sandbox) -> Json | None:
        path = self._cache(sandbox)
        if not path.exists():
            return None
        kept: Json = json.loads(path.read_text())
        return kept


def _netconf(conf: Json, plugin: Json, sandbox: Sandbox | None, before: Json | None) -> Json:
    """Return one plugin's configuration: the list's name and version, asked-for capabilities, the result so far."""
    netconf = {key: value for key, value in plugin.items() if key != "capabilities"}
    netconf |= {"cniVersion": conf.get("cniVersion", "0.4.0"), "name": conf["name"]}
    capabilities = plugin.get("capabilities") or {}
    told: Json = {}
    if sandbox is not None and capabilities.get("portMappings") and sandbox.ports:
        told["portMappings"] = [dict(port) for port in sandbox.ports]
    if sandbox is not None and capabilities.get(ANNOTATIONS) and sandbox.annotations:
        told[ANNOTATIONS] = dict(sandbox.annotations)
    if told:
        netconf["runtimeConfig"] = told
    if before is not None:
        netconf["prevResult"] = before
    return netconf


def _answer(plugin: str, command: str, status: int, out: str, err: str) -> Json | None:
    try:
        document = json.loads(out) if out.strip() else None
    except ValueError:
        document = None
    if status != 0:
        said = document if isinstance(document, dict) else {}
        message = (
            said.get("msg") or f"{plugin} {command} exited with {status} and no CNI error: {(out + err).strip()[:500]}"
        )
        raise CniError(
            int(said.get("code", 0)), message, said.get("details", ""), stdout=out, stderr=err, exit_code=status
        )
    return document if isinstance(document, dict) else None
