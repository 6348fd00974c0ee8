"""Network limits of each instance type, read from the EC2 data that moto ships."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class CardLimits:
    """One network card: its index and how many ENIs it takes."""

    index: int
    max_enis: int


@dataclass(frozen=True)
class TypeLimits:
    """What EC2 allows an instance of this type; `described` is EC2's own document."""

    name: str
    max_enis: int
    ipv4_per_eni: int
    ipv6_per_eni: int
    cards: tuple[CardLimits, ...]
    nitro: bool
    described: dict[str, Any]

    def card(self, index: int) -> CardLimits | None:
        """Return the card of this index, None if the type has no such card."""
        return next((card for card in self.cards if card.index == index), None)

    @property
    def max_pods(self) -> int:
        """The published `eni-max-pods` value: ENIs of the default card x (addresses - 1) + 2."""
        return self.cards[0].max_enis * (self.ipv4_per_eni - 1) + 2


@cache
def _documents() -> dict[str, dict[str, Any]]:
    packed = files("moto.ec2").joinpath("resources/instance_types.json.gz").read_bytes()
    documents: dict[str, dict[str, Any]] = json.loads(gzip.decompress(packed))
    return documents


@cache
def limits_of(instance_type: str) -> TypeLimits:
    """Return the limits of a type. Raises LookupError for a type that the data does not know."""
    document = _documents().get(instance_type)
    if document is None:
        raise LookupError(f"instance type {instance_type} is not in the published EC2 data")
    network = document["NetworkInfo"]
    cards = tuple(CardLimits(c["NetworkCardIndex"], c["MaximumNetworkInterfaces"]) for c in network["NetworkCards"])
    return TypeLimits(
        name=instance_type,
        max_enis=network["MaximumNetworkInterfaces"],
        ipv4_per_eni=network["Ipv4AddressesPerInterface"],
        ipv6_per_eni=network.get("Ipv6AddressesPerInterface", 0),
        cards=cards or (CardLimits(0, network["MaximumNetworkInterfaces"]),),
        nitro=document.get("Hypervisor") == "nitro" or bool(document.get("BareMetal")),
        described=document,
    )
