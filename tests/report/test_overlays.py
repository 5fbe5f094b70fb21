"""Overlays: colours in order of value, boxes where they belong."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from cgc.report.overlays import colourise, draw_boxes, heatmap_overlay, overlay_panel


def test_colours_grow_lighter_with_the_value():
    colours = colourise(np.linspace(0, 1, 256)[None])[0].astype(float)
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) >= -0.5).all()
    assert luminance[-1] - luminance[0] > 200


def test_the_hot_half_takes_colour_and_a_zero_map_stays_grey():
    image = Image.new("RGB", (80, 40), (90, 90, 90))
    hot = np.asarray(heatmap_overlay(image, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))).astype(int)
    spread = hot.max(axis=2) - hot.min(axis=2)
    assert spread[:, :20].max() == 0
    assert spread[:, 70:].min() > 30
    flat = np.asarray(heatmap_overlay(image, torch.zeros(1, 4)))
    assert (flat == flat[0, 0]).all()


def test_boxes_are_drawn_on_their_own_pixels():
    image = Image.new("RGB", (60, 40), "white")
    drawn = np.asarray(draw_boxes(image, [[10, 5, 29, 24]]))
    changed = (drawn != 255).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 24, 10, 29)
    assert not changed[10:20, 15:25].any()
    assert np.asarray(image).min() == 255


def test_a_long_caption_is_cut_to_the_panel():
    panel = overlay_panel(
        Image.new("RGB", (32, 64)), torch.ones(2, 2), [[0, 0, 31, 63]], "long " * 80, side=64
    )
    assert panel.size == (2 * 64 + 4, 128 + 18)
