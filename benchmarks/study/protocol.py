"""What the study does, fixed before its final runs; docs/study-protocol.md says why."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

# A body for two CPU cores, the same for everybody who trains from scratch.
BODY = {"hidden_size": 128, "mlp_dim": 512, "num_layers": 4, "num_heads": 4}


WARMUP_SHARE = "warmup_share"  # among settings of a fine-tuning: of its epochs, whatever their number


@dataclass(frozen=True)
class Arm:
    """One way to come to a model.

    learning: who fine-tunes: each hospital `alone`, all by `fedavg`, or one place that has all data, `pooled`.
    backbone: how the body is pretrained: `None`, `central` on pooled images, `home` on those of each hospital alone, or
        on exports with these settings.
    export, pretraining: settings of the two, beside the protocol's.
    num_hospitals: how many pretrain together; all where nothing is said.
    """

    name: str
    title: str
    learning: str = "alone"
    backbone: str | None = None
    export: dict[str, Any] = field(default_factory=dict)
    pretraining: dict[str, Any] = field(default_factory=dict)
    num_hospitals: int | None = None

    @property
    def sees_images(self) -> bool:
        """Whether the body is pretrained on images, not on exports."""
        return self.backbone in ("central", "home")

    @property
    def exports(self) -> str:
        """A name for its exports, shared by all arms that export alike."""
        return str(self.backbone) if self.export else "msdino"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("local", "each hospital alone, from scratch"),
        Arm("fedavg", "federated averaging, from scratch", "fedavg"),
        Arm("pooled", "all data in one place, from scratch", "pooled"),
        Arm("central", "DINO on pooled images, then each hospital alone", backbone="central"),
        Arm("home", "each hospital alone, with DINO on its images", backbone="home"),
        Arm("msdino", "MS-DINO, then each hospital alone", backbone="msdino"),
        Arm(
            "msdino_codes", "MS-DINO with position codes, then each alone",
            backbone="msdino_codes", export={"position_scale": 0.5},
        ),
        Arm(
            "msdino_open", "MS-DINO without defences, then each alone",
            backbone="msdino_open", export={"margin": 0, "noise": 0.0, "embedding_dim": 256},
        ),
        Arm("msdino_fedavg", "MS-DINO, then federated averaging", "fedavg", backbone="msdino"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What is learnt: a bundle and its settings."""

    bundle: str
    metric: str
    settings: dict[str, Any]


TASKS = {
    "findings": Task("cxr_classification", "AUC", {}),
    "lungs": Task("cxr_segmentation", "Dice", {"label_key": "lungs"}),
    "lesions": Task("cxr_segmentation", "Dice", {"label_key": "lesions", "task": "multi_label"}),
}


@dataclass(frozen=True)
class Protocol:
    """Sizes of a study. `hospitals` take part and `learners` of them fine-tune; `unseen` never takes part."""

    seeds: tuple[int, ...] = (11, 12, 13, 14, 15)
    hospitals: tuple[str, ...] = ("site_a", "site_b", "site_c")
    learners: tuple[str, ...] = ("site_a", "site_b")
    unseen: str = "site_d"
    patients: int = 800
    image_size: int = 160
    img_size: int = 128
    views: int = 1
    epochs: dict[float, int] = field(default_factory=lambda: {0.01: 200, 0.1: 100, 1.0: 10})  # by share of labels
    rounds: int = 10
    body: dict[str, int] = field(default_factory=lambda: dict(BODY))
    pretraining: dict[str, Any] = field(default_factory=dict)
    finetuning: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)  # what tasks of masks do differently

    def of(self, task: Task) -> Protocol:
        """As it is for this task."""
        return replace(self, masks={}, **(self.masks if task.metric == "Dice" else {}))

    def learners_of(self, site: str) -> tuple[str, ...]:
        """Those whom a model that `site` learnt stands for: a model of `all`, for every learner."""
        return self.learners if site == "all" else (site,)

    def tested_on(self, site: str) -> tuple[str, ...]:
        """The hospitals whose test patients a model of `site` is tried on."""
        return (*self.learners_of(site), self.unseen)

    @property
    def fractions(self) -> tuple[float, ...]:
        """Shares of labels."""
        return tuple(self.epochs)

    def rounds_of(self, fraction: float) -> int:
        """Rounds of a federation: none without an epoch."""
        return min(self.rounds, self.epochs[fraction])

    @property
    def workers(self) -> int:
        """Processes that read images; the study's rows are made side by side and need none."""
        return int(self.finetuning.get("num_workers", 0))


SIZES = {
    # An image with its mask costs eight times as much: as many steps as for findings, of 8 images, a narrow decoder.
    "study": Protocol(
        masks={
            "epochs": {0.01: 200, 0.1: 25, 1.0: 3}, "rounds": 5, "finetuning": {"feature_size": 8, WARMUP_SHARE: 0.1},
        }
    ),
    # Shows that every row can be made, and nothing else.
    "small": Protocol(
        seeds=(1,), hospitals=("site_a", "site_b"), learners=("site_a",), unseen="site_c", patients=10, image_size=64,
        img_size=32, views=2, epochs={1.0: 1}, rounds=1,
        body={"hidden_size": 16, "mlp_dim": 32, "num_layers": 3, "num_heads": 2},
        pretraining={
            "num_prototypes": 32, "head_dim": 32, "bottleneck_dim": 8, "batch_size": 4, "max_epochs": 1,
            "stop_on_collapse": "false",
        },
        finetuning={"batch_size": 4},
    ),
    # For radiographs of one's own on a GPU (docs/real-data.md): ViT-S/16, and a pretraining of its size.
    "real": Protocol(
        img_size=224, epochs={0.01: 100, 0.1: 30, 1.0: 10},
        body={"hidden_size": 384, "mlp_dim": 1536, "num_layers": 12, "num_heads": 6},
        pretraining={
            "drop_path_rate": 0.1, "num_prototypes": 4096, "head_dim": 2048, "bottleneck_dim": 256, "batch_size": 64,
            "max_epochs": 20, "learning_rate": 0.0005, "warmup_epochs": 2, "teacher_momentum": 0.996,
            "precision": "bfloat16",
        },
        finetuning={"num_workers": 4},
    ),
}  # fmt: skip
# The comparisons the study is judged by: at few labels, on the learners' own test patients, in ROC AUC.
PRIMARY = (("msdino", "local"), ("msdino", "fedavg"))
FEW = 0.1
