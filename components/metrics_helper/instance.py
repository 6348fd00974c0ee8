"""The cluster's id by the tags of an instance, where the environment does not tell it (spec operations.md 4.1). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CLUSTER_TAGS: Final = ("eks:cluster-name", "CLUSTER_ID", "Name")
UNNAMED: Final = "k8s-cluster"


def cluster_of(tags: Mapping[str, str]) -> str:
    """Return the cluster's id that an instance's tags give."""
    return next((tags[key] for key in CLUSTER_TAGS if tags.get(key)), UNNAMED)
