"""Bytes between server and sites: those of the tensors, and those of FLARE's messages as they arrive."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.sfm.prefix import PREFIX_LEN
from nvflare.widgets.widget import Widget


class WireCounter(Widget):
    """Counts the frames that reach this process's job, by the site or server they come from.

    A frame is what FLARE's drivers put on a connection: prefix, headers and serialised payload, or one chunk of a
    streamed payload; requests, replies, polling and signs of life alike. TLS and TCP come on top.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._bytes: dict[str, int] = defaultdict(int)
        self._heard: dict[str, float] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            cell = fl_ctx.get_engine().get_cell()
            cell.core_cell.add_incoming_filter(channel="*", topic="*", cb=self.count)
            counters.append(self)
        elif event_type == EventType.END_RUN and self in counters:
            counters.remove(self)

    def count(self, message: Any) -> None:
        """The filter: it lets everything through."""
        sender = str(message.get_header(MessageHeaderKey.ORIGIN, "")).partition(".")[0]
        payload = message.payload
        size = PREFIX_LEN + len(msgpack.packb(message.headers)) + (len(payload) if payload is not None else 0)
        with self._lock:
            self._bytes[sender] += size
            self._heard[sender] = time.monotonic()

    def received(self, sender: str | None = None) -> int:
        """Bytes from one sender, or from all."""
        with self._lock:
            return self._bytes[sender] if sender is not None else sum(self._bytes.values())

    def heard(self, sender: str) -> float | None:
        """When the sender was last heard of, on the monotonic clock."""
        with self._lock:
            return self._heard.get(sender)


# FLARE starts one process for a job at a site; the script there finds the counter of its process here.
counters: list[WireCounter] = []

Row = dict[str, Any]


def row(round_number: int, site: str, direction: str, tensor_bytes: int, wire_bytes: int) -> Row:
    """One line of the account; `direction` is `to_site` or `to_server`."""
    return {
        "round": round_number,
        "site": site,
        "direction": direction,
        "tensor_bytes": tensor_bytes,
        "wire_bytes": wire_bytes,
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Totals, and means for a site and round, by direction. Only rounds that carry tensors that way count."""
    totals: dict[str, Any] = {}
    for direction in ("to_site", "to_server"):
        chosen = [each for each in rows if each["direction"] == direction and each["tensor_bytes"]]
        tensors, wire = (sum(each[name] for each in chosen) for name in ("tensor_bytes", "wire_bytes"))
        count = max(len(chosen), 1)
        totals[direction] = {
            "messages": len(chosen),
            "tensor_bytes": tensors,
            "wire_bytes": sum(each["wire_bytes"] for each in rows if each["direction"] == direction),
            "mean_tensor_bytes": tensors / count,
            "mean_wire_bytes": wire / count,
        }
    return totals


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The account for people."""
    lines = [
        f"{'site':<20} {'direction':<10} {'rounds':>6} {'tensors/round':>16} {'wire/round':>16} {'wire total':>16}"
    ]
    for site in dict.fromkeys(each["site"] for each in rows):
        for direction, total in summary([each for each in rows if each["site"] == site]).items():
            lines.append(
                f"{site:<20} {direction:<10} {total['messages']:>6} {total['mean_tensor_bytes']:>16,.0f} "
                f"{total['mean_wire_bytes']:>16,.0f} {total['wire_bytes']:>16,.0f}"
            )
    return "\n".join(lines)
