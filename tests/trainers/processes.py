"""Training runs in processes of their own, forked from one that has imported everything already (8 seconds)."""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from datasets import Dataset
from transformers import TrainerCallback

from tea.trainers import AdvantageTrainer, TEAConfig
from tests.trainers import conftest

ROOT = Path(__file__).parent.parent.parent
_context = multiprocessing.get_context("forkserver")


class Recorder(AdvantageTrainer):
    """Keeps what was trained on: per generation batch the prompts, advantages and rewards of this process."""

    def __init__(self, *args, **kwargs):
        self.batches = []
        super().__init__(*args, **kwargs)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            prompts = [row["prompt"] for row in inputs]
            self.batches.append([prompts, output["advantages"].tolist()])
        return output

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        """Completions that depend on the prompt and its place in its group alone, as many processes as there are."""
        num_generations = self.num_generations if self.model.training else self.num_generations_eval
        first = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for i, ids in enumerate(prompt_ids):
            generator = torch.Generator().manual_seed(sum(ids) + 1000 * ((first + i) % num_generations))
            length = int(torch.randint(2, 7, (), generator=generator))
            completions.append(torch.randint(5, 250, (length,), generator=generator).tolist())
        return completions, None


def run(spec):
    """Train as ``spec`` says and leave the model and ``record_RANK.json`` in ``spec["output"]``."""
    output = Path(spec["output"])
    rank = os.environ.get("RANK", "0")
    options = {**conftest.DEFAULTS, "output_dir": str(output), **spec["options"]}
    resume = options.pop("resume_from_checkpoint", None)
    data = Dataset.from_dict({"prompt": spec.get("prompts", conftest.PROMPTS)})
    trainer = (Recorder if spec.get("recorded") else AdvantageTrainer)(
        model=spec["model"],
        reward_funcs=conftest.count_reward,
        args=TEAConfig(**options),
        train_dataset=data,
        eval_dataset=data.select(range(3)),  # with two prompts at a time, the last batch is not full
    )
    progress = Progress(output / "progress.txt", spec.get("slow_step", 0.0))
    trainer.add_callback(progress)
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.monotonic() - began
    if trainer.stopped_by is None:
        trainer.save_final_model()
    record = {
        "batches": getattr(trainer, "batches", None),
        "log": trainer.state.log_history,
        "stopped_by": trainer.stopped_by,
        "seconds": seconds,
        "memory": None,
    }
    if trainer.reward_memory is not None:
        memory = trainer.reward_memory.state_dict()
        record["memory"] = {key: memory["rewards"][i].tolist() for i, key in enumerate(memory["keys"])}
    (output / f"record_{rank}.json").write_text(json.dumps(record))


class Progress(TrainerCallback):
    """One line per event, on the disk at once: what a killed process has done."""

    def __init__(self, path, slow_step):
        self.path, self.slow_step = path, slow_step

    def write(self, state, event):
        if state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(f"{event} {state.global_step}\n")

    def on_train_begin(self, args, state, control, **kwargs):
        self.write(state, "begin")

    def on_step_begin(self, args, state, control, **kwargs):
        self.write(state, "step")
        time.sleep(self.slow_step)

    def on_save(self, args, state, control, **kwargs):
        self.write(state, "saved")


def _pretend_cpus_are_gpus():
    """Accelerate leaves FSDP and DeepSpeed out where the processes run on CPUs; they themselves do not mind."""
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)

    def set_device(self):
        self.device = torch.device("cpu")

    PartialState.set_device = set_device
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        import deepspeed  # noqa: F401

        # Collectives in shared memory, which inference alone uses: a compiler would be started for them.
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None


def _child(spec, environment):
    os.environ.update(environment)
    if {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(environment):
        _pretend_cpus_are_gpus()
    log = Path(spec["output"]) / f"log_{environment.get('RANK', '0')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    torch.set_num_threads(1)
    status = 0
    try:
        run(spec)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # gloo's threads need not be waited for


def start(spec, processes=1, **environment):
    """Start the run in one or several processes that find each other; their handles."""
    _context.set_forkserver_preload([__name__])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), before)))  # of the fork server
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if processes > 1:
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        process = _context.Process(target=_child, args=(spec, {**environment, **own}))
        process.start()
        started.append(process)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return started


def finish(processes, spec, timeout=120):
    """Wait until all have ended well."""
    for process in processes:
        process.join(timeout)
    if [process.exitcode for process in processes] != [0] * len(processes):
        for process in processes:
            if process.exitcode is None:
                process.kill()
        logs = "\n".join(path.read_text()[-3000:] for path in sorted(Path(spec["output"]).glob("log_*.txt")))
        raise AssertionError(f"exit codes {[process.exitcode for process in processes]}:\n{logs}")
