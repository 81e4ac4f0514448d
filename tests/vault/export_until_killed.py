"""Run by test_crash.py: one small export, with the arguments that say where; prints a line once it writes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vault_hospital import Hospital


def slowly(count: int) -> Iterator[int]:
    """An embedder's time per image, so that a fast disk does not finish before the kill comes."""
    for index in range(count):
        time.sleep(0.0005)
        yield index


output_dir, state_dir, images, recipient = sys.argv[1:]
hospital = Hospital(Path(output_dir), Path(state_dir), writing={"recipients": recipient, "images_per_shard": 2})
print("ready", flush=True)
hospital.run(slowly(int(images)))
