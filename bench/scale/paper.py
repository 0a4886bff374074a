"""What `rapo plan` says of 8, 64 and 512 GPUs, by link and model.

    python -m bench.scale.paper [--gpu H100-80] [--driver-ms 1.8]

Nothing is measured: it is the arithmetic of `rapo.plan` over the shipped configurations for GPUs,
with the sizes of the published models. Nodes have eight GPUs, of which half train. `driver-ms` is
the driver's CPU time per group, from `python -m bench.scale`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.support import record
from rapo.config import load_config
from rapo.plan.cards import Card, card_named
from rapo.plan.estimate import Estimate, estimate
from rapo.plan.network import Network

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LINKS = (10.0, 25.0, 100.0, 200.0, 400.0)
ANSWER_TOKENS = 300


@dataclass(frozen=True, slots=True)
class Fleet:
    """A division of GPUs, half of which train. A step has `images`."""

    gpus: int
    images: int
    config: str

    @property
    def name(self) -> str:
        return f"{self.gpus} GPUs"


FLEETS = (
    Fleet(8, 128, "gpu-1x8.toml"),
    Fleet(64, 512, "gpu-8x8.toml"),
    Fleet(512, 512, "gpu-8x8.toml"),
    Fleet(512, 4096, "gpu-8x8.toml"),
)

#: Qwen2.5-VL's published sizes: width, inner width, layers, heads, heads of keys and values,
#: vocabulary, whether the head is the embedding; the inner width of the vision tower; the GPUs that
#: an engine is split over.
MODELS: Mapping[str, tuple[int, int, int, int, int, int, bool, int, int]] = {
    "3B": (2048, 11008, 36, 16, 2, 151936, True, 3420, 1),
    "7B": (3584, 18944, 28, 28, 4, 152064, False, 3420, 1),
    "32B": (5120, 27648, 64, 40, 8, 152064, False, 3456, 2),
    "72B": (8192, 29568, 80, 64, 8, 152064, False, 3456, 4),
}


def write_model(model: str, folder: Path) -> None:
    """A `config.json` with the sizes of a model."""
    hidden, inner, layers, heads, kv_heads, vocabulary, tied, vision_inner, _ = MODELS[model]
    text = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": vision_inner, "patch_size": 14}
    (folder / "config.json").write_text(json.dumps({"text_config": text, "vision_config": vision}), encoding="utf-8")


def planned(fleet: Fleet, model: str, card: Card, gbit: float, *overrides: str) -> Estimate:
    """The plan of a fleet for a model, with links of `gbit` Gbit/s."""
    parts = MODELS[model][-1]
    with tempfile.TemporaryDirectory() as folder:
        write_model(model, Path(folder))
        settings = [
            f"policy.model={folder}",
            f"learner.workers={fleet.gpus // 2}",
            f"coldstart.workers={fleet.gpus}",
            f"coldstart.batch_size={max(64, fleet.gpus)}",
            f"rollout.workers={fleet.gpus // 2 // parts}",
            f"rollout.max_workers={fleet.gpus // 2 // parts}",
            f"rollout.engine.tensor_parallel_size={parts}",
            f"rapo.images_per_step={fleet.images}",
        ]
        return estimate(
            load_config(CONFIGS / fleet.config, [*settings, *overrides]), card, ANSWER_TOKENS, Network(8, gbit)
        )


def fleet_rows(card: Card, driver_ms: float) -> Iterator[dict[str, object]]:
    """7B by the number of GPUs, with links of 100 Gbit/s."""
    for fleet, transport in [*((fleet, "object_store") for fleet in FLEETS), (FLEETS[-1], "broadcast")]:
        found = planned(fleet, "7B", card, 100.0, f"rollout.weight_transport={transport}")
        parts = {part.name: part for part in found.parts}
        yield {
            "GPUs": fleet.gpus,
            "nodes": found.nodes,
            "ranks + workers": f"{fleet.gpus // 2} + {fleet.gpus // 2}",
            "images": fleet.images,
            "weights by": transport,
            "rollout, s": round(parts["rollout"].seconds, 1),
            "learner, s": f"{parts['learner'].seconds:.1f}, {parts['learner'].bound}",
            "weights, s": round(parts["weights"].seconds, 1),
            "delivery, s": f"{parts['delivery'].seconds:.1f}, {parts['delivery'].bound}",
            "step, s": f"{found.step_seconds:.1f}, {found.step_bound}",
            "images/s": round(fleet.images / found.step_seconds, 1),
            "driver, s": round(fleet.images * driver_ms / 1000, 2),
        }


def byte_rows(card: Card) -> Iterator[dict[str, object]]:
    """Bytes of a 7B step by link, and memory by role."""
    for fleet in FLEETS:
        found = planned(fleet, "7B", card, 100.0)
        traffic = found.traffic
        memory = {role.role: role for role in found.memory}
        into = next(size for path, size in traffic.items() if path.startswith("gathers"))
        yield {
            "GPUs": fleet.gpus,
            "images": fleet.images,
            "a version, GB": round(traffic["weights, GPU to object store"] / 1e9, 1),
            "out of a node of ranks, GB": round(traffic["weights, out of a node of ranks"] / 1e9),
            "gathered and reduced, GB": round(into / 1e9),
            "over": "NVLink, each rank" if found.nodes == 1 else "each node's link",
            "snapshots, GB a step": round(traffic["snapshot, GPUs to object store"] / 1e9, 1),
            "rank, GB of its GPU": round(memory["learner"].total / 1e9),
            "worker, GB of its GPU": round(memory["rollout"].total / 1e9),
        }


def link_rows(card: Card, fleet: Fleet, transport: str) -> Iterator[dict[str, object]]:
    """Seconds of a version's delivery and of a step by model and link."""
    for model in MODELS:
        row: dict[str, object] = {"model": model}
        for gbit in LINKS:
            found = planned(fleet, model, card, gbit, f"rollout.weight_transport={transport}")
            row["version, GB"] = round(found.traffic["weights, GPU to object store"] / 1e9, 1)
            (delivery,) = (part for part in found.parts if part.name == "delivery")
            row[f"{gbit:g} Gbit/s"] = f"{delivery.seconds:.1f} of {found.step_seconds:.0f}"
        split = transport == "broadcast" and MODELS[model][-1] > 1
        row["runs"] = "no: rapo check refuses a split engine" if split else _fits(found)
        yield row


def _fits(found: Estimate) -> str:
    short = [role.role for role in found.memory if not role.fits]
    return f"no: memory of {', '.join(short)}" if short else "yes"


def tables(card: Card, driver_ms: float) -> dict[str, list[dict[str, object]]]:
    """All tables, by title."""
    found = {"7B by number of GPUs": list(fleet_rows(card, driver_ms)), "7B, bytes and memory": list(byte_rows(card))}
    for fleet in (FLEETS[1], FLEETS[3]):
        for transport in ("object_store", "broadcast"):
            title = f"Delivery of a version and a step, s: {fleet.name}, {transport}"
            found[title] = list(link_rows(card, fleet, transport))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="H100-80", help="the card")
    parser.add_argument("--driver-ms", type=float, default=1.8, help="the driver's CPU time per group")
    parser.add_argument("--out", type=Path, default=record.RESULTS, help="folder for scale_paper.json")
    options = parser.parse_args(arguments)
    found = tables(card_named(options.gpu), options.driver_ms)
    for title, rows in found.items():
        sys.stdout.write(f"\n{title}\n\n{record.markdown_table(rows)}\n")
    record.write_json("scale_paper", {"card": options.gpu, "tables": found}, options.out)


if __name__ == "__main__":
    main()
