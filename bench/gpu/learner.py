"""The learner alone on one GPU: packed against rows, with and without checkpointing, by attention
kernel; utilisation and peak memory.

Models have random weights in bfloat16. A step is forward and backward of one group; the optimiser's
own time is left out, because its state would not fit beside 7B on one card.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, PreTrainedModel, Qwen2_5_VLForConditionalGeneration

from bench.support.workloads import Workload, build_model
from rapo.plan.cards import CARDS
from rapo.plan.model_shape import ModelShape
from rapo.policy.batch import GroupBatch, collate
from rapo.policy.forward import GroupPolicy, Packing
from rapo.policy.processing import PolicyProcessor

SIDE, COMPLETIONS, ANSWER = 512, 4, 300
_STEPS = 3
#: What computes attention: "flash" without padding (`rapo.policy.attention.flash`), the others
#: with prefixes repeated and windows one by one.
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, slots=True)
class Size:
    """A published size of Qwen2.5-VL; the vision tower is that of all of them. `layers` None: the
    tiny model as it is."""

    hidden: int = 0
    intermediate: int = 0
    layers: int | None = None
    heads: int = 0
    kv_heads: int = 0
    tied: bool = False


SIZES = {
    "tiny": Size(),
    "3B": Size(2048, 11008, 36, 16, 2, tied=True),
    "7B": Size(3584, 18944, 28, 28, 4),
}
_VOCABULARY = 152_064
_TINY = Workload(
    name="tiny",
    images=1,
    side=SIDE,
    new_tokens=ANSWER,
    text={
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    vision={"hidden_size": 64, "intermediate_size": 128, "depth": 2, "num_heads": 4, "fullatt_block_indexes": [1]},
)


def processor_of(folder: Path) -> PolicyProcessor:
    """A processor whose images have at most 512 x 512 pixels, of a tiny model in `folder`."""
    return PolicyProcessor(build_model(_TINY, folder / "model"))


def learner_rows(size: str, device: torch.device, deadline: float) -> Iterator[dict[str, Any]]:
    """A row for each way to train the model `size`; none that begins after `deadline` (monotonic).
    A way that does not fit into memory has a row that says so."""
    with tempfile.TemporaryDirectory() as temporary:
        processor = processor_of(Path(temporary))
        model = _model(Path(temporary) / "model", SIZES[size], device)
        shape = _shape(model)
        batch = _batch(processor, 2 if size == "tiny" else COMPLETIONS, 8 if size == "tiny" else ANSWER)
        batch = batch.to(device, torch.bfloat16)
        for packing in ("prefix", "rows"):
            for checkpointing in (True, False):
                for kernel in _KERNELS if packing == "prefix" else ("torch's choice",):
                    if time.monotonic() > deadline:
                        return
                    yield {
                        "part": "learner",
                        "model": size,
                        "packing": packing,
                        "checkpointing": checkpointing,
                        "kernel": kernel,
                        **_measure(model, processor, batch, packing, checkpointing, kernel, shape),
                    }


def _model(tiny: Path, size: Size, device: torch.device) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(tiny)
    if size.layers is not None:
        config.text_config.update(
            {
                "hidden_size": size.hidden,
                "intermediate_size": size.intermediate,
                "num_hidden_layers": size.layers,
                "layer_types": ["full_attention"] * size.layers,
                "num_attention_heads": size.heads,
                "num_key_value_heads": size.kv_heads,
                "vocab_size": _VOCABULARY,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            }
        )
        config.vision_config.update(
            {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": size.hidden,
                "fullatt_block_indexes": [7, 15, 23, 31],
            }
        )
        config.tie_word_embeddings = size.tied
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    model.config.use_cache = False
    return model.to(device)


def _shape(model: PreTrainedModel) -> ModelShape:
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        return ModelShape.read(Path(folder))


def _batch(processor: PolicyProcessor, completions: int, answer: int) -> GroupBatch:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
    allowed = np.setdiff1d(np.arange(len(processor.tokenizer)), processor.banned_token_ids)
    sampled = [rng.choice(allowed, answer) for _ in range(completions)]
    return collate([processor.prepare(image)], [sampled], processor.tokenizer.pad_token_id)


def _measure(
    model: PreTrainedModel,
    processor: PolicyProcessor,
    batch: GroupBatch,
    packing: Packing,
    checkpointing: bool,
    kernel: str,
    shape: ModelShape,
) -> dict[str, Any]:
    """Median seconds of a step, tokens per second, share of the card's peak, and peak memory."""
    policy = GroupPolicy(model, processor.banned_token_ids, packing=packing).to(batch.prompt_ids.device)
    (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
    policy.train()
    on_gpu = batch.prompt_ids.is_cuda
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    backend = _KERNELS.get(kernel)
    seconds = []
    try:
        for _ in range(_STEPS + 1):
            began = time.perf_counter()
            with sdpa_kernel(backend) if backend is not None else nullcontext():
                log_probs, _, _ = policy(batch)
                log_probs.mean().backward()
            model.zero_grad(set_to_none=True)
            if on_gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        model.zero_grad(set_to_none=True)
        return {"failed": " ".join(str(error).split())[:80]}
    median = statistics.median(seconds[1:])
    copies = 1 if packing == "prefix" else batch.completion_ids.shape[1]
    answers = int(batch.completion_mask.sum())
    prompt = int(batch.prompt_mask.sum())
    patches = 4 * int((batch.prompt_ids == model.config.image_token_id).sum())
    useful = 6 * (shape.text_parameters * (copies * prompt + answers) + shape.vision_parameters * copies * patches)
    row: dict[str, Any] = {"seconds": median, "answer tokens/s": answers / median, "TFLOP/s": useful / median / 1e12}
    if on_gpu:
        row |= {"MFU": useful / median / _peak(), "peak GB": torch.cuda.max_memory_allocated() / 1e9}
    return row


def _peak() -> float:
    """The card's peak, or that of an H100 where it is not known."""
    name = torch.cuda.get_device_name()
    known = [card for key, card in CARDS.items() if key.partition("-")[0] in name]
    return (known or [CARDS["H100-80"]])[0].flops
