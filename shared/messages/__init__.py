"""Every message the processes exchange, a module an owner (the process that answers or publishes it).

A message is a frozen msgspec struct with a tag; the class is the one schema. Names say what the sender wants (`Assign`) or
what is now true (`Assigned`). Units stand in the names of fields; times are seconds of CLOCK_BOOTTIME unless they say otherwise.
"""

from vpccni.shared.messages.base import Message, PodRef, Sandbox, message_type, tag_of

__all__ = ["Message", "PodRef", "Sandbox", "message_type", "tag_of"]
