"""The FLARE job of a federation: the controller for the server, script and bundle for the sites."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import ScriptRunner
from nvflare.recipe.spec import Recipe

from msdino_monai.federated.controller import FederationController
from msdino_monai.federated.plan import BUNDLE_FOLDER, INITIAL_FILE, PLAN_FILE, Plan
from msdino_monai.federated.pulse import Pulse
from msdino_monai.federated.traffic import WireCounter

SCRIPT = "msdino_site.py"
_LAUNCH = '''"""FLARE starts this at every site; all it does stands in the installed package."""

import sys
from pathlib import Path

from msdino_monai.federated.client import run

run(Path(sys.argv[0]).parent)
'''
# How often an idle site asks for a task. On one machine FLARE's own pauses would add seconds to a round; over a real
# line every question costs about a kilobyte, and a round takes minutes.
POLL_SECONDS = {"sim": 0.2, "poc": 0.5, "production": 5.0}


class FederationRecipe(Recipe):
    """A plan, the initial tensors and a bundle as a job that runs in FLARE's simulator, in POC and in production.

    The server's part holds the initial tensors, a site's part the bundle's configs. The package itself does not travel:
    it is installed everywhere.

    Args:
        plan: what is to be done.
        initial: the global tensors to begin with.
        bundle: the bundle's folder.
        folder: where the files of the job are put together; it must live as long as the recipe.
        poll_seconds: how often an idle site asks for a task.
        simulated: whether FLARE's simulator will run it.
    """

    def __init__(
        self,
        plan: Plan,
        initial: dict[str, torch.Tensor],
        bundle: Path,
        folder: Path,
        poll_seconds: float,
        simulated: bool = False,
    ) -> None:
        pulse = min(5.0, plan.silent_after / 3)  # several are missed before a site counts as gone
        job = FedJob(name=plan.name, min_clients=plan.min_sites)
        job.set_app_packages(["msdino_monai"])
        server, site = folder / "server", folder / "site"
        (site / BUNDLE_FOLDER).mkdir(parents=True)
        server.mkdir()
        plan.write(server)
        plan.write(site)
        safetensors.torch.save_file(initial, server / INITIAL_FILE)
        (site / SCRIPT).write_text(_LAUNCH)
        shutil.copytree(bundle / "configs", site / BUNDLE_FOLDER / "configs")
        job.to_server(FederationController(), id="federation")
        job.to_server(WireCounter(), id="wire_counter")
        job.to_server({"server": {"task_request_interval": poll_seconds, "heart_beat_timeout": 600}})
        for name in (PLAN_FILE, INITIAL_FILE):
            job.add_file_to_server(str(server / name))
        for name in plan.sites:
            runner = ScriptRunner(SCRIPT, framework=FrameworkType.RAW, server_expected_format=ExchangeFormat.RAW)
            with _standing_in(site):  # the path must be relative, or it is looked for on the sites' machines
                job.to(runner, name, tasks=["train"])
            job.add_file_to(str(site / SCRIPT), name)
            job.to(WireCounter(), name, id="wire_counter")
            if simulated:
                job.to(Pulse(pulse), name, id="pulse")
            job.to({"default_task_fetch_interval": poll_seconds, "job_heartbeat_interval": pulse}, name)
            job.add_file_to(str(site / PLAN_FILE), name)
            job.add_file_to(str(site / BUNDLE_FOLDER), name, dest_dir=BUNDLE_FOLDER)
        super().__init__(job)


@contextlib.contextmanager
def _standing_in(folder: Path) -> Iterator[None]:
    """FLARE checks relative scripts against the current folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def export_job(
    plan: Plan, initial: dict[str, torch.Tensor], bundle: Path, folder: Path, env: str = "production"
) -> Path:
    """Write the job's folder, `folder/<name>`, as FLARE's administrators submit it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as parts:
        recipe = FederationRecipe(plan, initial, bundle, Path(parts), POLL_SECONDS[env], simulated=env == "sim")
        recipe.export(str(folder))
    return folder / plan.name
