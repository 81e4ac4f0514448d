"""The verb `federate`: a bundle trained over several sites, simulated, in processes of its own, or as a job."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from msdino_monai.errors import UserError
from msdino_monai.federated.aggregation import has_pairs
from msdino_monai.federated.execution import follow, orderly_end, processes, reason, simulator, threads
from msdino_monai.federated.ledger import Ledger
from msdino_monai.federated.plan import Plan
from msdino_monai.federated.progress import print_end
from msdino_monai.federated.selection import check_tensors
from msdino_monai.federated.site import Site
from msdino_monai.federated.workplace import (
    FEDERATION_DIR,
    SITE_SETTINGS,
    SITES_DIR,
    build_site,
    configs_hash,
    known_settings,
    read_settings,
    said,
    site_settings,
)
from msdino_monai.flags import as_flag
from msdino_monai.vault.atomic import Lock, make_folder

_TAKEN = ("server", "localhost", "aggregated")  # FLARE's server, that of a POC, and the result beside the updates
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def federate(
    bundle: str,
    sites_dir: str,
    rounds: int,
    local_epochs: int = 1,
    env: str = "sim",
    strategy: str | None = None,
    transport: str = "fp32",
    trainable: str | None = None,
    min_sites: int | None = None,
    output_dir: str | None = None,
    export_job: str | None = None,
    collect: str | None = None,
    set: str | None = None,  # noqa: A002 (it is the flag's name)
    sites: str | None = None,
    name: str | None = None,
    keep_updates: bool = False,
    round_timeout: float = 0,
    silent_after: float = 60,
) -> int:
    """Train a bundle over several sites that keep their images.

    --bundle         the bundle's folder; it needs a configs/federated.json
    --sites_dir      a folder with one folder for each site: its images and its datalist.json
    --rounds, --local_epochs   how often tensors travel, and how long each site trains in between
    --env            sim: FLARE's simulator; poc: server and sites as processes with certificates, over TLS
    --strategy       fedavg, or flap for LoRA pairs (the default where there are any)
    --transport      fp32, bf16, or int8; rounding is made good in the next round
    --trainable      a regular expression: only parameters with such names are trained and sent
    --min_sites      with fewer good answers in a round the federation stops; half of the sites by default
    --output_dir     where results, state and logs go; the same command goes on after an interruption
    --export_job     write the job for a production FLARE into this folder, and run nothing
    --collect        write the model from a best.safetensors that a production server has made, and run nothing
    --set            settings of the bundle: name=value,name=value or a JSON file
    --sites          names of the sites, comma separated, where they are not the folders of sites_dir
    --name           the job's name
    --keep_updates   keep every site's tensors of every round
    --round_timeout  seconds a round waits for its last site; 0: as long as the site is heard of
    --silent_after   seconds without a sign of life after which a site counts as gone
    """
    _require_flare()
    root, data = Path(bundle).expanduser().resolve(), Path(sites_dir).expanduser().resolve()
    names = _site_names(data, sites)
    output = _output_folder(output_dir, export_job)
    settings = _settings(root, set)
    if env not in ("sim", "poc"):
        raise UserError(f"unknown --env {env!r}; it is sim or poc.")
    if export_job:
        _refuse_own_paths(settings)
    with Lock(output / ".lock", busy=f"{output} is in use by another federation; wait until it ends."):
        draft = Plan(
            name=_job_name(name or root.name),
            bundle=root.name,
            sites=names,
            rounds=rounds,
            local_epochs=local_epochs,
            strategy=strategy or "fedavg",
            transport=transport,
            trainable=trainable,
            min_sites=(len(names) + 1) // 2 if min_sites is None else min_sites,
            settings=settings,
            keep_updates=as_flag(keep_updates),
            round_timeout=round_timeout,
            silent_after=silent_after,
        )
        site = _coordinator(root, data, draft, output)
        initial = site.tensors()
        plan = _completed(draft, site, initial, strategy, configs_hash(root))
        if collect:
            _write_model(site, _collected(Path(collect).expanduser(), initial), output / "global")
            print(f"The global model: {output / 'global'}")
            return 0
        if export_job:
            return _export(plan, initial, root, Path(export_job).expanduser().resolve())
        return _run(plan, initial, root, data, output, env, site)


def _run(
    plan: Plan, initial: dict[str, torch.Tensor], bundle: Path, data: Path, output: Path, env: str, site: Site
) -> int:
    ledger = Ledger(output, plan)
    found = ledger.newest()  # refuses the state of another federation before anything starts
    if found is not None:
        print(f"Going on after round {found[0]} of {plan.rounds}.")
    if found is None or not ledger.read_report().get("complete"):
        started = time.time()
        environment = {SITES_DIR: str(data), FEDERATION_DIR: str(output), **threads(len(plan.sites))}
        work = output / "flare"
        make_folder(work)
        from msdino_monai.federated.job import export_job

        job = export_job(plan, initial, bundle, work / "job", env)
        runner = simulator if env == "sim" else processes
        with orderly_end(), runner(plan, job, work, environment) as alive:
            follow(ledger, alive, started)
        report = ledger.read_report()
        if not report.get("complete") or report.get("started", 0) < started:
            raise UserError(f"{reason(report, work, started)} Logs: {work}.")
    report = ledger.read_report()
    _write_model(site, ledger.read_best(), output / "global")
    print_end(report, output)
    return 0


def _write_model(site: Site, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    make_folder(folder)
    site.save(tensors, folder)
    safetensors.torch.save_file(tensors, folder / "tensors.safetensors")
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in site.network.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")


def _collected(path: Path, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
        check_tensors(tensors, expected)
    except (safetensors.SafetensorError, OSError, UserError) as error:
        raise UserError(f"{path} does not belong to this bundle with these settings: {said(error)}.") from error
    return tensors


def _export(plan: Plan, initial: dict[str, torch.Tensor], bundle: Path, folder: Path) -> int:
    from msdino_monai.federated.job import export_job

    path = export_job(plan, initial, bundle, folder)
    print(
        f"The job for {', '.join(plan.sites)}: {path}\nSubmit it as FLARE's administrator: nvflare job submit -j {path}"
    )
    return 0


def _coordinator(bundle: Path, data: Path, plan: Plan, output: Path) -> Site:
    """The bundle on this machine: where the initial tensors come from and what writes the model at the end."""
    first: Exception | None = None
    settings = {
        **plan.settings,
        **site_settings(),  # what no plan holds: a base checkpoint, a pretrained body
        "rounds": plan.rounds,
        "local_epochs": plan.local_epochs,
        "trainable_pattern": plan.trainable,
    }
    named = [data / name for name in plan.sites if (data / name).is_dir()]
    for folder in named or [data, *sorted(each for each in data.iterdir() if each.is_dir())]:
        try:
            return build_site(bundle, folder, output / "coordinator", settings)
        except Exception as error:
            first = first or error
            logging.getLogger(__name__).debug("The bundle cannot be built on %s.", folder, exc_info=True)
    raise UserError(f"the bundle cannot be built on {data}: {said(first)}" if first else "there is no site.") from first


def _completed(plan: Plan, site: Site, initial: Mapping[str, torch.Tensor], strategy: str | None, configs: str) -> Plan:
    content = {
        **vars(plan),
        "base": site.base(),
        "configs": configs,
        "agreement": site.agreement,
        "key_metric": site.key_metric,
        "strategy": strategy or ("flap" if has_pairs(initial) else "fedavg"),
    }
    return Plan(**content)


def _site_names(data: Path, given: str | None) -> tuple[str, ...]:
    if not data.is_dir():
        raise UserError(f"{data} is no folder; --sites_dir holds one folder for each site.")
    if given:
        names = [name.strip() for name in given.split(",")]
    else:
        names = sorted(folder.name for folder in data.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    wrong = [name for name in names if not _NAME.fullmatch(name) or name.lower() in _TAKEN]
    if wrong or not names or len({*names}) < len(names):
        what = f"{wrong[0]!r} cannot be a site's name" if wrong else f"there are no sites in {data}, or two of one name"
        raise UserError(f"{what}; use letters, digits, - and _, each name once.")
    return tuple(names)


def _output_folder(output_dir: str | None, export_job: str | None) -> Path:
    if not output_dir and not export_job:
        raise UserError("missing --output_dir.")
    folder = Path(output_dir or f"{export_job}/.coordinator").expanduser().resolve()
    make_folder(folder)
    return folder


def _settings(bundle: Path, given: str | None) -> dict[str, Any]:
    if not given:
        return {}
    path = Path(given).expanduser()
    if path.suffix == ".json":
        settings = read_settings(path)
    else:
        settings = {}
        for pair in given.split(","):
            name, equals, value = pair.partition("=")
            if not equals:
                raise UserError(f"--set {pair!r} is no name=value; values with commas go into a JSON file.")
            settings[name.strip()] = _value(value.strip())
    known = known_settings(bundle)
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise UserError(f"{unknown[0]!r} is no setting of {bundle.name}; see the table of settings in its README.")
    return {name: _whole_path(value) for name, value in settings.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _whole_path(value: Any) -> Any:
    """Sites run in other folders than the one a path was typed in; a bare word is no path, even if it exists."""
    if not isinstance(value, str) or value.startswith(("@", "$", "%")):
        return value
    path = Path(value).expanduser()
    return str(path.resolve()) if ("/" in value or path.suffix) and path.exists() else value


def _refuse_own_paths(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if own := next(_own_paths(value), None):
            raise UserError(
                f"{name}={own} is a path on this machine; set {name} at each site, and here too, in the settings file "
                f"that {SITE_SETTINGS} names."
            )


def _own_paths(value: Any) -> Iterator[str]:
    """Absolute paths, however deep; in an expression those in quotes."""
    if isinstance(value, str):
        words = re.findall(r"""["']([/~][^"']+)["']""", value) if value.startswith("$") else [value]
        yield from (word for word in words if word.startswith(("/", "~")))
    elif isinstance(value, Mapping):
        yield from (path for each in value.values() for path in _own_paths(each))
    elif isinstance(value, list):
        yield from (path for each in value for path in _own_paths(each))


def _job_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


def _require_flare() -> None:
    if importlib.util.find_spec("nvflare") is None:
        raise UserError("NVIDIA FLARE is not installed; run: pip install 'nvflare>=2.7.2'.")
