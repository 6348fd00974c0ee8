"""The bus: requests to one owner of each fact, and its events to all who keep a copy.

Sockets live in `<run folder>/bus`, mode 0700: `<process>.rpc` (ROUTER) and `<process>.events` (PUB); `<process>.lock` says who
owns both. See `server` (answering), `client` (asking), `events` (publishing and subscribing), `access` (who may connect).
"""

from vpccni.shared.bus.access import AccessControl, claim
from vpccni.shared.bus.client import Client
from vpccni.shared.bus.events import Publisher, Subscription
from vpccni.shared.bus.server import Call, Server

__all__ = ["AccessControl", "Call", "Client", "Publisher", "Server", "Subscription", "claim"]
