"""The progress bar of commands that write a checkpoint tensor by tensor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def tensor_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr, on a terminal only.

    Yields a function to call after each tensor with the numbers of tensors done and in total.
    """
    from tqdm import tqdm

    with tqdm(desc=description, unit=" tensors", file=sys.stderr, disable=None) as bar:

        def on_tensor(num_written: int, total: int) -> None:
            bar.total = total
            bar.update(num_written - bar.n)

        yield on_tensor
