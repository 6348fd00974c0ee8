"""The metadata adapter against a real HTTP server that behaves well or badly."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vpccni.components.eni_manager.imds import Imds
from vpccni.shared.errors import CloudRefused

MAC = "02:00:00:00:00:00"
ODD = "02:00:00:00:00:01"
PATHS = {
    "/latest/meta-data/mac": MAC,
    "/latest/meta-data/instance-id": "i-1",
    "/latest/meta-data/instance-type": "m5.large",
    "/latest/meta-data/placement/availability-zone": "eu-west-1a",
    "/latest/meta-data/local-ipv4": "10.0.0.4",
    "/latest/dynamic/instance-identity/document": '{"region": "eu-west-1"}',
    "/latest/meta-data/network/interfaces/macs": f"{MAC}/\n{ODD}/",
    **{
        f"/latest/meta-data/network/interfaces/macs/{MAC}/{name}": value
        for name, value in {
            "": "interface-id\ndevice-number\nlocal-ipv4s\nsubnet-id\nsubnet-ipv4-cidr-block",
            "interface-id": "eni-0",
            "device-number": "7",
            "subnet-id": "subnet-1",
            "vpc-id": "vpc-1",
            "subnet-ipv4-cidr-block": "10.0.0.0/24",
            "local-ipv4s": "10.0.0.4\n10.0.0.9",
            "vpc-ipv4-cidr-blocks": "10.0.0.0/16\n100.64.0.0/16",
            "security-group-ids": "sg-2\nsg-1",
        }.items()
    },
    f"/latest/meta-data/network/interfaces/macs/{ODD}/": "interface-id\nlocal-ipv4s",
    f"/latest/meta-data/network/interfaces/macs/{ODD}/interface-id": "eni-1",
}


class Server:
    """What the tests change: the status of the token, the statuses to answer first, what was asked."""

    def __init__(self) -> None:
        self.token_status = 200
        self.tokens = 0
        self.valid = "token-0"
        self.failures: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""

    def answer(self, path: str, token: str | None) -> tuple[int, str]:
        self.asked.append((path, token))
        if self.failures:
            return self.failures.pop(0), ""
        if self.token_status == 200 and token != self.valid:
            return 401, ""
        return (200, PATHS[path]) if path in PATHS else (404, "")


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            server.tokens += 1
            server.valid = f"token-{server.tokens}"
            self._send(server.token_status, server.valid)

        def do_GET(self) -> None:
            self._send(*server.answer(self.path, self.headers.get("X-aws-ec2-metadata-token")))

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler(told))
    http.daemon_threads = True
    told.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield told
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def make(server: Server) -> Iterator[Callable[..., Imds]]:
    made: list[Imds] = []

    def make_one(**options: bool) -> Imds:
        made.append(Imds(server.url, **options))  # type: ignore[arg-type]  # only v1_allowed
        return made[-1]

    yield make_one
    for one in made:
        one.close()


def test_the_instance_is_read_with_one_token(server: Server, make: Callable[..., Imds]) -> None:
    facts = make().instance()
    assert (facts.instance_id, facts.region, facts.primary_eni, facts.vpc_id) == ("i-1", "eu-west-1", "eni-0", "vpc-1")
    assert server.tokens == 1
    assert {token for _, token in server.asked} == {"token-1"}


@pytest.mark.spec("ipam.W27")
def test_an_odd_eni_comes_back_with_its_problem_and_the_primary_is_device_0(make: Callable[..., Imds]) -> None:
    good, odd = make().enis()
    assert (good.eni_id, good.device_number, good.addresses) == ("eni-0", 0, ("10.0.0.4", "10.0.0.9"))
    assert good.problem == ""
    assert odd.eni_id == "eni-1"
    assert "device-number" in odd.problem


def test_lists_are_split_and_groups_sorted(make: Callable[..., Imds]) -> None:
    imds = make()
    assert imds.vpc_cidrs(MAC) == ["10.0.0.0/16", "100.64.0.0/16"]
    assert imds.security_groups(MAC) == ["sg-1", "sg-2"]


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_refused_token_falls_back_to_version_1_unless_forbidden(
    server: Server, make: Callable[..., Imds], status: int
) -> None:
    server.token_status = status
    assert make().vpc_cidrs(MAC)
    assert {token for _, token in server.asked} == {None}
    with pytest.raises(CloudRefused, match="cannot be reached"):
        make(v1_allowed=False).vpc_cidrs(MAC)


def test_an_expired_token_is_renewed(server: Server, make: Callable[..., Imds]) -> None:
    imds = make()
    imds.vpc_cidrs(MAC)
    server.valid = "another"
    assert imds.vpc_cidrs(MAC)
    assert server.tokens == 2


def test_a_passing_error_is_tried_again_and_a_lasting_one_named(server: Server, make: Callable[..., Imds]) -> None:
    imds = make()
    server.failures = [500, 503]
    assert imds.vpc_cidrs(MAC)
    server.failures = [500, 500, 500]
    with pytest.raises(CloudRefused) as refused:
        imds.vpc_cidrs(MAC)
    assert (refused.value.api, refused.value.error_code) == ("GetVPCIPv4CIDRBlocks", "500")


def test_nobody_there_is_told_with_what_to_check() -> None:
    heard: list[str] = []
    imds = Imds("http://127.0.0.1:1", on_error=heard.append)
    with pytest.raises(CloudRefused, match="Check that the instance allows metadata"):
        imds.instance()
    assert heard == ["GetMAC"]
