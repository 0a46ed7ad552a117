"""Parts of the widget that tries device modes: progress, a dropdown, what it shows of runs and of a size."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from reslab.ltx2._mode_run import ModeRuns
from reslab.stages import Kind


class Progress:
    """Counts the stages that begin; an observer."""

    def __init__(self, bar: widgets.IntProgress) -> None:
        self._bar = bar

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        if kind == Kind.STAGE:
            self._bar.value += 1

    def end(self, error: BaseException | None = None) -> None:
        pass


def factored(nbytes: int) -> str:
    """Return a size as one would write it in code.

    >>> factored(600 * 2**20), factored(1000)
    ('600 * 2**20', '1000')
    """
    return f"{nbytes // 2**20} * 2**20" if nbytes % 2**20 == 0 else str(nbytes)


def dropdown(options: list[tuple[str, Any]]) -> widgets.Dropdown:
    """Return a dropdown of labels and values, the first of them chosen."""
    return widgets.Dropdown(options=options, value=options[0][1], layout={"width": "170px"})


def runs_html(runs: ModeRuns) -> str:
    """Return runs as a table over a picture."""
    if not runs.runs:
        return "<p>No run yet.</p>"
    figure = runs.chart()
    data, _metadata = figure._repr_mimebundle_()
    picture = f'<img alt="{escape(figure.caption)}" width="620" src="data:image/png;base64,{data["image/png"]}">'
    return runs._repr_html_() + picture
