"""The gallery: a card per row, the photograph stored once, every heatmap as a tiny grey picture over it.

A heatmap is coloured by an SVG filter in the browser, so that its opacity is live and the page needs no script to show
it: the colours of :func:`cgc.report.overlays.colourise`, the cover of :func:`cgc.report.overlays.heatmap_overlay`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from cgc.metrics.maps import full_size_map
from cgc.report.html.content import Card, Said
from cgc.report.overlays import BOX_COLOUR, colourise

_LONGER_SIDE = 320  # pixels of the stored photograph
_QUALITY = 78
_LARGEST_GRID = 64  # a map of more cells is stored smaller
_COLOURS = 11


def heat_filter() -> str:
    """The SVG filter that turns a grey map into colours, the hotter the less transparent (by the square root)."""
    table = colourise(np.linspace(0, 1, _COLOURS)[None])[0] / 255
    channels = "".join(
        f'<feFunc{name} type="table" tableValues="{" ".join(f"{v:.4f}" for v in table[:, c])}"/>'
        for c, name in enumerate("RGB")
    )
    return (
        '<svg class="defs" aria-hidden="true"><filter id="heat" x="0" y="0" width="1" height="1" '
        'color-interpolation-filters="sRGB">'
        f'<feComponentTransfer in="SourceGraphic" result="colour">{channels}</feComponentTransfer>'
        '<feColorMatrix in="SourceGraphic" type="matrix" values="0 0 0 0 0  0 0 0 0 0  0 0 0 0 0  1 0 0 0 0"/>'
        '<feComponentTransfer result="cover"><feFuncA type="gamma" exponent="0.5"/></feComponentTransfer>'
        '<feComposite in="colour" in2="cover" operator="in"/></filter></svg>'
    )


def card_html(card: Card, number: int, names: Sequence[str], titles: dict[str, str]) -> str:
    """One card: the photograph and one heatmap per model, with the boxes or the mask's outline on each.

    ``titles``: what to call a class, where that is not its name.
    """
    title = titles.get(card.class_name, card.class_name)
    ratio = f"{card.image.width}/{card.image.height}"
    photo = _data_uri(_jpeg(card.image), "jpeg")
    region, what = _region(card)
    figures = [
        f'<figure class="photo"><div class="frame" role="img" aria-label="{escape(f"Photograph of {title}{what}")}">'
        f"{region}</div><figcaption>image</figcaption></figure>"
    ]
    figures += [_model_figure(said, m, names[m], title, titles, region) for m, said in enumerate(card.said)]
    return (
        f'<article class="card" id="card-{number}" data-card="{number}" tabindex="-1" '
        f'style="--photo:url({photo});--ratio:{ratio}">'
        f'<h3>{escape(title)} <span class="path">{escape(card.path)}</span></h3>'
        f'<div class="panels">{"".join(figures)}</div></article>\n'
    )


def _model_figure(said: Said, m: int, name: str, title: str, titles: dict[str, str], region: str) -> str:
    words = spoken(said, titles)
    if said.map_hw is None:
        layers = '<div class="grey"></div><span class="none">no map</span>'
    else:
        uri = _data_uri(_map_png(said.map_hw), "png")
        alt = escape(f"Heatmap of {name} for {title}: {words}")
        layers = f'<div class="grey"></div><img class="map" src="{uri}" alt="{alt}">'
    short = spoken(said, titles, verdicts=(" ✓", " ✗"))
    return (
        f'<figure class="model" data-model="{m}"><div class="frame">{layers}{region}</div>'
        f'<figcaption><b class="name m{m % 8}">{escape(name)}</b> {escape(short)}</figcaption></figure>'
    )


def spoken(
    said: Said, titles: dict[str, str], *, verdicts: tuple[str, str] = (" (right)", " (wrong)")
) -> str:
    """What a model says of an image, in words: prediction, whether it is right, and the scores that there are."""
    parts = []
    if said.prediction is not None:
        verdict = "" if said.correct is None else verdicts[0 if said.correct else 1]
        sure = "" if said.confidence is None else f", {100 * said.confidence:.0f} % sure"
        parts.append(f"says {titles.get(said.prediction, said.prediction)}{verdict}{sure}")
    elif said.confidence is not None:
        parts.append(f"confidence {100 * said.confidence:.0f} %")
    parts.append("CH not scored" if said.ch is None else f"CH {100 * said.ch:.1f} %")
    return "; ".join(parts)


def _region(card: Card) -> tuple[str, str]:
    """The outline of the region as an SVG over a frame, and how it is told in words."""
    width, height = card.image.size
    if card.mask_HW is not None:
        uri = _data_uri(_outline_png(card.mask_HW), "png")
        return f'<img class="region" src="{uri}" alt="">', ", with the outline of its mask"
    path = "".join(f"M{x0} {y0}H{x1 + 1}V{y1 + 1}H{x0}Z" for x0, y0, x1, y1 in card.boxes.tolist())
    if not path:
        return "", ""
    count = len(card.boxes)
    return (
        f'<svg class="region" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="under" d="{path}"/><path class="over" d="{path}"/></svg>',
        f", with {count} box{'es' if count > 1 else ''}",
    )


def _jpeg(image: Image.Image) -> bytes:
    scale = min(1.0, _LONGER_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.BICUBIC) if scale < 1 else image.convert("RGB")
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _map_png(map_hw: Tensor) -> bytes:
    """A map (h, w), at its own grid, scaled to its maximum: 8 bits of grey. Zeros stay zeros."""
    h, w = map_hw.shape
    if max(h, w) > _LARGEST_GRID:
        scale = _LARGEST_GRID / max(h, w)
        map_hw = (
            full_size_map(map_hw, (max(1, round(h * scale)), max(1, round(w * scale)))) * (map_hw > 0).any()
        )
    values = map_hw.double().numpy()
    largest = values.max()
    grey = np.rint(255 * values / largest) if largest > 0 else np.zeros_like(values)
    return _png(Image.fromarray(grey.astype(np.uint8)))


def _outline_png(mask_HW: npt.NDArray[np.bool_]) -> bytes:
    """The border pixels of a mask, at the stored photograph's size, on a transparent ground."""
    scale = min(1.0, _LONGER_SIDE / max(mask_HW.shape))
    size = (max(1, round(mask_HW.shape[1] * scale)), max(1, round(mask_HW.shape[0] * scale)))
    small = np.asarray(Image.fromarray(mask_HW).resize(size, Image.Resampling.NEAREST))
    padded = np.pad(small, 2)
    inside = np.ones_like(small)
    for dy, dx in ((0, 2), (4, 2), (2, 0), (2, 4)):
        inside &= padded[dy : dy + size[1], dx : dx + size[0]]
    picture = Image.fromarray((small & ~inside).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *BOX_COLOUR])
    picture.info["transparency"] = 0
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    options = {"transparency": 0} if "transparency" in picture.info else {}
    picture.save(buffer, "PNG", optimize=True, **options)
    return buffer.getvalue()


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
