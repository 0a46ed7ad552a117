"""Charts that draw without a network, and the colours that all charts of this project share.

Altair 6's own renderers load their script from the web, or emit a mime type that JupyterLab 4.6 does not draw. A
`Figure` holds the plain Vega-Lite specification instead. It shows the specification under the mime type that JupyterLab
bundles, with a PNG beside it for viewers that draw nothing, so a chart stays within Vega-Lite 5.6. Its caption is one
sentence that says what the picture shows: it stands below the chart and is its alternative text.

    figure = Figure.from_altair(chart, caption="Refine takes twice as long as denoise.")
    figure                                         # in a notebook: interactive, dark or light
    figure.save("stages.pdf", look="paper")
    component_hues(["transformer", "vae"])         # {"transformer": "#0072B2", "vae": "#009E73"}

The eight colours are those of Okabe and Ito (2008), which people with any kind of colour vision can distinguish. A
component has one colour in every chart: the usual components of diffusion pipelines have a fixed hue, and others take
the remaining hues in the order of their first use. Vermilion is for errors and stalls, and grey for bars without a
component. Six hues remain, so a seventh component is grey, and its label names it.
"""

from __future__ import annotations

import base64
import os
import struct
import textwrap
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reslab.stages.support import Compared, Described, output_path

if TYPE_CHECKING:
    import altair as alt


Spec = Mapping[str, Any]

#: Eight hues, after Okabe and Ito, "Color Universal Design" (2008); grey stands in for their black.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "vermilion": "#D55E00",
    "yellow": "#F0E442",
    "grey": "#999999",
}

#: The axis of bars that carry their own labels: their names, and neither line nor ticks.
BARE_AXIS: dict[str, Any] = {"ticks": False, "domain": False, "labelPadding": 8}

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_VERSION = "5.8"  # the oldest Vega-Lite that vl-convert has; JupyterLab 4.6 draws with 5.6
_MIME = "application/vnd.vegalite.v5+json"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.6.json"  # a name, never fetched
_BELOW = {"orient": "bottom", "anchor": "start", "frame": "bounds"}
_PNG_SCALE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """The colours and the font size of a look."""

    ink: str
    background: str
    font_px: int


class Look(Described):
    """Where a figure will be seen.

    >>> Look("slides").doc
    'Black on white in large letters, for a wall.'
    """

    NOTEBOOK = "notebook", "Grey on a transparent ground, readable in a dark and in a light theme."
    PAPER = "paper", "Black on white, for a printed page."
    SLIDES = "slides", "Black on white in large letters, for a wall."


_STYLES = {
    Look.NOTEBOOK: Style(ink="#7a7a7a", background="transparent", font_px=12),
    Look.PAPER: Style(ink="#000000", background="white", font_px=11),
    Look.SLIDES: Style(ink="#000000", background="white", font_px=14),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figure(Compared):
    """A chart with its caption.

    >>> Figure(spec={"mark": "bar"}, caption="One bar.")
    Figure(caption='One bar.')

    Args:
        spec: A Vega-Lite 5 specification with its data inside, without title, background and fonts.
        caption: One sentence that says what the picture shows.
    """

    spec: Spec
    caption: str

    @classmethod
    def from_altair(cls, chart: alt.TopLevelMixin, *, caption: str) -> Figure:
        """Take the specification from an Altair chart, whose data must be inline (`alt.Data(values=rows)`).

        Args:
            chart: The chart.
            caption: One sentence that says what the picture shows.
        """
        spec = {key: value for key, value in chart.to_dict().items() if key not in ("$schema", "config")}
        return cls(spec=spec, caption=caption)

    def vega_lite(self, *, look: str = Look.NOTEBOOK) -> dict[str, Any]:
        """Return the complete specification: the chart, its caption, and the fonts and colours of a look.

        Args:
            look: A `Look`: "notebook", "paper" or "slides".

        Raises:
            ValueError: There is no such look.
        """
        style = _STYLES[Look.of(look, "look")]
        return {
            **self.spec,
            "$schema": _SCHEMA,
            "background": style.background,
            "description": self.caption,
            "title": {"text": textwrap.wrap(self.caption, 104), **_BELOW},
            "config": _config(style),
            "usermeta": {"embedOptions": {"actions": False, "renderer": "svg"}},
        }

    def save(self, path: str | os.PathLike[str], *, look: str = Look.PAPER) -> None:
        """Write the figure as an image; a PNG has the caption inside as its description.

        Args:
            path: Ends in .png, .svg or .pdf; folders on the way are made.
            look: A `Look`: "paper", "slides" or "notebook".

        Raises:
            ValueError: The path has another ending, or there is no such look.
        """
        import vl_convert

        spec = self.vega_lite(look=look)
        target = output_path(path, "a figure", ".png", ".svg", ".pdf")
        match target.suffix.casefold():
            case ".png":
                target.write_bytes(_described(_png(spec), self.caption))
            case ".svg":
                target.write_text(vl_convert.vegalite_to_svg(spec, vl_version=_VERSION), encoding="utf-8")
            case _:
                target.write_bytes(vl_convert.vegalite_to_pdf(spec, vl_version=_VERSION))

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        spec = self.vega_lite()
        png = _png(spec)
        width, height = (round(side / _PNG_SCALE) for side in struct.unpack(">II", png[16:24]))  # of its IHDR chunk
        data = {_MIME: spec, "image/png": base64.b64encode(png).decode(), "text/plain": repr(self)}
        return data, {"image/png": {"alt": self.caption, "width": width, "height": height}}

    def __repr__(self) -> str:
        return f"Figure(caption={self.caption!r})"


def _png(spec: dict[str, Any]) -> bytes:
    import vl_convert

    return _deflated(vl_convert.vegalite_to_png(spec, vl_version=_VERSION, scale=_PNG_SCALE))


def _deflated(png: bytes) -> bytes:
    """Compress an image's data as far as deflate can: notebooks are committed with it, and it becomes a third."""
    chunks, at = [], len(_PNG_MAGIC)
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += size + 12  # its length, type and checksum
    pixels = b"".join(data for kind, data in chunks if kind == b"IDAT")
    smaller = (b"IDAT", zlib.compress(zlib.decompress(pixels), 9))
    kept = [chunk for chunk in chunks[:-1] if chunk[0] != b"IDAT"]
    return _PNG_MAGIC + b"".join(_chunk(kind, data) for kind, data in [*kept, smaller, chunks[-1]])


def _described(png: bytes, caption: str) -> bytes:
    """Put a caption into an image, as the text chunk "Description" (PNG 1.2, section 4.2.3.3)."""
    text = b"Description\0" + bytes(4) + caption.encode()  # not compressed; no language, no translated keyword
    header = len(_PNG_MAGIC) + 12 + struct.unpack_from(">I", png, len(_PNG_MAGIC))[0]
    return png[:header] + _chunk(b"iTXt", text) + png[header:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _config(style: Style) -> dict[str, Any]:
    ink, size = style.ink, style.font_px
    text = {"labelColor": ink, "titleColor": ink, "labelFontSize": size, "titleFontSize": size}
    return {
        "font": "sans-serif",
        "view": {"stroke": None},
        "axis": {**text, "domainColor": ink, "tickColor": ink, "grid": False, "labelLimit": 400},
        "legend": text,
        "header": text,
        "text": {"color": ink, "fontSize": size},
        "rule": {"color": ink},
        "title": {"color": ink, "fontSize": size, "fontWeight": "normal", "offset": 10},
    }


#: The hues of the large components by the names that most pipelines of diffusers use; of two with one hue, the first
#: that is present has it.
FIXED = {
    "transformer": "blue",
    "unet": "blue",
    "transformer+lora": "sky",
    "text_encoder": "orange",
    "vae": "green",
    "audio_vae": "purple",
    "vocoder": "sky",
    "connectors": "yellow",
}
STALL_COLOR, OTHER_COLOR = PALETTE["vermilion"], PALETTE["grey"]

_SPARE = ("blue", "orange", "green", "purple", "sky", "yellow")


def component_hues(components: Iterable[str]) -> dict[str, str]:
    """Return a colour for each component.

    >>> list(component_hues(["vae", "upsampler", "transformer"]).values())
    ['#009E73', '#E69F00', '#0072B2']

    Args:
        components: The names of the components, in an order that does not change.
    """
    names = list(dict.fromkeys(components))
    fixed: dict[str, str] = {}
    for name, hue in FIXED.items():
        if name in names and hue not in fixed.values():
            fixed[name] = hue
    spare = (hue for hue in _SPARE if hue not in fixed.values())
    return {name: PALETTE[fixed.get(name) or next(spare, "grey")] for name in names}
