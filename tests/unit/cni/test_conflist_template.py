"""The operator's own conflist: placeholders filled, everything else left to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpccni.cni import conflist
from vpccni.cni.conflist_template import fill
from vpccni.shared.errors import SettingsError
from vpccni.shared.settings import Settings

OWN = """{
  "cniVersion": "0.4.0", "name": "aws-cni",   "ours": {"plugins": [1, "]"], "kept": 1.50},
  "plugins": [
    {"name": "aws-cni", "type": "aws-cni", "vethPrefix": "__VETHPREFIX__", "mtu": "__MTU__", "podSGEnforcingMode": "__PODSGENFORCINGMODE__",
     "pluginLogFile": "__PLUGINLOGFILE__", "pluginLogLevel": "__PLUGINLOGLEVEL__", "unknown": [ 1,2 ]},
    {"name": "egress-cni", "type": "egress-cni", "mtu": "__MTU__", "enabled": "__EGRESSPLUGINENABLED__", "randomizeSNAT": "__RANDOMIZESNAT__",
     "nodeIP": "__NODEIP__", "pluginLogFile": "__EGRESSPLUGINLOGFILE__", "pluginLogLevel": "__PLUGINLOGLEVEL__",
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "__EGRESSPLUGINIPAMSUBNET__"}]], "routes": [{"dst": "__EGRESSPLUGINIPAMDST__"}],
              "dataDir": "__EGRESSPLUGINIPAMDATADIR__"}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ],
  "plugins-are": "not these: ] [ \\" }"
}
"""


def test_every_placeholder_has_the_value_that_our_own_conflist_has() -> None:
    wanted = Settings(veth_prefix="abc", pod_mtu=1400, pod_sg_mode="standard", randomize_snat="none", v6_egress=True)
    filled = json.loads(fill(OWN, wanted, egress_address="2001:db8::1"))
    ours = json.loads(conflist.render(wanted, egress_address="2001:db8::1"))
    for mine, theirs in zip(filled["plugins"], ours["plugins"], strict=True):
        for key, value in mine.items():
            assert value == {**theirs, "unknown": [1, 2]}[key], (mine["type"], key)
    assert "__" not in json.dumps(filled)


@pytest.mark.spec("operations.17.25")
def test_what_is_no_placeholder_stays_to_the_byte() -> None:
    text = OWN.replace("__", "--")
    assert fill(text, Settings()) == text.encode()


@pytest.mark.spec("operations.17.25")
def test_plugins_of_settings_come_behind_the_last_and_nothing_else_changes() -> None:
    text = OWN.replace("__", "--")
    filled = fill(text, Settings(bandwidth_plugin=True, disable_pod_v6=True)).decode()
    types = [plugin["type"] for plugin in json.loads(filled)["plugins"]]
    assert types == ["aws-cni", "egress-cni", "portmap", "bandwidth", "tuning"]
    before, behind = text.split('"snat": true}', 1)
    assert filled.startswith(before + '"snat": true}')
    assert filled.endswith(behind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"plugins": {}}',
        '{"plugins": [{"type": "portmap"}]}',
        '{"plugins": [1]}',
        "[" * 5000,
    ],
)
def test_what_cannot_add_pods_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="cniConfig"):
        fill(text, Settings())


NAMES = st.text(alphabet='plugins"[]{}\\\u20ac', max_size=8)
JSON = st.recursive(
    st.none() | st.integers(0, 9) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    before=OBJECTS,
    after=OBJECTS,
    indent=st.sampled_from([None, 1, 4]),
)
def test_the_end_of_the_chain_is_found_among_any_other_keys(before: Any, after: Any, indent: int | None) -> None:
    after.pop("plugins", None)
    chain = [{"type": "aws-cni", **{f"x{key}": value for key, value in before.items()}}]
    document = {**{f"b{key}": value for key, value in before.items()}, "plugins": chain, **after}
    text = json.dumps(document, indent=indent).replace("__", "--")
    filled = json.loads(fill(text, Settings(bandwidth_plugin=True)))
    assert filled.pop("plugins") == json.loads(text)["plugins"] + [
        {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    ]
    assert filled == {key: value for key, value in json.loads(text).items() if key != "plugins"}
