"""Where the API is, who we are, and TLS with both."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from vpccni.shared.kube import KubeRefused
from vpccni.shared.kube.access import Access, find_access
from vpccni.shared.kube.transport import Transport


def test_kubeconfig_as_yaml_or_json_names_server_and_user(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        """
        current-context: c
        contexts: [{name: c, context: {cluster: k, user: u}}]
        clusters:
        - name: k
          cluster: {server: "https://api:6443", certificate-authority: pki/ca.crt, tls-server-name: kubernetes}
        users:
        - name: u
          user: {token: secret}
        """
    )
    access = find_access(
        {"KUBECONFIG": str(config), "KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    )
    assert (access.server, access.ca_file, access.server_name) == (
        "https://api:6443", str(tmp_path / "pki/ca.crt"), "kubernetes",
    )  # fmt: skip
    assert access.authorization() == "Bearer secret"


def test_a_pod_finds_the_api_by_its_environment_and_service_account(tmp_path: Path) -> None:
    raw = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = find_access(raw, service_account=tmp_path)
    assert (access.server, access.ca_file) == ("https://[fd00::1]:443", str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("one\n")
    assert access.authorization() == "Bearer one"
    (tmp_path / "token").write_text("two\n")
    assert access.authorization() == "Bearer two"
    (tmp_path / "token").unlink()
    with pytest.raises(KubeRefused, match="token"):
        access.authorization()


@pytest.mark.parametrize(
    ("endpoint", "server"),
    [("https://x.eks:443", "https://x.eks:443"), ("x.eks", "https://x.eks"), ("", "https://10.0.0.1:443")],
)
def test_cluster_endpoint_replaces_the_server(endpoint: str, server: str) -> None:
    raw = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "CLUSTER_ENDPOINT": endpoint}
    assert find_access(raw).server == server


@pytest.mark.parametrize(
    "text",
    ["", "[", "a: b", '{"current-context": "x", "contexts": []}', "\x00",
     '{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],'
     '"clusters":[{"name":"c","cluster":{"server":"s"}}],"users":[{"name":"u","user":{"exec":{}}}]}'],
)  # fmt: skip
def test_a_kubeconfig_that_cannot_be_used_says_so(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    with pytest.raises(KubeRefused, match="cannot be used"):
        find_access({"KUBECONFIG": str(config)})


def test_a_kubeconfig_that_is_not_there_and_no_configuration_at_all_say_so(tmp_path: Path) -> None:
    with pytest.raises(KubeRefused, match="cannot be used"):
        find_access({"KUBECONFIG": str(tmp_path / "none")})
    with pytest.raises(KubeRefused, match="KUBERNETES_SERVICE_HOST"):
        find_access({})


# -- TLS


class Tls:
    """An HTTPS server that wants a client certificate when it is given; it answers with what it saw."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-keyout", str(self.key), "-out", str(self.cert), "-subj", "/CN=kubernetes",
             "-addext", "subjectAltName=DNS:kubernetes,IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        context.load_verify_locations(self.cert)
        context.verify_mode = ssl.CERT_OPTIONAL

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                peer = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
                seen = {
                    "authorization": self.headers.get("Authorization"),
                    "agent": self.headers["User-Agent"],
                    "certificate": bool(peer),
                }
                body = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Quiet(HTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that refuses our certificate is part of the tests."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Tls]:
    server = Tls(tmp_path)
    yield server
    server.close()


def ask(access: Access) -> Any:
    transport = Transport(access, user_agent="eni_manager-v1")
    try:
        return json.loads(transport.ask("GET", "/", {}, timeout_s=3.0).body)
    finally:
        transport.close()


def test_the_token_goes_only_to_a_server_with_the_right_certificate(tls: Tls) -> None:
    seen = ask(Access(server=tls.url, ca_file=str(tls.cert), token="secret"))
    assert seen == {"authorization": "Bearer secret", "agent": "eni_manager-v1", "certificate": False}
    with pytest.raises(KubeRefused, match="does not answer"):
        ask(Access(server=tls.url, token="secret"))
    with pytest.raises(KubeRefused, match="does not answer"):
        ask(Access(server=tls.url, ca_file=str(tls.cert), server_name="another", token="secret"))


def test_certificates_may_stand_in_the_kubeconfig_itself(tls: Tls) -> None:
    data = {"ca_data": tls.cert.read_bytes(), "cert_data": tls.cert.read_bytes(), "key_data": tls.key.read_bytes()}
    assert ask(Access(server=tls.url, **data))["certificate"] is True  # type: ignore[arg-type]  # bytes for these three


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_an_unverified_server_is_asked_only_when_the_kubeconfig_says_so(tls: Tls) -> None:
    assert ask(Access(server=tls.url, verify=False))["authorization"] is None
