"""The operator's own conflist (chart value `cniConfig`): its placeholders filled, plugins of the settings behind it. Pure.

The text is the operator's: what is not a placeholder stays as it is to the byte, keys that nobody here knows among it (spec operations.md
17.25). Only `bandwidth` and `tuning`, which settings ask for, are put behind its last plugin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vpccni.cni.conflist import OURS, RUN_DIR, plugins
from vpccni.shared.errors import SettingsError
from vpccni.shared.settings import Settings

PLACE: Final = Path("/app/10-aws.conflist")
"""Where the chart mounts it; VPCCNI_CONFLIST_TEMPLATE names another."""
PLACE_VARIABLE: Final = "VPCCNI_CONFLIST_TEMPLATE"
_STRING_OR_SIGN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


def fill(text: str, settings: Settings, *, egress_address: str = "") -> bytes:
    """Return the conflist. Raises SettingsError when the text is none or lacks the plugin that adds pods."""
    own, egress, _portmap, *asked_for = plugins(settings, RUN_DIR, egress_address)
    for placeholder, value in _values(own, egress).items():
        text = text.replace(placeholder, json.dumps(value)[1:-1])
    chain = _chain(text)
    if not any(isinstance(plugin, dict) and plugin.get("type") == OURS[0] for plugin in chain):
        raise _refused(f"none of its plugins is of the type {OURS[0]}")
    end = len(text[: _end_of_plugins(text)].rstrip())
    behind = "".join(f",\n{json.dumps(plugin, indent=2)}" for plugin in asked_for)
    return (text[:end] + behind + text[end:]).encode()


def _values(own: Mapping[str, Any], egress: Mapping[str, Any]) -> dict[str, str]:
    """Every placeholder of spec operations.md 11.4."""
    ipam = egress["ipam"]
    return {
        "__VETHPREFIX__": own["vethPrefix"],
        "__MTU__": own["mtu"],
        "__PODSGENFORCINGMODE__": own["podSGEnforcingMode"],
        "__PLUGINLOGFILE__": own["pluginLogFile"],
        "__PLUGINLOGLEVEL__": own["pluginLogLevel"],
        "__EGRESSPLUGINLOGFILE__": egress["pluginLogFile"],
        "__EGRESSPLUGINENABLED__": egress["enabled"],
        "__EGRESSPLUGINIPAMSUBNET__": ipam["ranges"][0][0]["subnet"],
        "__EGRESSPLUGINIPAMDST__": ipam["routes"][0]["dst"],
        "__EGRESSPLUGINIPAMDATADIR__": ipam["dataDir"],
        "__RANDOMIZESNAT__": egress["randomizeSNAT"],
        "__NODEIP__": egress["nodeIP"],
    }


def _chain(text: str) -> list[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"it is no JSON: {error}") from error
    chain = document.get("plugins") if isinstance(document, dict) else None
    if not isinstance(chain, list):
        raise _refused("it has no list of plugins")
    return chain


def _end_of_plugins(text: str) -> int:
    """Return where the top level's `plugins` list closes, in a text that is known to be JSON and to have one."""
    depth, name, is_plugins, end = 0, "", False, 0
    for found in _STRING_OR_SIGN.finditer(text):
        sign = found[0]
        if sign in ("[", "{"):
            depth += 1
            is_plugins = is_plugins or (depth == 2 and name == "plugins")
        elif sign in ("]", "}"):
            depth -= 1
            if is_plugins and depth == 1:
                is_plugins, end = False, found.start()
        elif depth == 1:
            name = json.loads(sign)
    return end


def _refused(why: str) -> SettingsError:
    return SettingsError(
        "the operator's conflist cannot be used",
        on=str(PLACE),
        why=why,
        remedy="Correct the chart's cniConfig.fileContents, or take it away",
    )
