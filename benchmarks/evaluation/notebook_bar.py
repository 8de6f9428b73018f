"""The progress bar of an evaluation in a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["notebook_bar"]


def notebook_bar(total: int) -> Callable[[int], None]:
    """Shows how many images are done where this runs in a notebook. The bar disappears at the end.

    Args:
        total: The number of images.

    Returns:
        A function that takes the number of images done; outside of a notebook it does nothing.
    """
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # Only the shell of a Jupyter kernel has a kernel: a terminal shows no HTML.
    if not hasattr(shell, "kernel"):
        return lambda _: None
    from IPython.display import HTML, display

    bar = display(HTML(_html(0, total)), display_id=True)  # type: ignore[no-untyped-call]
    return lambda done: bar.update(HTML(_html(done, total)))  # type: ignore[no-untyped-call]


def _html(done: int, total: int) -> str:
    return f"<progress value={done} max={total}></progress> {done} of {total} images" if done < total else ""
