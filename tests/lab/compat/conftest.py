"""The fixture of one lab node is that of the node's tests."""

from tests.lab.node.conftest import node  # noqa: F401
