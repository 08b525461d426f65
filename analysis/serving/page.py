"""The page: one HTML file that loads nothing. Its maps are drawn by BokehJS, which the package
bokeh brings as a file.

It shows documents (`serving.document`) that are in the file, or asks the server it came from for
them. A content security policy lets run only the scripts that are in it, known by their hashes, and
load nothing from elsewhere; all texts of a tree reach the page as text, never as HTML.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metaphase.analysis.figures import outcomes, style
from metaphase.analysis.serving.document import OUTCOMES
from metaphase.analysis.serving.snapshot import IN_TRAINING

SCRIPTS = (
    "data.js",
    "looks.js",
    "map.js",
    "detail.js",
    "main.js",
)  # in the order in which they build up
LIBRARY = ("bokeh.min.js", "bokeh-api.min.js")
# In the dark, what is better is lighter.
_DARK = {"untrained": "#45454d", "memorizing": "#d79a2b", "identifying": "#4a93cc"}
_DARK_GENERALIZING = ("#7f5fb8", "#a284dd", "#c7aefc", "#ece2ff")
# Of outcomes that are no phase, as `analysis.figures.outcomes` draws them: a symbol where tiles
# have room for it, lines in all of them, and the face under them.
SYMBOLS = {
    outcomes.COINCIDE: "=",
    outcomes.TOO_FAR: "≈",
    outcomes.NO_PHASE: "•",
    outcomes.PLATEAU: "–",
    outcomes.DIVERGED: "△",
    outcomes.FAILED: "✕",
    IN_TRAINING: "~",
}
PATTERNS = {
    outcomes.COINCIDE: "|",
    outcomes.TOO_FAR: "+",
    outcomes.NO_PHASE: ".",
    outcomes.PLATEAU: "-",
    outcomes.DIVERGED: "\\",
    outcomes.FAILED: "x",
}
_FACES = {
    outcomes.COINCIDE: ("#ffffff", "#1d1d22"),  # light, dark
    outcomes.TOO_FAR: ("#ffffff", "#1d1d22"),
    outcomes.NO_PHASE: ("#ffffff", "#1d1d22"),
    outcomes.PLATEAU: ("#d3dbd3", "#2c3830"),
    outcomes.DIVERGED: ("#f8dcdc", "#3b1d22"),
    outcomes.FAILED: ("#eaa9a9", "#652631"),
    IN_TRAINING: ("#f6e3f3", "#37223a"),
}
_INKS = {"light": ("#555555", style.RED), "dark": ("#a9a9b4", "#ff8a94")}  # usual, of what broke


def html(
    documents: Sequence[dict[str, Any]] = (),
    details: Sequence[Sequence[dict[str, Any]]] = (),
    served: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        documents: sweeps that are in the file, from `document.overview`.
        details: of each, `document.all_curves`.
        served: in place of them, the places of the sweeps that the page's server has.
    """
    import jinja2

    config = {
        "served": list(served),
        "outcomes": OUTCOMES,
        "symbols": SYMBOLS,
        "patterns": PATTERNS,
        "themes": _themes(),
    }
    data = {"config": pack(config)}
    if documents:
        data |= {"documents": pack(list(documents)), "details": pack(list(details))}
    scripts = [_library(name) for name in LIBRARY] + ["\n".join(map(_own, SCRIPTS))]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_own("page.html.jinja")).render(
        title=", ".join(one["name"] for one in documents) or "metaphase",
        policy=policy(scripts, bool(served)),
        style=_own("page.css"),
        scripts=scripts,
        data=data,
    )


def policy(scripts: Sequence[str], served: bool) -> str:
    """The content security policy of a page with these scripts."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    asked = "'self'" if served else "'none'"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {allowed}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            f"connect-src {asked}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def pack(value: Any) -> str:
    """A value as compressed JSON in base64, which is safe anywhere in HTML."""
    return base64.b64encode(compress(value)).decode()


def compress(value: Any) -> bytes:
    """A value as JSON, gzip."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), 6, mtime=0)


def _own(name: str) -> str:
    return (importlib.resources.files(__package__) / "page_files" / name).read_text("utf-8")


def _library(name: str) -> str:
    """A script of BokehJS. The Python package isn't imported, which takes a second.

    Raises:
        ModuleNotFoundError: the package bokeh isn't there.
    """
    spec = importlib.util.find_spec("bokeh")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the page is drawn by the package bokeh: pip install bokeh")
    folder = Path(spec.submodule_search_locations[0])
    return (
        (folder / "server" / "static" / "js" / name)
        .read_text("utf-8")
        .replace("</script", "<\\/script")
    )


def _themes() -> dict[str, Any]:
    """The colours of both themes: of outcomes and of patterns over them, of generalizing by
    strength, of measures."""
    from matplotlib.colors import to_hex

    shades = [to_hex(style.GENERALIZING_MAP(x)) for x in np.linspace(0, 1, 16)]
    scale = [to_hex(style.ACCURACY_MAP(x)) for x in np.linspace(0, 1, 64)]
    light: dict[str, Any] = {
        "outcomes": dict(style.COLORS),
        "generalizing": shades,
        "scale": scale,
    }
    dark: dict[str, Any] = {
        "outcomes": {**_DARK, "generalizing": _DARK_GENERALIZING[1]},
        "generalizing": list(_DARK_GENERALIZING),
        "scale": scale,
    }
    for place, (name, theme) in enumerate((("light", light), ("dark", dark))):
        theme["outcomes"] |= {outcome: faces[place] for outcome, faces in _FACES.items()}
        usual, broken = _INKS[name]
        theme["inks"] = dict.fromkeys(PATTERNS, usual) | dict.fromkeys(
            (outcomes.DIVERGED, outcomes.FAILED), broken
        )
    return {"light": light, "dark": dark}
