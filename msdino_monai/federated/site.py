"""What one site does in a round: take the global tensors in, validate them, train, hand its own tensors out."""

from __future__ import annotations

import copy
import hashlib
import math
import random
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from msdino_monai.federated.error import ShareableError
from msdino_monai.federated.selection import base_hash, copy_in, copy_out, freeze_others

Tensors = Mapping[str, torch.Tensor]


class Site:
    """A bundle's trainer and evaluator, used round by round.

    A round is a function of its number and of the tensors that came in: the optimizer starts afresh, schedule, epoch
    and random seeds stand where the number says. So a repeated round gives the same tensors.

    Args:
        network: what is trained and validated; the trainer's and the evaluator's own.
        trainer: a MONAI `SupervisedTrainer`. Its handlers neither stop early nor load or keep weights.
        evaluator: a MONAI `SupervisedEvaluator` on the network itself, not on averaged weights.
        key_metric: of the evaluator's metrics the one that chooses the best global model; larger is better.
        local_epochs: epochs in a round.
        images: counts the training images that can be used, the site's weight; the trainer's whole data set if None.
        lr_scheduler: stepped by a handler every iteration over all rounds together.
        trainable_pattern: a regular expression on names of parameters; None is all that the bundle trains.
        agreement: what must be the same at all sites besides the base, such as names of classes.
        save: writes the network as the bundle expects a trained one, into a folder.
        finish: called when the federation is over, to remove what must not stay.
        seed: of all randomness.
    """

    def __init__(
        self,
        network: nn.Module,
        trainer: Any,
        evaluator: Any,
        key_metric: str,
        local_epochs: int = 1,
        images: Callable[[], int] | None = None,
        lr_scheduler: Any = None,
        trainable_pattern: str | None = None,
        agreement: Mapping[str, Any] | None = None,
        save: Callable[[nn.Module, Path], Any] | None = None,
        finish: Callable[[], Any] | None = None,
        seed: int = 0,
    ) -> None:
        if local_epochs < 1:
            raise ValueError(f"local_epochs must be at least 1, got {local_epochs}.")
        freeze_others(network, trainable_pattern)
        self.network, self.trainer, self.evaluator = network, trainer, evaluator
        self.key_metric, self.local_epochs, self.seed = key_metric, local_epochs, seed
        self._images = images or (lambda: len(trainer.data_loader.dataset))
        self.validation_images = 0
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        self.agreement = dict(agreement or {})
        self._scheduler, self._save, self._finish = lr_scheduler, save, finish
        self._optimizer_start = copy.deepcopy(trainer.optimizer.state_dict())
        self._schedule_start = None if lr_scheduler is None else copy.deepcopy(lr_scheduler.state_dict())

    @property
    def images(self) -> int:
        """The site's weight as it is known now: all files that cannot be used are known after training."""
        return self._images()

    def base(self) -> str:
        """The hash of what must be the same everywhere and is not sent."""
        return base_hash(self.network)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What travels, as it is now."""
        return copy_out(self.network)

    def validate(self, tensors: Tensors) -> dict[str, float | None]:
        """The metrics of these tensors on this site's validation data; an undefined one is None."""
        copy_in(self.network, tensors)
        self._seed(0)
        self.validation_images = 0
        self.evaluator.run()
        metrics = {name: _number(value) for name, value in self.evaluator.state.metrics.items()}
        if self.key_metric not in metrics:
            names = ", ".join(metrics)
            raise ShareableError(f"the evaluator has no {self.key_metric!r}, but {names}; name one of them.")
        return {name: value for name, value in metrics.items() if value is None or math.isfinite(value)}

    def train(self, tensors: Tensors, round_number: int) -> dict[str, torch.Tensor]:
        """This site's tensors after training from these in round 1, 2, ..."""
        copy_in(self.network, tensors)
        self._seed(round_number)
        self._rewind(round_number)
        self.trainer.run()
        return self.tensors()

    def save(self, tensors: Tensors, folder: str | Path) -> None:
        """Write the network with these tensors in it, as the bundle expects it."""
        copy_in(self.network, tensors)
        Path(folder).mkdir(parents=True, exist_ok=True)
        if self._save is not None:
            self._save(self.network, Path(folder))
        else:
            torch.save(
                {name: tensor.cpu().clone() for name, tensor in self.network.state_dict().items()},
                Path(folder) / "model.pt",
            )

    def finish(self) -> None:
        if self._finish is not None:
            self._finish()

    def _count(self, engine: Engine) -> None:
        """The validation's weight: what was really validated, files that cannot be used left out."""
        batch = engine.state.batch  # MONAI may have made a list of samples of it
        self.validation_images += len(batch[CommonKeys.IMAGE] if isinstance(batch, Mapping) else batch)

    def _rewind(self, round_number: int) -> None:
        state = self.trainer.state
        state.epoch = (round_number - 1) * self.local_epochs
        state.iteration = state.epoch * state.epoch_length
        state.max_epochs = round_number * self.local_epochs
        self.trainer.should_terminate = False
        self.trainer.optimizer.load_state_dict(copy.deepcopy(self._optimizer_start))
        if self._schedule_start is not None:
            self._scheduler.load_state_dict(copy.deepcopy(self._schedule_start))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step", UserWarning)
                self._forward_schedule(state.iteration)

    def _forward_schedule(self, steps: int) -> None:
        if isinstance(self._scheduler, LambdaLR) and steps:
            self._scheduler.last_epoch, steps = steps - 1, 1  # a function of the step alone
        for _ in range(steps):
            self._scheduler.step()

    def _seed(self, round_number: int) -> None:
        seed = int.from_bytes(hashlib.sha256(repr((self.seed, round_number)).encode()).digest()[:4], "little")
        torch.manual_seed(seed)
        np.random.seed(seed)  # transforms of others draw from the global state
        random.seed(seed)


def _number(value: Any) -> float | None:
    """A metric as a number; None for what is undefined or no number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, (bool, str)) or not isinstance(value, (int, float, np.number)):
        return None
    return float(value) if math.isfinite(value) else None
