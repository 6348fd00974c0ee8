"""The ENI model: limits, exhaustion, tokens, and the invariant under random calls."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.lab.ec2_model import Ec2Model
from vpccni.lab.ec2_objects import NewEni, Refused, Subnet
from vpccni.lab.instance_types import limits_of

BLOCKS = IPv6Network("fd00::/56").subnets(new_prefix=64)
BIG = Subnet(id="subnet-big", cidr=IPv4Network("10.0.0.0/24"), cidr_v6=next(BLOCKS), zone="z1", tags={})
TINY = Subnet(id="subnet-tiny", cidr=IPv4Network("10.0.1.0/28"), cidr_v6=next(BLOCKS), zone="z1", tags={})
AWAY = Subnet(id="subnet-away", cidr=IPv4Network("10.0.2.0/24"), cidr_v6=next(BLOCKS), zone="z2", tags={})


def model_with_node() -> tuple[Ec2Model, str]:
    model = Ec2Model(IPv4Network("10.0.0.0/16"), [BIG, TINY, AWAY])
    return model, model.run_instance("node-1", "m5.large", BIG.id, now=0.0).id


def assign(model: Ec2Model, eni_id: str, *, count: int = 0, prefixes: int = 0) -> list[IPv4Address]:
    return model.assign(eni_id, count=count, addresses=[], prefix_count=prefixes, prefixes=[], reassign=False)[0]


def code_of(error: pytest.ExceptionInfo[Refused]) -> str:
    return error.value.code


def test_limits_come_from_published_data() -> None:
    limits = limits_of("m5.large")
    assert (limits.max_enis, limits.ipv4_per_eni, limits.max_pods) == (3, 10, 29)
    assert [card.max_enis for card in limits_of("p4d.24xlarge").cards] == [15, 15, 15, 15]


def test_reserved_addresses_are_never_given_out_and_exhaustion_is_refused() -> None:
    model, _ = model_with_node()
    eni = model.create(NewEni(subnet_id=TINY.id, secondary_count=10), token=None)
    held = {eni.primary, *eni.secondaries}
    assert held == {TINY.cidr.network_address + offset for offset in range(4, 15)}
    with pytest.raises(Refused) as error:
        model.create(NewEni(subnet_id=TINY.id), token=None)
    assert code_of(error) == "InsufficientFreeAddressesInSubnet"


def test_a_subnet_without_a_whole_block_refuses_prefixes() -> None:
    model, _ = model_with_node()
    with pytest.raises(Refused) as error:
        model.create(NewEni(subnet_id=TINY.id, prefix_count=1), token=None)
    assert code_of(error) == "InsufficientCidrBlocks"
    assert len(model.enis) == 1


def test_an_instance_takes_only_as_many_enis_and_addresses_as_its_type_allows() -> None:
    model, instance = model_with_node()
    for device in (1, 2):
        model.attach(model.create(NewEni(subnet_id=BIG.id), token=None).id, instance, device, 0, now=0.0)
    extra = model.create(NewEni(subnet_id=BIG.id), token=None)
    with pytest.raises(Refused) as error:
        model.attach(extra.id, instance, 3, 0, now=0.0)
    assert code_of(error) == "AttachmentLimitExceeded"
    primary = model.enis_of(instance)[0]
    assert len(assign(model, primary.id, count=9)) == 9
    with pytest.raises(Refused) as error:
        assign(model, primary.id, count=1)
    assert code_of(error) == "PrivateIpAddressLimitExceeded"


def test_a_device_index_a_zone_and_an_eni_are_used_once() -> None:
    model, instance = model_with_node()
    first, second = (model.create(NewEni(subnet_id=BIG.id), token=None) for _ in range(2))
    model.attach(first.id, instance, 1, 0, now=0.0)
    for eni_id, device, code in (
        (second.id, 1, "InvalidParameterValue"),
        (first.id, 2, "InvalidNetworkInterface.InUse"),
        (model.create(NewEni(subnet_id=AWAY.id), token=None).id, 2, "InvalidParameterCombination"),
        ("eni-none", 2, "InvalidNetworkInterfaceID.NotFound"),
    ):
        with pytest.raises(Refused) as error:
            model.attach(eni_id, instance, device, 0, now=0.0)
        assert code_of(error) == code
    with pytest.raises(Refused) as error:
        model.delete(first.id)
    assert code_of(error) == "InvalidNetworkInterface.InUse"


def test_a_client_token_makes_create_repeatable_and_refuses_another_request() -> None:
    model, _ = model_with_node()
    ask = NewEni(subnet_id=BIG.id, secondary_count=2)
    assert model.create(ask, token="t").id == model.create(ask, token="t").id
    with pytest.raises(Refused) as error:
        model.create(NewEni(subnet_id=BIG.id), token="t")
    assert code_of(error) == "IdempotentParameterMismatch"


def test_attach_and_detach_take_their_time() -> None:
    model, instance = model_with_node()
    eni = model.create(NewEni(subnet_id=BIG.id), token=None)
    attachment = model.attach(eni.id, instance, 1, 0, now=10.0)
    assert not model.settle(now=10.1)
    assert model.settle(now=10.3)
    assert attachment.status == "attached"
    model.detach(attachment.id, force=False, now=20.0)
    assert (eni.status, attachment.status) == ("in-use", "detaching")
    assert model.settle(now=20.3)
    model.delete(eni.id)
    assert eni.id not in model.enis


def test_unassign_is_all_or_nothing_and_spares_the_primary() -> None:
    model, instance = model_with_node()
    primary = model.enis_of(instance)[0]
    held = assign(model, primary.id, count=2)
    for wrong in ([held[0], IPv4Address("10.0.0.250")], [primary.primary]):
        with pytest.raises(Refused) as error:
            model.unassign(primary.id, wrong, [])
        assert code_of(error) == "InvalidParameterValue"
    assert primary.secondaries == held


STEP = st.tuples(
    st.sampled_from(["create", "attach", "detach", "delete", "assign", "prefix", "unassign"]),
    st.integers(0, 7),
    st.integers(1, 9),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_every_address_is_on_one_eni_whatever_is_called(steps: list[tuple[str, int, int]]) -> None:
    model, instance = model_with_node()
    for now, (verb, which, count) in enumerate(steps):
        eni = list(model.enis.values())[which % len(model.enis)]
        before = model.snapshot()
        try:
            match verb:
                case "create":
                    model.create(NewEni(subnet_id=(BIG, TINY)[which % 2].id, secondary_count=count), token=None)
                case "attach":
                    model.attach(eni.id, instance, count, 0, now=float(now))
                case "detach":
                    model.detach(eni.attachment.id if eni.attachment else "none", force=True, now=float(now))
                case "delete":
                    model.delete(eni.id)
                case "assign":
                    assign(model, eni.id, count=count)
                case "prefix":
                    assign(model, eni.id, prefixes=1 + count % 2)
                case _:
                    model.unassign(eni.id, eni.secondaries[:count], eni.prefixes[:1])
        except Refused:
            assert model.snapshot() == before, f"a refused {verb} changed something"
        model.settle(now=float(now))
        model.check()


def prefixes_of(model: Ec2Model, eni_id: str, count: int) -> list[IPv4Network]:
    return model.assign(eni_id, count=0, addresses=[], prefix_count=count, prefixes=[], reassign=False)[1]


def primary_of(model: Ec2Model, instance_id: str) -> str:
    return model.enis_of(instance_id)[0].id


def test_a_fragmented_subnet_has_addresses_but_no_block() -> None:
    model, instance_id = model_with_node()
    model.fragment(BIG.id)
    with pytest.raises(Refused) as error:
        prefixes_of(model, primary_of(model, instance_id), 1)
    assert code_of(error) == "InsufficientCidrBlocks"
    assert len(assign(model, primary_of(model, instance_id), count=3)) == 3
    model.check()
    model.give_back(BIG.id)
    assert len(prefixes_of(model, primary_of(model, instance_id), 2)) == 2


def test_a_filled_subnet_has_what_was_left() -> None:
    model, instance_id = model_with_node()
    model.fill(BIG.id, leave=2)
    assert model.free_count(BIG) == 2
    with pytest.raises(Refused) as error:
        assign(model, primary_of(model, instance_id), count=3)
    assert code_of(error) == "InsufficientFreeAddressesInSubnet"
    assert len(assign(model, primary_of(model, instance_id), count=2)) == 2
    model.check()


def test_a_block_reserved_for_prefixes_gives_prefixes_alone() -> None:
    model, instance_id = model_with_node()
    block = IPv4Network("10.0.0.32/27")
    model.reserve(BIG.id, block, "prefix")
    eni_id = primary_of(model, instance_id)
    assert all(prefix.subnet_of(block) for prefix in prefixes_of(model, eni_id, 2))
    for _ in range(20):
        eni = model.create(NewEni(subnet_id=BIG.id, secondary_count=8), token=None)
        assert not {address for address in (eni.primary, *eni.secondaries) if address in block}
    model.check()


def test_a_block_reserved_for_named_addresses_is_chosen_for_nothing() -> None:
    model, instance_id = model_with_node()
    block = IPv4Network("10.0.0.128/25")
    model.reserve(BIG.id, block, "explicit")
    eni_id = primary_of(model, instance_id)
    assert not any(prefix.subnet_of(block) for prefix in prefixes_of(model, eni_id, 2))
    named = model.assign(eni_id, count=0, addresses=[block[5]], prefix_count=0, prefixes=[], reassign=False)[0]
    assert named == [block[5]]


@pytest.mark.parametrize(
    ("block", "kind", "code"),
    [("10.0.0.0/26", "prefix", "InvalidSubnet.Conflict"), ("10.9.0.0/28", "prefix", "InvalidParameterValue"),
     ("10.0.0.64/28", "other", "InvalidParameterValue")],
)  # fmt: skip
def test_a_reservation_that_cannot_be_is_refused(block: str, kind: str, code: str) -> None:
    model, _ = model_with_node()
    model.reserve(BIG.id, IPv4Network("10.0.0.32/28"), "prefix")
    with pytest.raises(Refused) as error:
        model.reserve(BIG.id, IPv4Network(block), kind)
    assert code_of(error) == code
