"""Student and teacher on MONAI's engine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys as Keys
from torch import nn

from msdino_monai.distributed import sum_across_ranks, unwrapped
from msdino_monai.errors import UserError
from msdino_monai.pretraining.branch import Branch, update_teacher
from msdino_monai.pretraining.checkpoint import Checkpoints
from msdino_monai.pretraining.loss import Terms

_log = logging.getLogger(__name__)


class DistillationTrainer(SupervisedTrainer):
    """DINO's training step: the student learns what the teacher says of other subsets, the teacher follows it.

    `prepare_batch` draws the subsets; `network` is the student, alone or inside DDP; `loss_function` is a
    `DistillationLoss`; `engine.state.schedule` (see `ScheduleHandler`) holds `teacher_temperature` and
    `teacher_momentum`. A loss or gradient that is not finite, on any rank, ends the run before it reaches the weights.

    Args:
        teacher: see `start_teacher`.
        checkpoints: where a run goes on after an interruption, and once after a fault.
        precision: float32, bfloat16 or, on GPUs, float16.
        clip: largest norm of the gradient, 0 for any.
        **settings: of MONAI's `SupervisedTrainer`.
    """

    precisions: ClassVar[dict[str, torch.dtype | None]] = {
        "float32": None,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }

    def __init__(
        self, teacher: Branch, checkpoints: Checkpoints, precision: str = "float32", clip: float = 3.0, **settings: Any
    ) -> None:
        if precision not in self.precisions:
            raise ValueError(f"precision must be one of {', '.join(self.precisions)}, got {precision!r}.")
        device = torch.device(settings["device"])
        if precision == "float16" and device.type != "cuda":
            raise ValueError("precision float16 needs a GPU; use bfloat16 or float32.")
        super().__init__(**{**settings, "device": device})
        self.teacher, self.clip = teacher, clip
        self.autocast_dtype = self.precisions[precision]
        self.loss_scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self.checkpoints, self.fault = checkpoints, ""
        self.checkpoints.parts["loss_scaler"] = self.loss_scaler
        self._norm = torch.zeros((), device=device)

    def run(self) -> None:
        """Go on from the newest checkpoint to the end; after a fault once more, since memory and cards do fail."""
        with self.checkpoints.files.claimed():
            self._run_twice_at_most()

    def _run_twice_at_most(self) -> None:
        for attempt in range(2):
            done = self.checkpoints.restore(self)
            if done >= int(self.state.epoch_length or 1) * int(self.state.max_epochs or 1):
                _log.info("This training is complete.")
                return
            self.should_terminate = False  # else ignite counts the rest of an epoch as a whole one
            with self.checkpoints.listening():
                super().run()
            if self.checkpoints.interrupted:
                raise KeyboardInterrupt
            if not self.fault:
                return
            if attempt == 0:
                _log.warning("%s; going back to the last checkpoint once.", self.fault)
                self.fault = ""
        raise UserError(f"{self.fault}; lower --learning_rate or --clip, or use --precision float32.")

    @property
    def student(self) -> Branch:
        return cast(Branch, unwrapped(self.network))

    def _iteration(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        state = engine.state
        subsets, _ = engine.prepare_batch(batchdata, state.device, engine.non_blocking, **engine.to_kwargs)
        self.network.train()
        first, last = self._place_in_accumulation()
        if first:
            self.optimizer.zero_grad(set_to_none=True)
        state.output = {Keys.IMAGE: subsets, "batch": batchdata}
        with contextlib.nullcontext() if last or self.network is self.student else self.network.no_sync():
            with self._autocast():
                with torch.no_grad():
                    teacher = self.teacher([subsets.large], subsets.hidden)
                student = engine.inferer(subsets.for_student(), self.network, subsets.hidden)
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            terms: Terms = engine.loss_function(student, teacher, state.schedule["teacher_temperature"])
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
            self.loss_scaler.scale(terms.loss / self._length_of_accumulation()).backward()  # type: ignore[no-untyped-call]
            engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if last:
            self._norm = self._step(terms)
        elif not self._is_finite_everywhere(terms.loss):
            self._stop("the loss is not finite")
        state.output |= {
            Keys.LOSS: terms.loss.detach(),
            "terms": Terms(*(term.detach() for term in terms)),
            "teacher_features": teacher.features[0].float(),
            "gradient_norm": self._norm if last else torch.zeros_like(self._norm),
            "stepped": last,
        }
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return state.output  # type: ignore[no-any-return]

    def _step(self, terms: Terms) -> torch.Tensor:
        """One step of the student, then of the teacher; returns the gradient's norm."""
        self.loss_scaler.unscale_(self.optimizer)
        parameters = [parameter for parameter in self.network.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip or float("inf"))
        scaled = self.loss_scaler.is_enabled()  # it skips steps whose gradients overflow float16, and scales down
        if not self._is_finite_everywhere(terms.loss if scaled else terms.loss + norm):
            self._stop("the loss or its gradient is not finite")
            return norm
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()
        update_teacher(self.teacher, self.student, self.state.schedule["teacher_momentum"])
        return norm

    def _length_of_accumulation(self) -> int:
        """How many iterations are added up: at an epoch's end there may be fewer."""
        length = int(self.state.epoch_length or 1)
        first = (self.state.iteration - 1) % length // self.accumulation_steps * self.accumulation_steps
        return int(min(self.accumulation_steps, length - first))

    def _place_in_accumulation(self) -> tuple[bool, bool]:
        """Whether this iteration is the first, and the last, of those whose gradients are added up."""
        number = (self.state.iteration - 1) % int(self.state.epoch_length or 1)
        ends = (number + 1) % self.accumulation_steps == 0 or number + 1 == self.state.epoch_length
        return number % self.accumulation_steps == 0, ends

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.state.device.type, self.autocast_dtype)

    def _is_finite_everywhere(self, value: torch.Tensor) -> bool:
        """All ranks must agree, or some would wait for the others for ever."""
        return bool(torch.isfinite(sum_across_ranks(value.detach())))

    def _stop(self, fault: str) -> None:
        batch = self.state.output["batch"]
        images = ", ".join(str(image) for image in batch["index"])
        self.fault = (
            f"{fault} in epoch {int(batch['epoch']) + 1}, batch {batch['batch']} (images {images} of the store)"
        )
        self.terminate()
