"""A real containerd in a lab node: Debian's own package, unpacked and not installed, and crictl built from its Go module."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.fetched import debian_programs, go_program

from vpccni.lab.node import Node

CACHE = Path(__file__).parents[2] / "build" / "e2e"
PACKAGES = ("containerd", "runc", "libseccomp2")
CRICTL = "sigs.k8s.io/cri-tools/cmd/crictl@v1.34.0"
IMAGE = "localhost/pause:1"
RUN = "/run/containerd-test"
"""In the node's own mount namespace."""
READY_WITHIN_S = 30.0
PAUSE = """#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"""
CONFIG = f"""version = 2
root = "{RUN}/root"
state = "{RUN}/state"
[grpc]
  address = "{RUN}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
"""


def unpacked() -> Path:
    """Return the folder of the unpacked packages; they are fetched once."""
    return debian_programs(PACKAGES, CACHE)


def crictl() -> Path:
    """Return crictl, built once."""
    return go_program(CRICTL, CACHE / "bin", GOFLAGS="-mod=mod", CGO_ENABLED="0")


def pause_image(folder: Path) -> Path:
    """Make an image of one static program, as `docker save` would write it."""
    (folder / "pause.c").write_text(PAUSE)
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", folder / "pause", folder / "pause.c"], check=True, timeout=60)
    layer = _tar({"pause": (folder / "pause").read_bytes()}, mode=0o755)
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [IMAGE], "Layers": [f"{digest}/layer.tar"]}]).encode()
    image = folder / "pause.tar"
    image.write_bytes(_tar({name: config, f"{digest}/layer.tar": layer, "manifest.json": manifest}))
    return image


def _tar(files: dict[str, bytes], *, mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


class Containerd:
    """containerd in a node, asked through the CRI."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self._folder, self._crictl = folder, crictl()
        root = unpacked()
        self._env = {
            **node.env,
            "PATH": f"{root}/usr/bin:{root}/usr/sbin:{node.env['PATH']}",
            "LD_LIBRARY_PATH": f"{root}/usr/lib/x86_64-linux-gnu",
        }
        self._attempts: dict[str, int] = {}
        node.exec(["mkdir", "-p", RUN])
        (folder / "config.toml").write_text(CONFIG)
        self.start()
        self.import_image(pause_image(folder))

    def import_image(self, archive: Path) -> None:
        """Take an image out of an archive as `docker save` writes it."""
        self._run(["ctr", "-a", f"{RUN}/containerd.sock", "-n", "k8s.io", "images", "import", str(archive)])

    def start(self) -> None:
        self._log = open(self._folder / "containerd.log", "ab")  # noqa: SIM115  closed in `stop`
        self.process = self.node.popen(
            ["containerd", "-c", str(self._folder / "config.toml")],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=self._log.fileno(),
            stderr=self._log.fileno(),
        )
        deadline = time.monotonic() + READY_WITHIN_S
        while self.cri("version", check=False).returncode != 0:
            assert time.monotonic() < deadline, f"containerd does not answer; see {self._log.name}"
            time.sleep(0.2)

    def stop(self) -> None:
        """End containerd; the pods live on, as they do through an upgrade."""
        self.process.terminate()
        self.process.wait(20)
        self._log.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def end_with(self, disaster: Callable[[], Any]) -> None:
        """Let something end the whole node, containerd too; its disk is left, not its state folder. Start again."""
        disaster()
        self.process.wait(20)
        self._log.close()
        self.node.exec(["sh", "-c", f"findmnt -rno TARGET | grep ^{RUN}/state | xargs -r umount; rm -rf {RUN}/state"])
        self.start()

    def run_pod(self, name: str) -> str:
        """Create a sandbox of the pod, the next one of that name; return its id."""
        self._attempts[name] = self._attempts.get(name, 0) + 1
        metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "attempt": self._attempts[name]}
        file = self._folder / f"{name}.json"
        file.write_text(json.dumps({"metadata": metadata, "log_directory": "/tmp", "linux": {}}))
        return str(self.cri("runp", str(file)).stdout).strip()

    def stop_pod(self, sandbox: str) -> None:
        self.cri("stopp", sandbox)

    def remove_pod(self, sandbox: str) -> None:
        self.cri("rmp", "-f", sandbox)

    def remove_all(self) -> None:
        self.cri("rmp", "-f", "-a", check=False)

    def inspect(self, sandbox: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cri("inspectp", sandbox).stdout)
        return found

    def address(self, sandbox: str) -> str:
        return str(self.inspect(sandbox)["status"]["network"]["ip"])

    def in_pod(self, sandbox: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the machine in the sandbox's network namespace."""
        namespaces = self.inspect(sandbox)["info"]["runtimeSpec"]["linux"]["namespaces"]
        [path] = [one["path"] for one in namespaces if one["type"] == "network"]
        return self.node.exec(["nsenter", f"--net={path}", *argv], check=False)

    def cri(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Ask through crictl."""
        return self._run(
            [str(self._crictl), "-r", f"unix://{RUN}/containerd.sock", "-t", "40s", *arguments], check=check
        )

    def _run(self, argv: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        program = self.node.popen(argv, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, error = program.communicate(timeout=60)
        assert not check or program.returncode == 0, f"{' '.join(argv[-3:])}: {error[-1500:]}"
        return subprocess.CompletedProcess(argv, program.returncode, out, error)
