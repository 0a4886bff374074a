"""TRL's GRPOTrainer on one workload, timed: the other side of the full-step benchmark. Knows
nothing of rapo.

    bench/.trl-venv/bin/python -I bench/support/trl_side.py SPEC.json

`bench/trl.py` writes the spec and runs this. -I keeps this folder, whose trl.py would hide the
package, off the import path. One JSON line per micro-batch size goes to stdout, all else to stderr.
Every completion has exactly `new_tokens` tokens; the reward is a random number per completion, for
with a constant one the gradient is zero and the step cheaper than a real one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not sys.flags.safe_path:
    sys.exit("run this with `python -I`: see its first lines")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import accelerate
import torch
import transformers
import trl
from datasets import Dataset, Image
from trl import GRPOConfig, GRPOTrainer

_PARTS = ("generation", "reference", "preparation", "training")


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run; the keys of the spec file. Sizes are per step, `micro_batches` in completions;
    paths are absolute."""

    model: str
    images_folder: str
    prompt: str
    banned_token_ids: list[int]
    images: int
    completions: int
    new_tokens: int
    learning_rate: float
    temperature: float
    beta: float
    micro_batches: list[int]
    steps: int
    warmup: int
    threads: int
    flush_denormals: bool

    @property
    def rows(self) -> int:
        return self.images * self.completions


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that adds up where the seconds of the current step went."""

    def __init__(self, **kwargs: Any) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.prompt_tokens: set[int] = set()
        super().__init__(**kwargs)

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[part] += time.perf_counter() - began

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        self.prompt_tokens |= {len(ids) for ids in prompt_ids}
        with self._timed("generation"):
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():  # the policy's own forward: part of training
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        with self._timed("reference"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("sampled"):
            return super()._generate_and_score_completions(*args, **kwargs)


class StepClock(transformers.TrainerCallback):
    """Seconds of each step and of its parts. A step reaches from the end of the one before to its
    own: data loading counts."""

    def __init__(self) -> None:
        self.trainer: TimedTrainer | None = None
        self.steps: list[dict[str, float]] = []
        self._last = self._waited = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last, self._waited = time.perf_counter(), _waited_s()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.trainer is not None
        now, waited, spent = time.perf_counter(), _waited_s(), self.trainer.spent
        step = now - self._last
        self.steps.append(
            {
                "step": step,
                "generation": spent["generation"],
                "reference": spent["reference"],
                "preparation": spent["sampled"] - spent["generation"] - spent["reference"],
                "training": step - spent["sampled"],
                "pressure": (waited - self._waited) / step,
            }
        )
        spent.clear()
        self._last, self._waited = now, waited


def _waited_s() -> float:
    """Seconds since boot in which some task of the machine waited for a core; 0 where the kernel
    does not count them."""
    source = Path("/proc/pressure/cpu")
    return (
        int(source.read_text(encoding="utf-8").splitlines()[0].rpartition("total=")[2]) / 1e6
        if source.is_file()
        else 0.0
    )


def measure(spec: Spec, micro_batch: int, folder: str) -> dict[str, Any]:
    """One setting: median seconds of a step and of its parts, the first `warmup` steps left out."""
    lengths: list[list[int]] = []

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.append([len(ids) for ids in completion_ids])
        draw = random.Random(len(lengths))
        return [draw.random() for _ in completion_ids]

    clock = StepClock()
    trainer = TimedTrainer(
        model=spec.model,
        reward_funcs=reward,
        args=_config(spec, micro_batch, folder),
        train_dataset=_dataset(spec),
        callbacks=[clock],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    clock.trainer = trainer
    trainer.train()
    steps, sampled = clock.steps[spec.warmup :], [n for step in lengths[spec.warmup :] for n in step]
    median = {part: statistics.median(step[part] for step in steps) for part in ("step", *_PARTS)}
    return {
        "micro_batch": micro_batch,
        "completions": spec.rows,
        **{f"{part}_s": round(seconds, 4) for part, seconds in median.items()},
        "completions_per_s": round(spec.rows / median["step"], 2),
        "steps_s": [round(step["step"], 4) for step in steps],
        "cpu_pressure": [round(step["pressure"], 3) for step in steps],
        "mean_completion_tokens": sum(sampled) / len(sampled),
        "prompt_tokens": sorted(trainer.prompt_tokens),
        "gradient_norms": [log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log][spec.warmup :],
        "reference_model": trainer.ref_model is not None,
        "threads": torch.get_num_threads(),
        "flush_denormals": spec.flush_denormals,
        "versions": {module.__name__: module.__version__ for module in (trl, transformers, torch, accelerate)},
    }


def _config(spec: Spec, micro_batch: int, folder: str) -> GRPOConfig:
    return GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=spec.rows // micro_batch,
        num_generations=spec.completions,
        max_completion_length=spec.new_tokens,
        generation_kwargs={"suppress_tokens": spec.banned_token_ids, "min_new_tokens": spec.new_tokens},
        temperature=spec.temperature,
        beta=spec.beta,
        num_iterations=1,
        learning_rate=spec.learning_rate,
        max_grad_norm=1.0,
        max_steps=spec.steps,
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )


def _dataset(spec: Spec) -> Dataset:
    paths = [str(path) for path in sorted(Path(spec.images_folder).glob("*.png"))]
    if len(paths) < spec.images:
        sys.exit(f"{spec.images_folder} holds {len(paths)} PNG files; a step needs {spec.images}")
    prompt = [{"role": "user", "content": spec.prompt}]
    return Dataset.from_dict({"prompt": [prompt] * len(paths), "image": paths}).cast_column("image", Image())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    spec = Spec(**json.loads(parser.parse_args().spec.read_text(encoding="utf-8")))
    # Before the first parallel operation: the worker threads inherit the mode when they start.
    torch.set_flush_denormal(spec.flush_denormals)
    torch.set_num_threads(spec.threads)
    for micro_batch in spec.micro_batches:
        with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
            result = measure(spec, micro_batch, folder)
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
