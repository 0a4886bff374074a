"""WorkerExtension: what vLLM mixes into its worker (`worker_extension_cls`)."""

from __future__ import annotations

from rapo.inference.tree_reader import TreeReader
from rapo.inference.weight_loader import WeightLoader


class WorkerExtension(WeightLoader, TreeReader):
    """Loads weights and reads trees of answers in the worker."""
