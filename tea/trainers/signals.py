"""Stopping in good order when a scheduler asks for it."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl


class StopOnSignal(TrainerCallback, AbstractContextManager["StopOnSignal"]):
    """Saves a checkpoint at the end of the current step and ends the training when SIGTERM arrives.

    SIGTERM is what schedulers send some time before they kill; how long a step may take is theirs to say (30 seconds
    with ``torchrun`` and ``accelerate launch``, which pass the signal on). It is enough that one of several processes
    receives it. Signals are listened to inside the ``with`` block, and only from the main thread.

    Attributes:
        received: Name of the signal, "SIGTERM"; None before.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._before: Any = None
        self.received: str | None = None

    def __enter__(self) -> StopOnSignal:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self._stop_if_asked(control)

    def on_evaluate(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self._stop_if_asked(control)  # which may have arrived in a long evaluation: before the next step

    def _stop_if_asked(self, control: TrainerControl) -> None:
        if self._accelerator.num_processes > 1:  # they must agree, or some would wait for the others for ever
            asked = torch.tensor(float(self.received is not None), device=self._accelerator.device)
            if self._accelerator.reduce(asked, reduction="sum").item() > 0:
                self.received = self.received or "SIGTERM"
        if self.received is not None:
            control.should_save = True
            control.should_training_stop = True
