"""The SNAT chain of a pod's egress address: its name, its rules, and a keeper that adds and removes many in one transaction.

A chain is the reference's to the letter, named after the container, so that it can be removed by the container's id alone
(spec dataplane.md 3, 12, 13.6). Starting an iptables program costs milliseconds, so what comes while one runs goes with the next:
one process a pod at most, far fewer in a burst.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vpccni.components.netlink_programmer import egress_nft, iptables
from vpccni.components.netlink_programmer.facts import IPV6, family_of, host_prefix
from vpccni.components.netlink_programmer.firewall import Backend
from vpccni.shared.errors import KernelRefused
from vpccni.shared.loop import Future, Loop

CHAIN_LENGTH: Final = 28
CHAIN_HEADS: Final = ("CNI-E4-", "CNI-E6-")
TOGETHER_AT_MOST: Final = 64
RANDOMLY: Final = {"none": "", "hashrandom": " --random"}
RANDOMLY_ELSE: Final = " --random-fully"


@dataclass(frozen=True)
class EgressChain:
    """One pod's chain: packets from `address` leave as `node_address`."""

    network: str
    container_id: str
    address: str
    node_address: str = ""
    randomize: str = "prng"

    @property
    def is_ipv6(self) -> bool:
        """Whether it stands in the tables of IPv6."""
        return family_of(self.address) == IPV6

    @property
    def name(self) -> str:
        """The chain's name."""
        digest = hashlib.sha512(f"{self.network}{self.container_id}".encode()).hexdigest()
        return f"{CHAIN_HEADS[self.is_ipv6]}{digest}"[:CHAIN_LENGTH]

    @property
    def jump(self) -> str:
        """The rule that leads to it, as `iptables-save` prints it."""
        return f"-A POSTROUTING -s {host_prefix(self.address)} {self._comment} -j {self.name}"

    @property
    def rules(self) -> tuple[str, ...]:
        """The chain's own rules, in order."""
        multicast = "ff00::/8" if self.is_ipv6 else "224.0.0.0/4"
        randomly = RANDOMLY.get(self.randomize, RANDOMLY_ELSE)
        return (
            f"-A {self.name} -d {multicast} {self._comment} -j ACCEPT",
            f"-A {self.name} {self._comment} -j SNAT --to-source {self.node_address}{randomly}",
        )

    @property
    def _comment(self) -> str:
        return f'-m comment --comment "name: \\"{self.network}\\" id: \\"{self.container_id}\\""'


def adding(chain: EgressChain) -> list[str]:
    """Return the lines of a transaction that makes a chain nobody has made yet."""
    return [f":{chain.name} - [0:0]", *chain.rules, chain.jump]


def removing(chain: EgressChain) -> list[str]:
    """Return the lines of a transaction that removes a chain that is whole."""
    return ["-D" + chain.jump[2:], f":{chain.name} - [0:0]", f"-X {chain.name}"]


def removing_what_is_there(name: str, saved: str) -> list[str]:
    """Return the lines that remove whatever `iptables-save` shows of a chain: none when it shows nothing."""
    lines = [line.strip() for line in saved.splitlines()]
    jumps = ["-D" + line[2:] for line in lines if line.startswith("-A ") and line.endswith(f" -j {name}")]
    there = any(line.startswith(f":{name} ") for line in lines)
    return [*jumps, f":{name} - [0:0]", f"-X {name}"] if there else jumps


def is_whole(chain: EgressChain, saved: str) -> bool:
    """Tell whether a chain and the jump to it stand as they should, whatever address of the node it names."""
    lines = {line.strip() for line in saved.splitlines()}
    target = f"-A {chain.name} {chain._comment} -j SNAT --to-source "
    return chain.jump in lines and any(line.startswith(target) for line in lines)


class ChainKeeper:
    """Adds and removes chains in the node's nat tables. `backend()`: the one the node uses."""

    def __init__(self, loop: Loop, backend: Callable[[], Backend]) -> None:
        self._loop, self._backend = loop, backend
        self._may_be_in_nft = True  # an image without iptables may have run before this one
        self._waiting: dict[bool, list[tuple[list[str], Future[None]]]] = {False: [], True: []}
        self._running = {False: False, True: False}

    def add(self, chain: EgressChain) -> Future[None]:
        """Make a chain that is not there; done when it is in force. Raises `KernelRefused`."""
        if self._backend() is Backend.NFT and not iptables.has_programs(Backend.NFT):
            self._may_be_in_nft = True
            return self._loop.in_thread(egress_nft.add, chain.address, chain.node_address, chain.randomize)
        return self._queue(adding(chain), ipv6=chain.is_ipv6)

    async def remove(self, chain: EgressChain) -> None:
        """Remove a chain and what leads to it; nothing there is success. Raises `KernelRefused`."""
        if self._may_be_in_nft:
            await self._loop.in_thread(egress_nft.remove, chain.address)
        if not iptables.has_programs(self._backend()):
            return
        try:
            await self._queue(removing(chain), ipv6=chain.is_ipv6)
        except KernelRefused:
            await self._loop.in_thread(_remove_what_is_there, chain)

    async def is_whole(self, chain: EgressChain) -> bool:
        """Tell whether a chain is in force. Raises `KernelRefused`."""
        backend = self._backend()
        if not iptables.has_programs(backend):
            return await self._loop.in_thread(egress_nft.is_there, chain.address)
        saved = await self._loop.in_thread(lambda: iptables.save("nat", backend=backend, ipv6=chain.is_ipv6))
        return is_whole(chain, saved)

    def _queue(self, lines: list[str], *, ipv6: bool) -> Future[None]:
        done = Future[None]()
        self._waiting[ipv6].append((lines, done))
        if not self._running[ipv6]:
            self._running[ipv6] = True
            self._loop.spawn(self._work(ipv6=ipv6), name="egress chains")
        return done

    async def _work(self, *, ipv6: bool) -> None:
        try:
            while batch := self._waiting[ipv6][:TOGETHER_AT_MOST]:
                del self._waiting[ipv6][:TOGETHER_AT_MOST]
                await self._carry_out(batch, ipv6=ipv6)
        finally:
            self._running[ipv6] = False

    async def _carry_out(self, batch: list[tuple[list[str], Future[None]]], *, ipv6: bool) -> None:
        """One transaction for all; when it is refused, one for each, so that one pod's trouble is its own."""
        try:
            await self._restore([line for lines, _ in batch for line in lines], ipv6=ipv6)
        except KernelRefused as error:
            if len(batch) == 1:
                batch[0][1].fail(error)
                return
            for one in batch:
                await self._carry_out([one], ipv6=ipv6)
            return
        for _, done in batch:
            done.set(None)

    async def _restore(self, lines: list[str], *, ipv6: bool) -> None:
        backend, text = self._backend(), _transaction(lines)
        await self._loop.in_thread(lambda: iptables.restore(text, backend=backend, ipv6=ipv6))


def _transaction(lines: list[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])


def _remove_what_is_there(chain: EgressChain) -> None:
    """In both back-ends: the reference's plugin used the host's programs, whatever these were (spec dataplane.md 18.23)."""
    for backend in Backend:
        if iptables.has_programs(backend) and "nat" in iptables.tables_there(backend, ipv6=chain.is_ipv6):
            saved = iptables.save("nat", backend=backend, ipv6=chain.is_ipv6)
            if lines := removing_what_is_there(chain.name, saved):
                iptables.restore(_transaction(lines), backend=backend, ipv6=chain.is_ipv6)
