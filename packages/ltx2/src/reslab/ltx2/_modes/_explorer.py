"""A widget that tries device modes: choose a mode, run it, and see its bytes, its time and the line of code for it.

    mode_explorer(pipe, request, links={"H100": residency.link_ratio(residency.device("H100"), rehearsal)}, runs=runs)

The widget is a view over `run_mode`, and no other module imports it. Where widgets do not run, such as on a web page,
it shows the runs that it was given and the line of code for its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import ipywidgets as widgets

from reslab import residency
from reslab.ltx2._choices import DeviceMode
from reslab.ltx2._modes._mode_report import mib
from reslab.ltx2._modes._mode_runs import ModeRuns, run_mode
from reslab.profiler import PALETTE
from reslab.residency import Rehearsal
from reslab.stages import Kind, Pipeline


class StageCounter:
    """Observe a pipeline and count the stages that begin, for a progress bar."""

    def __init__(self, bar: widgets.IntProgress) -> None:
        self._bar = bar

    def begin(self, kind: str, name: str, index: int = -1, nbytes: int = 0) -> None:
        if kind == Kind.STAGE:
            self._bar.value += 1

    def end(self, error: BaseException | None = None) -> None:
        pass


def factored(nbytes: int) -> str:
    """Return a size as it is usually written in code.

    >>> factored(600 * 2**20), factored(1000)
    ('600 * 2**20', '1000')
    """
    return f"{nbytes // 2**20} * 2**20" if nbytes % 2**20 == 0 else str(nbytes)


def dropdown(options: list[tuple[str, Any]]) -> widgets.Dropdown:
    """Return a dropdown of labels and values whose first entry is chosen."""
    return widgets.Dropdown(options=options, value=options[0][1], layout={"width": "170px"})


def runs_html(runs: ModeRuns) -> str:
    """Return runs as HTML: a table over a chart."""
    if not runs.runs:
        return "<p>No run yet.</p>"
    figure = runs.chart()
    data, _metadata = figure._repr_mimebundle_()
    picture = f'<img alt="{escape(figure.caption)}" width="620" src="data:image/png;base64,{data["image/png"]}">'
    return runs._repr_html_() + picture


_UNLIMITED = "as fast as memory"
_UNSET = -1  # None would mean that the dropdown has no choice
_CODE = "white-space:pre-wrap;font-family:monospace;padding:6px 8px;border-left:3px solid #999999"


def mode_explorer(
    pipe: Pipeline,
    request: Mapping[str, Any],
    *,
    links: Mapping[str, Any],
    memories: Sequence[int] = (),
    rehearsal: Rehearsal | None = None,
    runs: ModeRuns | None = None,
) -> ModeExplorer:
    """Return a widget that runs a pipeline in a chosen device mode over a chosen link.

    Args:
        pipe: A two-stage pipeline of this package.
        request: The arguments of `pipe.run`.
        links: The links to choose from, by label, each as for `residency.apply`; "no limit" is always offered.
        memories: The sizes of free device memory to choose from, in bytes; "no limit" is always offered.
        rehearsal: The rehearsal of that run; by default it is made.
        runs: Runs to show from the beginning.
    """
    known = rehearsal or residency.rehearse(pipe, **request)
    return ModeExplorer(pipe, request, links=links, memories=memories, rehearsal=known, runs=runs or ModeRuns())


class ModeExplorer:
    """Show controls, a button and the runs so far; `mode_explorer` makes it.

    Attributes:
        runs: All runs so far.
        mode, link, blocks, memory: The controls, whose `value` can be set from code too.

    Args:
        pipe: A two-stage pipeline of this package.
        request: The arguments of `pipe.run`.
        links: The links to choose from, by label.
        memories: The sizes of free device memory to choose from, in bytes.
        rehearsal: The rehearsal of that run.
        runs: Runs to show from the beginning.
    """

    def __init__(
        self,
        pipe: Pipeline,
        request: Mapping[str, Any],
        *,
        links: Mapping[str, Any],
        memories: Sequence[int],
        rehearsal: Rehearsal,
        runs: ModeRuns,
    ) -> None:
        self.runs, self._message = runs, ""
        self._pipe, self._request, self._rehearsal = pipe, request, rehearsal
        self._links: dict[str, Any] = {_UNLIMITED: None, **links}
        blocks = int(rehearsal.components.filter(component="transformer")["blocks"].item())
        kept = range(0, blocks + 1, max(blocks // 4, 1)) if blocks else ()
        self.mode = widgets.ToggleButtons(
            options=[str(mode) for mode in DeviceMode],
            tooltips=[mode.doc for mode in DeviceMode],
            style={"button_width": "90px"},
        )
        self.link = dropdown([(label, label) for label in self._links])
        self.blocks = dropdown([("as the mode says", _UNSET), *((f"{count} of {blocks}", count) for count in kept)])
        self.memory = dropdown([("no limit", _UNSET), *((mib(size), size) for size in memories)])
        self._button = widgets.Button(description="Run", button_style="primary", icon="play")
        self._bar = widgets.IntProgress(max=2 * len(pipe.stages), layout={"display": "none", "width": "160px"})
        self._said, self._line, self._shown = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._button.on_click(lambda _button: self.run())
        for control in (self.mode, self.link, self.blocks, self.memory):
            control.observe(lambda _change: self._show_line(), "value")
        self._box = _layout(self)
        self._show_line()
        self._show_runs()

    @property
    def settings(self) -> dict[str, int]:
        """Return the resident-blocks control as user settings."""
        if self.blocks.value == _UNSET:
            return {}
        has_copy = self.mode.value == "snapshot" and self._rehearsal.components["lora_bytes"].sum() > 0
        copies = ["", residency.MERGED] if has_copy else [""]
        return {f"transformer{copy}.resident": self.blocks.value for copy in copies}

    @property
    def free_bytes(self) -> int | None:
        """Return the device memory that the mode is allowed, in bytes; None for no limit."""
        return None if self.memory.value == _UNSET else self.memory.value

    @property
    def code(self) -> str:
        """Return the line of code that the button runs, with the variable names of `mode_explorer`'s arguments."""
        arguments = [repr(self.mode.value), "pipe", "request"]
        if self.link.value != _UNLIMITED:
            arguments.append(f"link=links[{self.link.value!r}]")
        if self.free_bytes is not None:
            arguments.append(f"free_bytes={factored(self.free_bytes)}")
        if self.settings:
            arguments.append(f"settings={self.settings}")
        return f"ltx2.run_mode({', '.join(arguments)})"

    @property
    def message(self) -> str:
        """Return the last message: that a run is in progress, that it is done, or its error."""
        return self._message

    def run(self) -> None:
        """Run the chosen mode and show the result; an error is shown as a message, and the widget stays usable."""
        self._button.disabled, self._bar.layout.display = True, "flex"
        try:
            self._say("running: once to find out the calls, once to measure", "grey")
            with self._pipe.observe(StageCounter(self._bar)):
                self._run()
        except Exception as error:  # Jupyter shows no traceback of a button's handler
            self._say(str(error), "vermilion")
        else:
            self._say("done", "green")
        finally:
            self._button.disabled, self._bar.layout.display, self._bar.value = False, "none", 0

    def _run(self) -> None:
        label = self.link.value
        run = run_mode(
            self.mode.value,
            self._pipe,
            self._request,
            rehearsal=self._rehearsal,
            free_bytes=self.free_bytes,
            link=self._links[label],
            settings=self.settings,
        )
        if run.link_bytes_per_s is not None:  # from now on every mode has the bandwidth that a card's ratio gave
            self._links[label] = round(run.link_bytes_per_s)
        self.runs = replace(self.runs, runs=(*self.runs.runs, run))
        self._show_runs()

    def _show_line(self) -> None:
        self._line.value = f'<div style="{_CODE}">{escape(self.code)}</div>'

    def _show_runs(self) -> None:
        self._shown.value = runs_html(self.runs)

    def _say(self, sentence: str, hue: str) -> None:
        self._message = sentence
        self._said.value = f'<span style="color:{PALETTE[hue]}">{escape(sentence)}</span>'

    def __repr__(self) -> str:
        return f"ModeExplorer({self.code})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        live = self._box._repr_mimebundle_()
        note = "<p>The controls are there when this cell is run in Jupyter; the line of code runs anywhere:</p>"
        return {**live, "text/plain": repr(self), "text/html": note + self._line.value + self._shown.value}


def _layout(explorer: ModeExplorer) -> widgets.VBox:
    labelled = (
        ("mode", explorer.mode),
        ("link", explorer.link),
        ("transformer blocks that stay", explorer.blocks),
        ("memory of the device", explorer.memory),
    )
    apart = {"margin": "0 16px 0 0"}
    columns = [widgets.VBox([widgets.Label(text), control], layout=apart) for text, control in labelled]
    controls = widgets.HBox(columns, layout={"flex_flow": "row wrap"})
    action = widgets.HBox([explorer._button, explorer._bar, explorer._said])
    return widgets.VBox([controls, explorer._line, action, explorer._shown])
