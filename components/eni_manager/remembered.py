"""What this instance's ENIs were when EC2 last told, on disk: so that a start while EC2 is slow, away or refusing still serves pods.

Metadata alone does not tell an ENI's kind and tags, and it lags: an address given back a moment ago is still listed. So what is
remembered serves only where metadata shows it too; the rest waits, unconfirmed, for EC2 (spec ipam.md W2, W35). A file that cannot be
read, or is another instance's, is as good as none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from vpccni.components.eni_manager.facts import CloudEni, MetadataEni
from vpccni.components.eni_manager.inventory import HeldEni, Rules, held_eni
from vpccni.shared.files import replace_file
from vpccni.shared.names import EniId, SubnetId

VERSION: Final = 1


class _File(msgspec.Struct, frozen=True):
    version: int
    instance_id: str
    enis: list[CloudEni]
    cidrs: dict[str, str]
    excluded: list[str]


class Remembered:
    """The file; the loop's thread alone uses it. `excluded`: subnets that were kept from pods."""

    def __init__(self, path: Path, instance_id: str) -> None:
        self._path, self._instance_id = path, instance_id
        self._saved: _File | None = None
        self.enis: list[CloudEni] = []
        self.cidrs: dict[str, str] = {}
        self.excluded: frozenset[SubnetId] = frozenset()

    def load(self) -> None:
        """Read the file, if it is there, whole and of this instance."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.MsgspecError, ValueError):
            return
        if (found.version, found.instance_id) == (VERSION, self._instance_id):
            self.enis, self.cidrs = found.enis, found.cidrs
            self.excluded = frozenset(SubnetId(name) for name in found.excluded)

    def save(self, enis: Iterable[HeldEni], excluded: Iterable[SubnetId]) -> None:
        """Write down what EC2 confirmed, unless that is on disk already. Raises OSError."""
        confirmed = [eni for eni in enis if eni.doubted_since is None]
        fresh = _File(
            version=VERSION,
            instance_id=self._instance_id,
            enis=[eni.cloud for eni in confirmed],
            cidrs={eni.cloud.subnet_id: eni.subnet_cidr for eni in confirmed},
            excluded=sorted(excluded),
        )
        if fresh != self._saved:
            replace_file(self._path, msgspec.json.encode(fresh), mode=0o644, owner="remembered")
            self._saved = fresh


def vouched(
    rules: Rules, remembered: Iterable[CloudEni], listed: Iterable[MetadataEni], cidrs: dict[str, str], *, now: float
) -> dict[EniId, HeldEni]:
    """Return the remembered ENIs; confirmed are those that metadata shows with everything they are remembered to hold."""
    shown = {eni.eni_id: eni for eni in listed if not eni.problem}
    held = {}
    for cloud in remembered:
        metadata = shown.get(cloud.eni_id)
        eni = held_eni(rules, cloud, metadata, subnet_cidr=cidrs.get(cloud.subnet_id, ""), now=now)
        items = {*metadata.addresses, *metadata.prefixes} if metadata else set()
        complete = {cloud.primary_address, *cloud.addresses, *cloud.prefixes} - {""} <= items
        held[cloud.eni_id] = eni if complete else replace(eni, doubted_since=now)
    return held


def from_metadata(listed: Iterable[MetadataEni], known: Iterable[CloudEni], rules: Rules) -> list[CloudEni]:
    """Return the ENIs as metadata alone shows them (ENABLE_IMDS_ONLY_MODE): kinds and tags only as far as they are `known`.

    An ENI without any IPv4 address is taken for an efa-only one; one with addresses and no known tags for ours.
    """
    before = {eni.eni_id: eni for eni in known}
    return [_as_cloud(eni, before.get(eni.eni_id), rules) for eni in listed if eni.eni_id and not eni.problem]


def _as_cloud(eni: MetadataEni, known: CloudEni | None, rules: Rules) -> CloudEni:
    instance_id = rules.instance.instance_id
    kind = known.interface_type if known else "interface" if eni.addresses else "efa-only"
    return CloudEni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        status="in-use",
        interface_type=kind,
        subnet_id=eni.subnet_id or SubnetId(""),
        primary_address=eni.addresses[0] if eni.addresses else "",
        addresses=eni.addresses[1:],
        prefixes=eni.prefixes,
        tags=known.tags if known else rules.own_tags(),
        groups=known.groups if known else (),
        instance_id=instance_id,
        attachment_status="attached",
        card=eni.card,
        device_number=eni.device_number,
        delete_on_termination=True,
    )
