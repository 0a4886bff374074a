"""Progress: how far a call of `rapo score` is, as a bar or as a line now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.terminal.format import duration

T = TypeVar("T")

#: Seconds between two lines where stderr is no terminal, such as a log file.
LINE_EVERY_S = 10.0


def tracked(items: Iterable[T], total: int, console: Console, clock: Callable[[], float] = monotonic) -> Iterator[T]:
    """`items`, of which there are `total`, with a bar on a terminal and lines elsewhere."""
    if console.is_terminal:
        columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total=total)
        return
    begun = said = clock()
    for done, item in enumerate(items, start=1):
        yield item
        if (now := clock()) - said >= LINE_EVERY_S and done < total:
            said = now
            rate = done / (now - begun)
            left = (total - done) / rate
            console.print(
                f"scored {done:,} of {total:,} images, {rate:.1f} a second, about {duration(left)} left",
                highlight=False,
                soft_wrap=True,
            )
