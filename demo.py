"""The whole way of the data on three synthetic hospitals, with the commands a user types; it ends with a report.

    python demo.py --output_dir demo

Run it again to go on: what is finished is kept. `--size small` is quicker and learns next to nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msdino_monai.errors import UserError

ROOT = Path(__file__).resolve().parent
# What runs in the repository's own bundles may have left there.
LEFT_BEHIND = ("models", "checkpoints", "cache", "tensorboard", "eval", "run.json", "curves.csv", "__pycache__")
HOSPITALS = ("hospital_a", "hospital_b", "hospital_c")
QUARANTINED = 3  # exit status: finished, and some files were set aside
CACHES = (".cache", ".tmp")  # what libraries and processes leave, in the demo's folder too
LONGEST_SCRATCH = 70  # of a path; sockets lie below it, and theirs may have 108 bytes
GRACE = 30.0  # seconds a command has to stop when it is told to
Command = list[str]


@dataclass(frozen=True)
class Size:
    """How much is done: `demo` is for two cores and a quarter of an hour, `small` shows that every step works."""

    patients: int
    img_size: int
    pretraining_epochs: int
    epochs: int
    volumes: int
    slice_size: int
    rounds: int
    audited: int


SIZES = {
    "demo": Size(40, 128, 32, 12, 6, 64, 3, 6),
    "small": Size(12, 64, 2, 2, 5, 32, 2, 3),
}
PACE = {"demo": 1.0, "small": 0.4}  # of the seconds that the stages name


@dataclass(frozen=True)
class Stage:
    """Commands that belong together; `seconds` is what they took on two cores, `leaves` what is there after them.

    A command that wrote a verdict has done its work, whatever the verdict is.
    """

    title: str
    seconds: float
    commands: Callable[[], Iterator[Command]]
    leaves: tuple[Path, ...]
    is_verdict: bool = False


class Way:
    """The stages, all in one folder; nothing is written outside of it."""

    def __init__(self, folder: Path, size: Size, pace: float = 1.0) -> None:
        self.folder, self.size, self.pace, self.keys = folder, size, pace, folder / "keys"

    def stages(self) -> list[Stage]:
        folder, each = self.folder, [(name, name.replace("_", " ").title()) for name in HOSPITALS]
        tuned = zip(each, (125, 65, 65), strict=True)  # the first also learns from scratch
        return [
            Stage(
                "Three synthetic hospitals, and the keys of all sides",
                75,
                self.prepare,
                (folder / "cohort" / "cohort.json", folder / "volumes", self.key_file(HOSPITALS[-1])),
            ),
            Stage(
                "Hospital A's privacy officer sees what an attacker would get",
                75,
                self.audit,
                (folder / "audit" / "audit.json",),
                is_verdict=True,
            ),
            *(
                Stage(
                    f"{title} exports, once",
                    28,
                    partial(self.export, name),
                    (folder / "exports" / name / "manifest.json", folder / "receipts" / f"{name}.json"),
                )
                for name, title in each
            ),
            Stage(
                "The coordinator pretrains one body on three exports", 45, self.pretrain, (self.model("pretraining"),)
            ),
            *(
                Stage(f"{title} learns from few labels", seconds, partial(self.finetune, name), self.models(name))
                for (name, title), seconds in tuned
            ),
            Stage(
                "Hospital A tries its models",
                100,
                self.use,
                (
                    *(folder / run / HOSPITALS[0] / "test" / "metrics.json" for run in self.trained(HOSPITALS[0])),
                    *(folder / run / HOSPITALS[0] / "predictions" for run in ("classification", "segmentation")),
                ),
            ),
            Stage(
                "Three hospitals federate a SAM for kidneys and tumours",
                258,
                self.federate,
                (folder / "federation" / "global" / "model.pt", folder / "federation" / "federated.json"),
            ),
            Stage(
                "Bundles with their weights, and the report",
                6,
                self.report,
                (*(folder / "bundles" / name for name in self.weights()), folder / "report.html"),
            ),
        ]

    def prepare(self) -> Iterator[Command]:
        size = self.size
        # The fourth exports nothing: it is the public data on which a coordinator watches what is learnt.
        yield ours("cohort", output_dir=self.folder / "cohort", sites=4, patients_per_site=size.patients)
        yield ours("volumes", output_dir=self.folder / "volumes", sites=3, patients_per_site=size.volumes)
        if not (self.keys / "coordinator_identity.txt").exists():
            yield ours("keygen", output_dir=self.keys, kind="coordinator")
        for name in HOSPITALS:
            if not self.key_file(name).exists():
                yield ours("keygen", output_dir=self.keys, kind="site", name=name)

    def export(self, name: str) -> Iterator[Command]:
        images, export = self.images(name), self.folder / "exports" / name
        receipt = self.folder / "receipts" / f"{name}.json"
        yield ours("survey", dataset_dir=images, output_dir=self.folder / "survey" / name)
        # What a model is tested on later is not pretrained on.
        yield bundle(
            "cxr_embedding_export",
            ["inference"],
            dataset_dir=images.parent,
            datalist=images.parent / "datalist.json",
            sections="training,validation",
            output_dir=export,
            state_dir=self.folder / "state" / name,
            site_id=name,
            recipient=self.key("coordinator_recipient.txt"),
            signing_key=self.key_file(name),
            img_size=self.size.img_size,
        )
        self.trust()
        yield ours("receive", export_dir=export, output_file=receipt, **self.coordinator())
        yield ours("confirm", receipt=receipt, export_dir=export, coordinator_key=self.public_key)

    def audit(self) -> Iterator[Command]:
        yield bundle(
            "cxr_embedding_export",
            ["privacy_audit"],
            dataset_dir=self.images(HOSPITALS[0]),
            auxiliary_dir=self.images(HOSPITALS[1]),
            output_dir=self.folder / "audit",
            img_size=self.size.img_size,
            max_images=self.size.audited,
        )

    def pretrain(self) -> Iterator[Command]:
        yield bundle(
            "cxr_msdino_pretraining",
            ["train", "demonstration"],
            dataset_dir=self.folder / "exports",
            output_dir=self.folder / "pretraining",
            max_epochs=self.size.pretraining_epochs,
            val_datalist=self.folder / "cohort" / "site_d" / "datalist.json",
            **self.coordinator(),
        )

    def finetune(self, name: str) -> Iterator[Command]:
        given = {
            "dataset_dir": self.images(name).parent,
            "img_size": self.size.img_size,
            "max_epochs": self.size.epochs,
        }
        given |= {"batch_size": 8, "warmup_epochs": 1, "num_workers": 0}
        returned = {"backbone": self.folder / "pretraining" / "models", "coordinator_key": self.public_key}
        scratch = {"hidden_size": 128, "mlp_dim": 512, "num_layers": 4, "num_heads": 4}
        tasks = {"classification": {}, "segmentation": {"label_key": "lungs"}}
        for run in self.trained(name):
            task = run.removesuffix("_from_scratch")
            start = returned if run == task else scratch
            output_dir = self.folder / run / name
            yield bundle(f"cxr_{task}", ["train"], output_dir=output_dir, **given, **tasks[task], **start)

    def trained(self, name: str) -> list[str]:
        """Folders of what a hospital trains; the first also learns from scratch."""
        tasks = ["classification", "segmentation"]
        return [*tasks, *(f"{task}_from_scratch" for task in tasks)] if name == HOSPITALS[0] else tasks

    def models(self, name: str) -> tuple[Path, ...]:
        return tuple(self.model(f"{run}/{name}") for run in self.trained(name))

    def model(self, run: str) -> Path:
        return self.folder / run / "models" / "model.pt"

    def use(self) -> Iterator[Command]:
        name = HOSPITALS[0]
        for run in self.trained(name):
            yield bundle(
                f"cxr_{run.removesuffix('_from_scratch')}",
                ["train", "evaluate"],
                dataset_dir=self.images(name).parent,
                output_dir=self.folder / run / name / "test",
                model=self.model(f"{run}/{name}"),
                num_workers=0,
            )
        for task, settings in {"classification": {"explain": True}, "segmentation": {}}.items():
            yield bundle(
                f"cxr_{task}",
                ["inference"],
                dataset_dir=self.images(name),
                output_dir=self.folder / task / name / "predictions",
                model=self.model(f"{task}/{name}"),
                num_workers=0,
                **settings,
            )

    def federate(self) -> Iterator[Command]:
        settings = f"size=lite_medsam,image_size={self.size.slice_size},num_workers=0"
        yield ours(
            "federate",
            bundle="bundles/sam_federated_segmentation",
            sites_dir=self.folder / "volumes",
            output_dir=self.folder / "federation",
            rounds=self.size.rounds,
            local_epochs=1,
            set=settings,
        )

    def report(self) -> Iterator[Command]:
        self.complete_bundles()
        yield ours("report", runs_dir=self.folder, output_file=self.folder / "report.html")

    def complete_bundles(self) -> None:
        """The five bundles with the weights just trained beside them, ready to run, to pack and for MONAI Label."""
        from msdino_monai.sharing.bundle import Bundle  # their libraries keep caches: not before `main` says where
        from msdino_monai.sharing.shape import fit_metadata

        for name, models in self.weights().items():
            target = self.folder / "bundles" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(Path("bundles") / name, target, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
            if models is not None:
                shutil.copytree(models, target / "models")
                self.mark(target / "configs" / "metadata.json", self.scores()[name])
                fit_metadata(Bundle(target))

    def weights(self) -> dict[str, Path | None]:
        """The five bundles, and where the demo leaves weights for them."""
        return {
            "cxr_embedding_export": None,
            "cxr_msdino_pretraining": self.folder / "pretraining" / "models",
            "cxr_classification": self.folder / "classification" / HOSPITALS[0] / "models",
            "cxr_segmentation": self.folder / "segmentation" / HOSPITALS[0] / "models",
            "sam_federated_segmentation": self.folder / "federation" / "global",
        }

    def mark(self, metadata: Path, scores: dict[str, float]) -> None:
        """Say in a bundle what its weights are, with their own scores in place of the benchmarks'."""
        content = json.loads(metadata.read_text(encoding="utf-8"))
        content["data_source"] = "SYNTHETIC images of `make demo`; these weights show that it runs, and know no patient"
        content["eval_metrics"] = {f"synthetic_demo_{key}": value for key, value in scores.items()}
        metadata.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")

    def scores(self) -> dict[str, dict[str, float]]:
        """Of each model, on hospital A's test images, or as its training wrote them."""

        def tested(task: str) -> Any:
            return self.read(f"{task}/{HOSPITALS[0]}/test/metrics.json")

        with (self.folder / "pretraining" / "curves.csv").open(encoding="utf-8", newline="") as file:
            probed = [row for row in csv.DictReader(file) if row.get("linear_auc")]
        probes = {name: float(probed[-1][name]) for name in ("linear_auc", "knn_auc")} if probed else {}
        federation = self.read("federation/federated.json")
        best, start = federation["best"], federation["validation"][0]["mean"]
        return {
            "cxr_msdino_pretraining": probes,
            "cxr_classification": {"test_mean_auc": tested("classification")["mean"]["auc"]["value"]},
            "cxr_segmentation": {"test_mean_dice": tested("segmentation")["mean_dice"]["value"]},
            "sam_federated_segmentation": {
                f"validation_{best['metric']}": best["score"],
                f"validation_{best['metric']}_at_the_start": start.get(best["metric"]),
            },
        }

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    @property
    def public_key(self) -> Path:
        return self.keys / "coordinator_signing_key.pub"

    def coordinator(self) -> dict[str, Any]:
        """What the coordinator gives to every command of its own."""
        return {
            "identity": self.keys / "coordinator_identity.txt",
            "trusted_sites": self.keys / "trusted_sites",
            "signing_key": self.keys / "coordinator_signing_key.txt",
        }

    def images(self, name: str) -> Path:
        return self.folder / "cohort" / name.replace("hospital", "site") / "images"

    def key_file(self, name: str) -> Path:
        return self.keys / f"{name}_signing_key.txt"

    def key(self, name: str) -> str:
        return (self.keys / name).read_text(encoding="utf-8").strip()

    def trust(self) -> None:
        lines = [f"{name} {self.key(f'{name}_signing_key.pub')}\n" for name in HOSPITALS]
        (self.keys / "trusted_sites").write_text("".join(lines), encoding="utf-8")


def flags(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def ours(verb: str, **settings: Any) -> Command:
    return [sys.executable, "-m", "msdino_monai", verb, *flags(settings)]


def bundle(name: str, configs: Sequence[str], **settings: Any) -> Command:
    files = [f"bundles/{name}/configs/{config}.json" for config in configs]
    config_file = files[0] if len(files) == 1 else str(files).replace(" ", "")
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config_file]
    return [*start, *flags({"bundle_root": f"bundles/{name}", **settings})]


def shown(command: Command) -> str:
    """As it may be typed into a shell."""
    words = ["python", *command[1:]]
    return " ".join(f'"{word}"' if word.startswith("['") else shlex.quote(word) for word in words)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def surroundings(folder: Path) -> dict[str, str]:
    """The environment, with the caches that libraries would leave in the home directory and in /tmp."""
    cache = folder.resolve() / CACHES[0]
    own = {"MPLCONFIGDIR": cache / "matplotlib", "TORCHINDUCTOR_CACHE_DIR": cache / "torch", "XDG_CACHE_HOME": cache}
    compiled = {"PYTHONPYCACHEPREFIX": str(cache / "python")}  # whoever says otherwise has a reason
    return {**compiled, **os.environ, **{name: str(path) for name, path in own.items()}}


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Temporary files of all commands lie in the folder too, and are gone after it, whatever ends the commands."""
    above = folder.resolve() / CACHES[1]
    if len(os.fsencode(above)) > LONGEST_SCRATCH:
        above = Path(tempfile.gettempdir())
    above.mkdir(exist_ok=True)
    place, before = tempfile.mkdtemp(prefix="demo_", dir=above), os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = place
    try:
        yield
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before


def machine(folder: Path) -> Any:
    """Hardware and versions; asked of a process of its own, for libraries keep caches as soon as they are imported."""
    ask = "import json; from msdino_monai.machine import machine; print(json.dumps(machine()))"
    said = subprocess.run(  # noqa: S603 (our own command)
        [sys.executable, "-c", ask],
        env=surroundings(folder),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,  # a Ctrl-C reaches us alone
    )
    return json.loads(said.stdout.splitlines()[-1])


def run(command: Command, folder: Path) -> int:
    """The command's status; whoever interrupts us stops it too, with all the processes it started."""
    # In a session of its own: a Ctrl-C then reaches us alone, and no process below prints where it stood.
    process = subprocess.Popen(command, start_new_session=True, env=surroundings(folder))  # noqa: S603 (our own)
    try:
        return process.wait()
    except BaseException:
        stop(process)
        raise


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and its group: politely, and after a while not."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        print("it does not stop by itself; ending it.", file=sys.stderr)
    with suppress(ProcessLookupError):  # what is left of the group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def write_whole(path: Path, content: Any) -> None:
    """A JSON file that is never half-written, so that the demo can always go on from it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


def remember(line: str, path: Path) -> None:
    """Add a command to the list that the report shows; once, however often it was repeated."""
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if line not in known:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def walk_stage(stage: Stage, folder: Path) -> None:
    """Run its commands; the first that fails ends the demo, with what to type."""
    if stage.is_verdict:
        for path in stage.leaves:
            path.unlink(missing_ok=True)  # an earlier one would hide a failure
    try:
        for command in stage.commands():
            print(f"\n$ {shown(command)}", flush=True)
            remember(shown(command), folder / "commands.txt")
            status = run(command, folder)
            if status == 1 and stage.is_verdict and all(path.exists() for path in stage.leaves):
                print("\nA hospital would stop here. The demo goes on: its images are synthetic.")
            elif status not in (0, QUARANTINED):
                sys.exit(
                    f"\nThis step failed (status {status}). Repeat it with\n\n"
                    f"  cd {shlex.quote(str(ROOT))}\n  . {shlex.quote(sys.prefix)}/bin/activate\n  {shown(command)}\n\n"
                    "or run the demo again: what is finished is kept."
                )
    # Between two commands: a file is not as they leave it.
    except (OSError, LookupError, ValueError, UserError) as error:
        raise SystemExit(
            f"\n{stage.title}: failed ({type(error).__name__}: {error}). Run the demo again; if it fails again, in "
            "another --output_dir (make: DEMO=...)."
        ) from error


def walk(way: Way) -> None:
    """Every stage that is not finished yet, with what it runs, how long it took and how long the rest may take."""
    way.folder.mkdir(parents=True, exist_ok=True)
    done_file = way.folder / "finished.json"
    try:
        page = json.loads(done_file.read_text()) if done_file.exists() else {"size": vars(way.size), "stages": {}}
    except ValueError:
        sys.exit(f"{done_file} is damaged; remove it, and every stage is made again.")
    if page.get("size") != vars(way.size):
        sys.exit(
            f"{way.folder} holds a demo of another size; give another --output_dir (make: DEMO=...), or remove it."
        )
    with scratch(way.folder):
        walk_stages(way, page, done_file)


def walk_stages(way: Way, page: dict[str, Any], done_file: Path) -> None:
    """Those that `page` does not call finished; it is written to `done_file` after each."""
    finished: dict[str, float] = page["stages"]
    spent: dict[str, float] = page.setdefault("unfinished", {})  # by earlier attempts
    stages = way.stages()
    started, expected, taken = time.monotonic(), 0.0, 0.0
    for number, stage in enumerate(stages, start=1):
        gone = [path for path in stage.leaves if not path.exists()]
        if stage.title in finished and gone:
            print(f"[{number}/{len(stages)}] {stage.title}: finished before, but {gone[0]} is gone; made again")
            del finished[stage.title]
        if number == len(stages) and taken:  # it shows what the others made
            finished.pop(stage.title, None)
        if stage.title in finished:
            print(f"[{number}/{len(stages)}] {stage.title}: finished before, in {clock(finished[stage.title])}")
            continue
        rest = sum(later.seconds for later in stages[number - 1 :] if later.title not in finished)
        pace = taken / expected if expected else way.pace
        elapsed = time.monotonic() - started
        print(f"\n[{number}/{len(stages)}] {stage.title}  ({clock(elapsed)} elapsed, about {clock(rest * pace)} left)")
        begun = time.monotonic()
        try:
            walk_stage(stage, way.folder)
        finally:
            now = time.monotonic() - begun
            spent[stage.title] = spent.get(stage.title, 0.0) + now
            write_whole(done_file, page)
        finished[stage.title] = spent.pop(stage.title)
        expected, taken = expected + stage.seconds, taken + now
        page["date"] = time.strftime("%Y-%m-%d")
        write_whole(done_file, page)
        if "machine" not in page:
            page["machine"] = machine(way.folder)
            write_whole(done_file, page)
    print(f"\nDone in {clock(time.monotonic() - started)}. The report: {way.folder / 'report.html'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("demo"))
    parser.add_argument("--size", choices=SIZES, default="demo")
    arguments = parser.parse_args()
    folder: Path = arguments.output_dir
    if Path.cwd() != ROOT:  # the bundles are named as they are from there
        folder = folder.resolve()
        os.chdir(ROOT)
    if folder.exists() and not folder.is_dir():
        sys.exit(f"{folder} is a file; name a folder.")
    held = {path.name for path in folder.iterdir()} - {*CACHES} if folder.is_dir() else set()
    if held and not held & {"finished.json", "commands.txt"}:
        sys.exit(f"{folder} holds other files, and a demo replaces what it finds; give an --output_dir of its own.")
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:  # nohup has its reasons
            signal.signal(each, interrupt)
    os.environ.update(surroundings(folder))
    try:
        walk(Way(folder, SIZES[arguments.size], PACE[arguments.size]))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
