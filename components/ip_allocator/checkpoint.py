"""The checkpoint: the reference's public file, rewritten whole, fsynced and renamed before any answer (spec ipam.md 26).

Beyond `LOG_FROM` holdings a whole file takes milliseconds: then each change is a line appended to a log beside it, fsynced before the
answer, and the file is rewritten when the log is long, in the next quiet moment and at the end (`fold`). The log names the file it
continues, so a crash between the two never replays a line twice.

With several network cards there is a file a card, `ipam-nic-<n>.json` for the cards above 0 (public format too). They are written first;
the file of card 0 carries the commit, and under our own key a copy of all that the others say: so a crash between two files changes
nothing. The others are read only beside a file of card 0 that another implementation wrote.

Our own facts (place of an address, cool-downs, fences, boot id) are extra keys under `vpccni`, which the reference ignores. A file
that cannot be read is kept aside under another name, never deleted and never fatal.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vpccni.components.ip_allocator.changelog import ChangeLog
from vpccni.components.ip_allocator.ledger import NOTHING, Change, Holding, Ledger
from vpccni.shared.clock import BootClock
from vpccni.shared.effects import effect
from vpccni.shared.errors import CheckpointFailed
from vpccni.shared.files import replace_file
from vpccni.shared.messages.base import PodRef, Sandbox

FORMAT: Final = "vpc-cni-ipam/1"
OWN_KEY: Final = "vpccni"
FILE_MODE: Final = 0o600
CARD_MARK: Final = "-nic-"
_HEAD: Final = f'{{"version":"{FORMAT}","allocations":['.encode()
LOG_FROM: Final = 250
"""Holdings: a node with fewer, and that is nearly every node of today, never has a log."""
ENCODED_KEPT: Final = 2 * LOG_FROM
"""Elements of the file in memory, so that a save encodes only what is new."""
LOG_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """What a start finds. `ledger` None: no file, or an unreadable one (`trouble` says what was wrong and where it is now)."""

    ledger: Ledger | None
    trouble: str = ""


class Checkpoint:
    """The file at `path`; `boot_id` tells a reboot (no sandbox survives one), `clock` is CLOCK_BOOTTIME."""

    def __init__(self, path: Path, *, boot_id: str, clock: BootClock) -> None:
        self.path = path
        self._boot_id = boot_id
        self._clock = clock
        self._log = ChangeLog(path.with_name(f"{path.name}.log"))
        self._generation = ""
        self._encoded: dict[int, tuple[Holding, bytes]] = {}
        self._card_files: dict[int, bytes] = {}
        """What the files of the cards above 0 say; empty: they are there, of an earlier process."""

    def load(self) -> Loaded:
        """Return the ledger of the file. Leftover temporary files are removed. Raises OSError when the folder cannot be used."""
        for leftover in self.path.parent.glob(f"{self.path.stem}*{self.path.suffix}.tmp*"):
            leftover.unlink(missing_ok=True)
        head = self.card_path(0).stem + CARD_MARK
        cards = (path.stem.removeprefix(head) for path in self.path.parent.glob(f"{head}*{self.path.suffix}"))
        self._card_files = {int(card): b"" for card in cards if card.isdigit()}
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Loaded(None)
        except UnicodeDecodeError as error:
            return Loaded(None, self._keep_aside(self.path, f"not text: {error.reason}"))
        try:
            document = json.loads(text)
            ledger = self._parse(document)
            for line in self._log.read(document.get(OWN_KEY, {}).get("generation", "")):
                ledger.apply(decode_change(line, ledger))
            return Loaded(ledger)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Loaded(None, self._keep_aside(self.path, f"{type(error).__name__}: {error}"))

    def save(self, ledger: Ledger, change: Change = NOTHING) -> None:
        """Make the ledger, to which `change` led, durable before it returns; raises `CheckpointFailed` and leaves the old state then."""
        log = bool(change) and len(ledger.held) >= LOG_FROM and self._generation and self._log.size < LOG_BYTES_MAX
        try:
            if log:
                self._log.append(self._generation, _dump(_encode_change(change)))
            else:
                self._write(ledger)
        except OSError as error:
            raise CheckpointFailed(
                "the ledger cannot be saved, so nothing is given out",
                on=str(self.path),
                why=error.strerror or str(error),
                remedy="Free space on, or repair, the file system of the run folder",
            ) from error

    def fold(self, ledger: Ledger) -> None:
        """Bring the public file up to date if changes stand in the log; raises `CheckpointFailed`."""
        if self._log.size:
            self.save(ledger)

    def card_path(self, card: int) -> Path:
        """Return the file of a network card (spec ipam.md 26)."""
        return self.path.with_name(f"{self.path.stem}{CARD_MARK}{card}{self.path.suffix}") if card else self.path

    def _write(self, ledger: Ledger) -> None:
        generation = uuid.uuid4().hex[:16]
        by_card = self._elements(ledger)
        for card in sorted({*by_card, *self._card_files} - {0}):
            text = _HEAD + b",".join(by_card.get(card, ())) + b"]}\n"
            if text != self._card_files.get(card):
                replace_file(self.card_path(card), text, mode=FILE_MODE, owner="checkpoint_card")
                self._card_files[card] = text
        replace_file(self.path, self._document(ledger, by_card, generation), mode=FILE_MODE, owner="checkpoint")
        self._generation = generation
        self._log.drop()

    def _elements(self, ledger: Ledger) -> dict[int, list[bytes]]:
        by_card: dict[int, list[bytes]] = {}
        for holdings in ledger.held.values():
            for holding in holdings:
                by_card.setdefault(holding.card, []).append(self._element(holding, len(holdings)))
        return by_card

    def _document(self, ledger: Ledger, by_card: Mapping[int, list[bytes]], generation: str) -> bytes:
        own = {
            "generation": generation,
            "bootID": self._boot_id,
            "released": ledger.released_at,
            "fencedAddresses": sorted(ledger.fenced),
            "fencedENIs": sorted(ledger.fenced_enis),
        }
        others = b",".join(b",".join(elements) for card, elements in sorted(by_card.items()) if card)
        own_text = _dump(own)[:-1] + b',"otherCards":[' + others + b"]}"
        return _HEAD + b",".join(by_card.get(0, ())) + b'],"' + OWN_KEY.encode() + b'":' + own_text + b"}\n"

    def _element(self, holding: Holding, interfaces: int) -> bytes:
        """Return a holding as text. It is remembered by identity: a hash of each would cost as much as the file."""
        known = self._encoded.get(id(holding))
        if known is None:
            if len(self._encoded) >= ENCODED_KEPT:
                self._encoded.clear()
            self._encoded[id(holding)] = known = (holding, encode_holding(holding, interfaces))
        return known[1]

    def _parse(self, document: Any) -> Ledger:
        if document["version"] != FORMAT:
            raise ValueError(f"version {document['version']!r} is not {FORMAT}")
        own = document.get(OWN_KEY, {})
        if own and own["bootID"] != self._boot_id:
            return Ledger(fenced=own["fencedAddresses"], fenced_enis=own["fencedENIs"])
        others = own.get("otherCards", []) if own else self._of_other_cards()
        held: dict[tuple[Sandbox, int], Holding] = {}
        for entry in (*document["allocations"], *others):
            holding = _holding(entry)
            if holding is not None:
                held[holding.sandbox, holding.card] = holding
        if len({holding.address for holding in held.values()}) != len(held):
            raise ValueError("one address stands in it twice")
        return Ledger(
            held.values(),
            {str(address): float(at) for address, at in own.get("released", {}).items()},
            own.get("fencedAddresses", ()),
            own.get("fencedENIs", ()),
        )

    def _of_other_cards(self) -> list[dict[str, Any]]:
        """Return what another implementation wrote into the files of the cards above 0, each entry with its card."""
        found: list[dict[str, Any]] = []
        for card in sorted(self._card_files):
            path = self.card_path(card)
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                if document["version"] != FORMAT:
                    raise ValueError(f"version {document['version']!r} is not {FORMAT}")
                found += [{**entry, OWN_KEY: {"card": card}} for entry in document["allocations"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(self._keep_aside(path, f"{path.name}: {type(error).__name__}: {error}")) from error
        return found

    def _keep_aside(self, path: Path, why: str) -> str:
        aside = path.with_name(f"{path.name}.unreadable-{int(self._clock() * 1000)}")
        with effect("checkpoint.keep_aside"):
            os.rename(path, aside)
        return f"{why}; the file is kept as {aside}"


def encode_holding(holding: Holding, interfaces: int) -> bytes:
    """Return one element of `allocations`. `interfaces`: how many addresses the sandbox holds in all."""
    metadata = {"k8sPodNamespace": holding.pod.namespace, "k8sPodName": holding.pod.name, "interfacesCount": interfaces}
    return _dump(
        {
            "networkName": holding.sandbox.network,
            "containerID": holding.sandbox.container_id,
            "ifName": holding.sandbox.ifname,
            "ipv6" if ":" in holding.address else "ipv4": holding.address,
            "allocationTimestamp": holding.assigned_at_ns,
            "metadata": {name: value for name, value in metadata.items() if value},
            OWN_KEY: {
                "eniID": holding.eni_id,
                "card": holding.card,
                "device": holding.device_number,
                "table": holding.route_table,
                "podUID": holding.pod.uid,
            },
        }
    )


def _holding(entry: Mapping[str, Any]) -> Holding | None:
    """Return an entry as a holding; None for one without an address."""
    address = entry.get("ipv4") or entry.get("ipv6", "")
    if not address:
        return None
    metadata, own = entry.get("metadata", {}), entry.get(OWN_KEY, {})
    return Holding(
        Sandbox(str(entry["containerID"]), str(entry["ifName"]), str(entry["networkName"])),
        PodRef(
            str(metadata.get("k8sPodNamespace", "")), str(metadata.get("k8sPodName", "")), str(own.get("podUID", ""))
        ),
        str(address),
        str(own.get("eniID", "")),
        int(own.get("card", 0)),
        int(own.get("device", 0)),
        int(own.get("table", 0)),
        int(entry.get("allocationTimestamp", 0)),
    )


def _encode_change(change: Change) -> dict[str, object]:
    interfaces, gone = Counter(one.sandbox for one in change.hold), (one.sandbox for one in change.let_go)
    return {
        "hold": [json.loads(encode_holding(holding, interfaces[holding.sandbox])) for holding in change.hold],
        "letGo": [[box.container_id, box.ifname, box.network] for box in dict.fromkeys(gone)],
        "rest": dict(change.rest),
        "rested": list(change.rested),
        "fence": sorted(change.fence),
        "unfence": sorted(change.unfence),
        "fenceENIs": sorted(change.fence_enis),
        "unfenceENIs": sorted(change.unfence_enis),
    }


def decode_change(line: bytes, ledger: Ledger) -> Change:
    """Return the change of a log line; `ledger` is the state before it. Raises KeyError, TypeError or ValueError for junk."""
    entry = json.loads(line)
    return Change(
        hold=tuple(holding for item in entry["hold"] if (holding := _holding(item)) is not None),
        let_go=tuple(holding for names in entry["letGo"] for holding in ledger.held[Sandbox(*names)]),
        rest={str(address): float(at) for address, at in entry["rest"].items()},
        rested=tuple(entry["rested"]),
        fence=frozenset(entry["fence"]),
        unfence=frozenset(entry["unfence"]),
        fence_enis=frozenset(entry["fenceENIs"]),
        unfence_enis=frozenset(entry["unfenceENIs"]),
    )


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
