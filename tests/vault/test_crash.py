"""kill -9 at random moments, then the same command again."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from vault_hospital import Hospital, Keys

from msdino_monai.vault import TokenStore
from msdino_monai.vault.manifest import decode_manifest

IMAGES = 600
KILLS = 14


def start(site: Hospital, recipient: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("export_until_killed.py")
    command = [sys.executable, str(script), str(site.output_dir), str(site.state_dir), str(IMAGES), recipient]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def acknowledged(folder: Path) -> dict[str, str]:
    """The shards the manifest names, with the hashes of their bytes as they lie."""
    path = folder / "manifest.json"
    if not path.exists():
        return {}
    shards = decode_manifest(path.read_bytes(), path).shards
    found = {shard.file: hashlib.sha256((folder / shard.file).read_bytes()).hexdigest() for shard in shards}
    assert found == {shard.file: shard.sha256 for shard in shards}
    return found


def wait_for_commits(manifest: Path, count: int) -> None:
    """Until the manifest was replaced so often: slow and fast disks are killed at the same stages."""
    seen, patience = {mark_of(manifest)}, time.monotonic() + 20
    while len(seen) <= count and time.monotonic() < patience:
        time.sleep(0.0005)
        seen.add(mark_of(manifest))


def mark_of(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.parametrize("sealed", [False, True])
def test_kill_9_at_any_moment_loses_no_acknowledged_image(
    tmp_path: Path,
    keys: Keys,
    open_plain: Callable[..., TokenStore],
    open_sealed: Callable[..., TokenStore],
    assert_complete: Callable[[TokenStore, Hospital, Sequence[int]], None],
    sealed: bool,
) -> None:
    site, recipient = Hospital(tmp_path / "export", tmp_path / "state"), keys.recipient if sealed else ""
    kills, kept, chance = 0, dict[str, str](), random.Random(sealed)
    for _ in range(KILLS):
        process = start(site, recipient)
        wait_for_commits(site.output_dir / "manifest.json", chance.randrange(9))
        time.sleep(chance.uniform(0, 0.01))
        process.kill()
        kills += process.wait() == -9
        process.communicate()
        now = acknowledged(site.output_dir)
        assert kept.items() <= now.items()
        kept = now
    assert kills == KILLS, "the export was over before it could be killed"
    assert kept, "no kill came after a commit"
    process = start(site, recipient)
    assert process.wait() == 0
    process.communicate()
    assert kept.items() <= acknowledged(site.output_dir).items()
    store = open_sealed(site.output_dir, allow_unsigned=True) if sealed else open_plain(site.output_dir)
    assert_complete(store, site, range(IMAGES))
    named = {Path(file).name for file in acknowledged(site.output_dir)}
    assert {path.name for path in site.shards()} == named
