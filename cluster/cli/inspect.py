"""Inspect: `rapo data inspect`, what a folder or a label file holds, in words and a histogram."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rapo.config import Config
from rapo.datasets.inspect import Inspection, inspect_files, inspect_source, is_collection
from rapo.datasets.registry import accepted, layouts
from rapo.errors import DataError

_BAR = 40


def inspect_lines(path: Path, config: Config) -> Iterator[str]:
    """What lies at `path`, line by line. The keys of one source in `config.data` apply to it.
    Raises `DataError` where there is nothing that can be read."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    source = config.data.single.model_copy(update={"path": path})
    if is_collection(path, source.format):
        yield from _details(inspect_source(source, config.image))
        return
    yield f"{path} is no one collection. Its label files:"
    found = False
    for file, result in inspect_files(path):
        found |= isinstance(result, Inspection)
        yield f"  {file.relative_to(path)}"
        yield f"    {result if isinstance(result, str) else _one_line(result)}"
    if not found:
        raise DataError(f"{path} holds no labels. {accepted()}")


def _details(one: Inspection) -> Iterator[str]:
    source, scores = one.source, one.source.labels.scores
    holds = next(layout.holds for layout in layouts() if layout.name == source.format.partition(" ")[0])
    yield f"path     {source.path}"
    yield f"layout   {source.format}: {holds}"
    yield f"rows     {one.rows:,}"
    yield f"splits   {_splits(one)}"
    if one.sets:
        yield f"sets     {', '.join(f'{name} ({count:,})' for name, count in one.sets.items())}"
    yield f"scale    {_scale(one)}"
    yield f"scores   {scores.min():.4g} to {scores.max():.4g}, mean {scores.mean():.4g}, sd {scores.std():.4g}"
    stds = source.labels.known_stds()
    yield f"spreads  {f'{len(stds):,} from {stds.min():.3g} to {stds.max():.3g}' if stds.size else 'none'}"
    most = max(one.bins)
    for low, high, count in zip(one.edges[:-1], one.edges[1:], one.bins, strict=True):
        bar = "#" * int(np.ceil(_BAR * count / most)) if count else ""
        yield f"  {low:8.4g} to {high:<8.4g} {count:>10,}  {bar}".rstrip()
    yield from _images(one)
    for item in source.skipped[:3]:
        yield f"skipped  {item['image']}: {item['reason']} ({item['detail']})"
    if len(source.skipped) > 3:
        yield f"skipped  {len(source.skipped):,} rows in all"
    for note in one.notes:
        yield f"note     {note}"
    if one.scale_problem:
        yield f"to do    {one.scale_problem}"


def _images(one: Inspection) -> Iterator[str]:
    images = one.images
    if images is None:
        return
    looked = "all" if images.looked_for == one.rows else f"a sample of {images.looked_for:,}"
    if images.folder is None:
        yield "images   inside of the table; they are unpacked into the run folder"
    else:
        yield f"images   in {images.folder}: {images.missing:,} missing of {images.looked_for:,} ({looked} looked for)"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in images.broken.items())
    yield f"         {sum(images.broken.values()):,} broken of {images.decoded:,} opened{f' ({reasons})' if reasons else ''}"
    for example in images.examples:
        yield f"         {example}"


def _splits(one: Inspection) -> str:
    if not one.splits:
        return "none of its own; a run divides it by hash"
    counts = ", ".join(f"{count:,} {split or 'in no list (train)'}" for split, count in one.splits.items())
    return f"{counts} ({one.source.split_source})"


def _scale(one: Inspection) -> str:
    native = one.source.native_range
    if native is not None:
        return f"{native[0]:g} to {native[1]:g}"
    return "not declared" if one.scale_problem else "0 to 1, or as declared"


def _one_line(one: Inspection) -> str:
    scores = one.source.labels.scores
    spread = f"{scores.min():.3g} to {scores.max():.3g}"
    return f"{one.source.format}: {one.rows:,} rows, scores {spread}, scale {_scale(one)}; splits: {_splits(one)}"
