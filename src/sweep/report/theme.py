"""The report's colours, for light and dark, and how a figure becomes SVG or PNG.

Figures are always drawn in the light colours; in SVG each of them is then replaced by the CSS
variable of its name, so one drawing follows the reader's theme. Colours must therefore be distinct.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

LIGHT = {
    "paper": "#f7f6f3",
    "card": "#ffffff",
    "ink": "#1d2733",
    "muted": "#5f6b78",
    "rule": "#e2e3e1",
    "accent": "#11706a",
    "best": "#e9940a",
    "pruned": "#8b95a1",
    "failed": "#c23b2c",
    "outline": "#1d2734",
    "band0": "#f3f5f1",
    "band1": "#e3eeea",
    "band2": "#d0e5df",
    "band3": "#b8d9d2",
    "band4": "#9dcbc4",
    "band5": "#80bbb4",
    "band6": "#62aaa3",
    "band7": "#459891",
    "band8": "#2c857e",
}
DARK = {
    "paper": "#10151b",
    "card": "#171e26",
    "ink": "#e6eaee",
    "muted": "#98a4b0",
    "rule": "#2b343e",
    "accent": "#5fcabf",
    "best": "#f6b042",
    "pruned": "#7f8b98",
    "failed": "#f07f6f",
    "outline": "#ffffff",
    "band0": "#1b242c",
    "band1": "#1c2e35",
    "band2": "#1d393f",
    "band3": "#1e454a",
    "band4": "#1f5255",
    "band5": "#206061",
    "band6": "#226f6d",
    "band7": "#257f7b",
    "band8": "#2b918a",
}
BANDS = [LIGHT[f"band{i}"] for i in range(9)]
STYLE: Any = {  # newer stubs of matplotlib want the keys as literals, older ones do not know them
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["pruned"],
    "axes.facecolor": "none",
    "axes.labelcolor": LIGHT["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "xtick.color": LIGHT["pruned"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.color": LIGHT["pruned"],
    "ytick.labelcolor": LIGHT["muted"],
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.labelcolor": LIGHT["muted"],
    "figure.facecolor": LIGHT["card"],
    "svg.fonttype": "none",  # text stays text: selectable, and in the page's own font
}

_VARIABLE = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def svg(figure: Figure, name: str) -> str:
    """An `<svg>` element for a page; `name` keeps its ids apart from those of other figures.

    The figure keeps the layout that it has then: later pictures of it look the same, sooner.
    """
    buffer = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    figure.set_layout_engine("none")
    text = buffer.getvalue()
    head, body = text[text.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub("#[0-9a-f]{6}", lambda m: _VARIABLE.get(m[0], m[0]), body)
    body = re.sub(r'( id="|url\(#|<use xlink:href="#)', rf"\g<1>{name}-", body)
    return f"<svg {box[0] if box else ''}>" + body.replace("xlink:href", "href").strip()


def png(figure: Figure) -> bytes:
    """The figure on a plain background at twice its size in pixels."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
