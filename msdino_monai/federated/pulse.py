"""Signs of life of a simulated site while it trains."""

from __future__ import annotations

import threading
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedTopic, SiteType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.widgets.widget import Widget


class Pulse(Widget):
    """Sends FLARE's own heartbeat of a job, which its simulator leaves out: without it a site that trains is silent.

    In POC and in production FLARE's client sends it.

    Args:
        seconds: between two of them.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._ended = threading.Event()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            threading.Thread(target=self._beat, args=(fl_ctx.get_engine(),), daemon=True).start()
        elif event_type == EventType.END_RUN:
            self._ended.set()

    def _beat(self, engine: Any) -> None:
        while not self._ended.wait(self.seconds):
            with engine.new_context() as context:
                engine.send_aux_request(
                    targets=[SiteType.SERVER],
                    topic=ReservedTopic.JOB_HEART_BEAT,
                    request=Shareable(),
                    timeout=0,  # no answer is awaited
                    fl_ctx=context,
                    optional=True,
                )
