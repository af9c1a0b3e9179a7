"""Made-up breast ultrasound scans in the layout of BUSI, for lessons and tests without any patient's picture.

A scan is simulated, not drawn: a map of echo strength (skin, fat lobules, gland, muscle, a lesion) is filled with
random scatterers, blurred by the point-spread function of the beam, turned into an envelope, weakened with depth and
log-compressed (the speckle model of Wagner et al., IEEE Trans. Sonics Ultrason. 30, 1983). Lesions follow BI-RADS
words: benign ones tend to be oval, wide and sharp, with bright echoes behind; malignant ones irregular, tall and
blurred, with a shadow behind. The classes overlap on purpose. Every length is in millimetres, every echo in decibels.
"""

import json
import os
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from busilib import cache
from busilib.data.files import pixel_sha256, text_sha256
from busilib.errors import DataError
from busilib.recipes import CLASSES

GENERATOR_VERSION = 2
_TABLE = json.loads((files("busilib") / "tables" / "phantom.json").read_text(encoding="utf-8"))


class Scanner(namedtuple("Scanner", _TABLE["scanners"]["first"])):
    """One hospital's scanner and its scans. A pair is a range that each scan draws from. "first" has BUSI's kind.

    Attributes:
        axial_mm, lateral_mm: width of the beam along and across it: short where the frequency is high.
        smooth_mm: how far neighbours are averaged afterwards, along and across the beam.
        depth_mm: how deep a scan looks.
        residual_db: loss in dB per mm that the gain curve leaves below its start; negative where it gives too much.
        gain_db, range_db: gain, and the echoes between black and white; a large range looks flat and grey.
        curve: exponent of the grey levels after compression; below 1 the dark parts are lifted.
        thin_fat: share of the breasts with little fat above the gland.
        gland_db: echo of the gland.
        images: how many of each class there are, as proportions: benign, malignant, normal.
        marked: share of the scans of each class with calipers or text burned in.
        pictogram: whether every scan has a body mark at the lower right.
        patient_scans: the most scans of one patient; 0 where nobody knows the patients, and copies are planted.
    """

    __slots__ = ()


SCANNERS = {name: Scanner(**settings) for name, settings in _TABLE["scanners"].items()}
_SEVERAL = {"benign": 16 / 437, "malignant": 1 / 210, "normal": 0.0}
_SIBLINGS = 346 / 780
_COLOUR = 16 / 780


class Scan(NamedTuple):
    """One made-up scan.

    ``pixels`` is uint8, (height, width) or (height, width, 3) for a colour image; ``mask`` is uint8 of the same height
    and width, 0 or 255, all lesions together; ``masks`` one such array per lesion (a black one when there is none);
    ``truth`` the parameters it was made from, as in ``phantom.csv``, of the first lesion where there is one: its centre
    in pixels of this image, its half axes in mm.
    """

    pixels: np.ndarray
    mask: np.ndarray
    truth: dict
    masks: tuple


# --- smooth random fields -------------------------------------------------------------------------------------------


def _spline(size, cell, start):
    """Return the first knot (size,) and the four cubic B-spline weights (4, size) of every pixel of an axis."""
    place = np.arange(size) / cell + start
    knot = place.astype(int)
    t = (place - knot).astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return knot, weights


def _field(rng, shape, cell):
    """Return smooth noise, float32 (height, width), mean about 0 and spread about 1; ``cell`` = grain in pixels."""
    rows, row_weights = _spline(shape[0], cell[0], rng.random())
    columns, column_weights = _spline(shape[1], cell[1], rng.random())
    knots = rng.standard_normal((rows[-1] + 4, columns[-1] + 4), dtype=np.float32)
    # Sums of products instead of a matrix product: a BLAS may add in another order on another number of threads.
    strips = sum(column_weights[k] * knots[:, columns + k] for k in range(4)) / np.float32(0.479)
    return sum(row_weights[k][:, None] * strips[rows + k] for k in range(4))


def _step(value, softness):
    """Return a soft step: 0 where ``value`` is well below 0, 1 where well above, over a width of ``softness``."""
    return 0.5 + 0.5 * np.tanh(value / np.float32(softness))


def _ridge(noise, width):
    """Return thin curves, 1 where ``noise`` crosses 0 and 0 away from it: a sheet of fibre cut by the scan plane."""
    return np.exp(-((noise / np.float32(width)) ** 2))


# --- tissue ---------------------------------------------------------------------------------------------------------


def _layers(rng, depth, width, mm, thin_fat):
    """Return the soft membership (height, width) of fat, gland, muscle and the deep part, below wavy borders."""
    top = rng.uniform(1.2, 2.4)
    fat = top + (rng.uniform(0.5, 4) if rng.random() < thin_fat else rng.uniform(4, 12))
    gland = fat + rng.uniform(9, 22)
    muscle = gland + rng.uniform(4, 10)
    below = []
    for border, wave, soft in ((top, 0.1, 0.2), (fat, 1.4, 0.3), (gland, 1.6, 0.5), (muscle, 1.2, 1.2)):
        line = border + wave * _field(rng, (1, width), (1, 10 / mm)) + 0.25 * _field(rng, (1, width), (1, 2 / mm))
        tilt = rng.normal(0, 0.05) * wave * (np.arange(width) * mm - width * mm / 2)
        below.append(_step(depth - (line + tilt).astype(np.float32), soft))
    return below[0] - below[1], below[1] - below[2], below[2] - below[3], below[3], 1 - below[0]


def _tissue(rng, shape, mm, scanner):
    """Return a breast without a lesion: echo strength in dB, float32 (height, width), and the gland's level."""
    height, width = shape
    depth = (np.arange(height, dtype=np.float32) * np.float32(mm))[:, None]
    fat, gland, muscle, deep, skin = _layers(rng, depth, width, mm, scanner.thin_fat)
    gland_db, streaky, lobular = rng.uniform(*scanner.gland_db), rng.uniform(0.4, 1.3), rng.uniform(0, 1.3)

    def grain(tall, wide):
        return _field(rng, shape, (tall / mm, wide / mm))

    def sheets(spacing, wander, length, thin):
        # Sheets lie roughly across the beam: curves of equal value of the depth with noise added.
        return _ridge(np.sin(np.pi * (depth / spacing + wander * grain(1.2 * spacing, length))), thin)

    patchy = grain(2.5, 5)
    septa = 17 * sheets(2.6, 0.45, 9, 0.17) * _step(grain(1.5, 5) - 0.3, 0.3)
    fine = 16 * sheets(rng.uniform(0.9, 1.4), 0.6, rng.uniform(4, 8), 0.4) * _step(grain(0.8, 3.5) - 0.3, 0.3)
    coarse = 17 * sheets(rng.uniform(1.6, 2.6), 0.5, rng.uniform(5, 10), 0.22) * _step(grain(1.5, 5) - 0.1, 0.3)
    lobules = _step(grain(rng.uniform(0.6, 1.2), rng.uniform(1.6, 3)) - rng.uniform(0.5, 1.1), 0.4)
    lobules *= rng.uniform(-14, -7) * _step(grain(3, 6) + 0.3, 0.4)
    fibres = 14 * _ridge(grain(0.5, 9), 0.2) * _step(grain(1.5, 7) - 0.2, 0.4)

    borders = 2 + 5 * _ridge(depth - 0.25, 0.2) + 3 * _ridge(depth - 1.2, 0.3)
    echo = fat * (-8 + 1.5 * patchy + septa + 0.4 * fine) + skin * borders
    echo += gland * (gland_db + 3.5 * patchy - 5 + streaky * (fine + coarse) + lobular * lobules)
    echo += muscle * (-9 + 2 * patchy + fibres) + deep * (-17 + 1.5 * patchy + 0.5 * fibres)

    # Tissue is pressed by the probe and slides: bend everything below the skin along a smooth displacement.
    calm = np.clip(depth / 4, 0, 1) / mm
    rows = np.arange(height)[:, None] + calm * (rng.uniform(0.4, 1.2) * grain(7, 10) + 0.25 * grain(2.5, 5))
    columns = np.arange(width)[None, :] + calm * 0.8 * grain(6, 8)
    return ndimage.map_coordinates(echo, [rows, columns], order=1, mode="nearest", output=np.float32), gland_db


# --- lesions --------------------------------------------------------------------------------------------------------


def _choose_lesion(rng, label, size, taken=None):
    """Return the parameters of one lesion in a frame of ``size`` = (height, width) mm, away from a lesion ``taken``."""
    kinds = _TABLE["lesions"][label]
    kind, margin, _, ratios, echoes, rough, soft, excess = kinds[rng.choice(3, p=[row[2] for row in kinds])]
    ratio = rng.uniform(*ratios)
    radius = min(np.exp(rng.uniform(np.log(3.0), np.log(7.2))), 0.24 * size[0])
    radius = radius if taken is None else rng.uniform(1.6, 2.6)  # a second lesion is small, so that both fit
    lateral, axial = radius * np.sqrt(ratio), radius / np.sqrt(ratio)
    for _ in range(40):
        x = rng.uniform(min(lateral + 3, 0.45 * size[1]), max(size[1] - lateral - 3, 0.55 * size[1]))
        z = rng.uniform(min(axial + 3.5, 0.45 * size[0]), max(0.72 * size[0] - axial, 0.5 * size[0]))
        if taken is None or abs(x - taken["x_mm"]) > taken["lateral_mm"] + lateral + 2:
            break
    benign = label == "benign"
    lesion = {"kind": kind, "margin": margin, "x_mm": x, "z_mm": z, "lateral_mm": lateral, "axial_mm": axial}
    lesion |= {"angle_deg": rng.normal(0, 9 if benign else 18), "echo_db": rng.uniform(*echoes), "rough": rough}
    lesion |= {"soft_mm": soft * rng.uniform(0.7, 1.5), "excess_db_per_mm": rng.uniform(*excess)}
    lesion |= {"uneven_db": rng.uniform(0.3, 1.5) if benign else rng.uniform(2, 4.5)}
    lesion |= {"halo_db": 0.0 if benign else rng.uniform(0, 7), "bright_dots": not benign and rng.random() < 0.35}
    return lesion


def _outline(rng, lesion, angles):
    """Return the border's distance, in units of the ellipse's radius, over ``angles``: smooth part and spicules."""
    smooth = np.ones_like(angles)
    for order in range(2, 5 if lesion["margin"] == "circumscribed" else 12):
        swing = rng.normal(0, 0.02 + 0.6 * lesion["rough"] / order**0.6)
        smooth += swing * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    spicules = np.zeros_like(angles)
    if lesion["margin"] in ("spiculated", "angular"):
        sharp = 0.11 if lesion["margin"] == "spiculated" else 0.3
        for _ in range(rng.integers(6, 13) if sharp < 0.2 else rng.integers(3, 6)):
            turn = np.angle(np.exp(1j * (angles - rng.uniform(0, 2 * np.pi))))
            spicules += rng.uniform(0.1, 0.6) * np.maximum(0, 1 - np.abs(turn) / (2 * sharp * rng.uniform(0.7, 1.4)))
    return np.maximum(smooth, 0.45), np.minimum(spicules, 0.7)


def _shape(rng, lesion, depth, across):
    """Return two signed distances in mm (inside negative), with and without the spicules' tips, and the slope."""
    turn = np.deg2rad(lesion["angle_deg"])
    cosine, sine = float(np.cos(turn)), float(np.sin(turn))
    x, z = across - lesion["x_mm"], depth - lesion["z_mm"]
    p = (x * cosine + z * sine) / lesion["lateral_mm"]
    q = (z * cosine - x * sine) / lesion["axial_mm"]
    radius = np.hypot(p, q)
    angles = np.linspace(-np.pi, np.pi, 361)
    smooth, spicules = _outline(rng, lesion, angles)
    theta = ((np.arctan2(q, p) + np.pi) * (360 / (2 * np.pi)) + 0.5).astype(int)
    scale = float(np.sqrt(lesion["lateral_mm"] * lesion["axial_mm"]))
    whole = (radius - (smooth + spicules).astype(np.float32)[theta]) * scale
    core = (radius - (smooth + 0.4 * spicules).astype(np.float32)[theta]) * scale
    return whole, core, np.abs(q) / (radius + 1e-3)


def _insert(rng, lesion, echo, mm):
    """Put a lesion into the echo map (changed in place); return its mask (bool) and its extra loss in dB."""
    depth, across = (np.arange(size, dtype=np.float32) * np.float32(mm) for size in echo.shape)
    whole, core, slope = _shape(rng, lesion, depth[:, None], across[None, :])
    soft = lesion["soft_mm"]
    ragged = whole + soft * _field(rng, echo.shape, (0.7 / mm, 1.0 / mm))
    if lesion["margin"] != "circumscribed":
        ragged += 0.13 * lesion["lateral_mm"] * _field(rng, echo.shape, (1.6 / mm, 2.2 / mm))
    inside = _step(-ragged, soft)
    texture = lesion["uneven_db"] * _field(rng, echo.shape, (1.2 / mm, 1.6 / mm))
    if lesion["bright_dots"]:
        texture += 16 * _step(_field(rng, echo.shape, (0.3 / mm, 0.4 / mm)) - 2.3, 0.1)
    loss = inside * lesion["excess_db_per_mm"]
    if lesion["margin"] == "circumscribed":
        # A thin capsule answers most where it lies across the beam; at the sides it bends the beam away.
        echo += 9 * _ridge(whole - 0.2, 0.25) * slope**2
        loss += 0.8 * (np.abs(whole) < 0.35).astype(np.float32)
    else:
        echo += lesion["halo_db"] * _ridge(np.maximum(ragged - 0.5, 0), 1.4)
    echo += inside * (lesion["echo_db"] + texture - echo)
    loss = np.cumsum(loss, axis=0, dtype=np.float64) * mm
    behind = ndimage.gaussian_filter1d(12 * np.tanh(loss / 12), 0.5 / mm, axis=1).astype(np.float32)
    db = lesion["behind_db"] = float(-behind[-1, round(lesion["x_mm"] / mm)])
    lesion["posterior"] = "none" if abs(db) < 2 else "enhancement" if db > 0 else "shadow"
    return core < 0, behind


# --- the scanner ----------------------------------------------------------------------------------------------------


def _envelope(rng, echo, mm, scanner):
    """Return the echo intensity, float32 (height, width): scatterers, beam, envelope, mean of two looks.

    Complex normal scatterers are the baseband form of many random reflectors in a resolution cell. The beam is
    separable and wider away from its focus. Two looks from different sides are averaged (compounding), and
    neighbours a little.
    """
    height, width = echo.shape
    looks = rng.standard_normal((4, height, width), dtype=np.float32) * 10 ** (echo / 20)
    axial, lateral = rng.uniform(*scanner.axial_mm) / mm, rng.uniform(*scanner.lateral_mm) / mm
    looks = ndimage.gaussian_filter1d(looks, axial, axis=1, truncate=3)
    focus = rng.uniform(0.3, 0.6)
    far = np.clip(np.abs(np.linspace(0, 1, height) - focus) * 2, 0, 1).astype(np.float32)[:, None]
    narrow = ndimage.gaussian_filter1d(looks, lateral, axis=2, truncate=3)
    looks = narrow + far * (ndimage.gaussian_filter1d(narrow, 1.5 * lateral, axis=2, truncate=3) * 1.3 - narrow)
    power = (looks * looks).sum(axis=0) * np.float32(np.pi * axial * lateral)
    return ndimage.gaussian_filter(power, [width / mm for width in scanner.smooth_mm], truncate=2.5)


def _shade(rng, shape, mm, scanner):
    """Return the loss in dB (height, width) that depth and bad contact bring, after the scanner's own compensation."""
    depth = (np.arange(shape[0]) * mm)[:, None]
    residual = rng.uniform(*scanner.residual_db) * np.maximum(depth - rng.uniform(6, 22), 0)
    residual += rng.uniform(0, 6) * np.exp(-depth / 3) * rng.choice([-0.5, 1])
    contact = np.maximum(_field(rng, (1, shape[1]), (1, rng.uniform(2, 6) / mm)) - rng.uniform(0.9, 2.3), 0)
    return (residual + contact * rng.uniform(2, 7) * np.clip(depth / 12, 0, 1)).astype(np.float32)


def _simulate(label, rng, lesions, scanner, look):
    """Return a whole frame in grey levels (float32, before rounding), its masks (bool) and its true parameters.

    ``look`` draws what the scans of one patient share: depth, lesion, gain and range.
    """
    shape = int(look.integers(212, 330)), int(look.integers(230, 401))
    mm = look.uniform(*scanner.depth_mm) / shape[0]  # a pixel's side
    echo, gland_db = _tissue(rng, shape, mm, scanner)
    placed, masks, loss = [], [], _shade(rng, shape, mm, scanner)
    for _ in range(lesions if label != "normal" else 0):
        size = shape[0] * mm, shape[1] * mm
        placed.append(_choose_lesion(look, label, size, placed[0] if placed else None))
        mask, behind = _insert(rng, placed[-1], echo, mm)
        masks.append(mask)
        loss += behind
    gain_db, range_db = look.uniform(*scanner.gain_db), look.uniform(*scanner.range_db)
    power = _envelope(rng, echo, mm, scanner) * 10 ** (-loss / 10) + 10 ** (rng.uniform(-4.4, -3.6))
    grey = (10 * np.log10(power) + gain_db + 0.52 * range_db) * (255 / range_db)
    if scanner.curve != 1:
        grey = 255 * (np.clip(grey, 0, 255) / 255) ** np.float32(scanner.curve)
    truth = {"mm_per_pixel": mm, "gain_db": gain_db, "range_db": range_db, "gland_db": gland_db}
    return grey, masks, truth | {"lesions": len(placed)} | (placed[0] if placed else {})


# --- one image ------------------------------------------------------------------------------------------------------


def _cut(rng, grey, masks, truth, copy, mirrored):
    """Cut one picture out of the frame; a copy is cut elsewhere, its gain turned and perhaps mirrored."""
    height, width = grey.shape
    (top, bottom), (left, right) = (rng.integers(0, side // 25 + 1, 2).tolist() for side in grey.shape)
    if copy:
        grey = grey * rng.uniform(0.92, 1.08) + rng.uniform(-14, 14)
    turn = -1 if mirrored else 1
    grey, *masks = (part[top : height - bottom, left : width - right][:, ::turn] for part in (grey, *masks))
    truth |= {"copy": copy, "mirrored": mirrored}
    if masks:
        x, z = truth["x_mm"] / truth["mm_per_pixel"] - left, truth["z_mm"] / truth["mm_per_pixel"] - top
        x = grey.shape[1] - 1 - x if mirrored else x
        truth |= {"centre_x": x, "centre_y": z, "angle_deg": truth["angle_deg"] * turn}
    return grey, masks, truth


def _blacken(rng, pixels):
    """Now and then leave a black corner or strip, as at the edge of a probe's field (changed in place)."""
    height, width = pixels.shape
    if rng.random() < 0.08:
        slant = np.arange(height)[:, None] * rng.uniform(0.12, 0.3) + np.arange(width)[None, :]
        corner = slant < rng.uniform(0.06, 0.12) * width
        pixels[corner if rng.random() < 0.5 else corner[:, ::-1]] = 0
    if rng.random() < 0.06:
        pixels[-int(rng.integers(4, 0.06 * height)) :] = 0


def _calipers(rng, draw, mask, ink):
    """Mark the two diameters of a lesion (or of a place in normal tissue) with crosses and dotted lines."""
    rows, columns = np.nonzero(mask)
    if len(rows):
        left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    else:
        height, width = mask.shape
        x, y = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.6) * height
        left, right, top, bottom = x - 0.1 * width, x + 0.1 * width, y - 0.08 * height, y + 0.08 * height
    x, y, lean = (left + right) / 2, (top + bottom) / 2, rng.uniform(-0.15, 0.15) * (bottom - top)
    for ends in (((left, y - lean), (right, y + lean)), ((x + lean, top), (x - lean, bottom))):
        for px, py in ends:
            draw.line([px - 4, py, px + 4, py], fill=ink)
            draw.line([px, py - 4, px, py + 4], fill=ink)
        (ax, ay), (bx, by) = ends
        draw.point([(ax + part * (bx - ax), ay + part * (by - ay)) for part in np.linspace(0, 1, 16)], fill=ink)


def _doppler(rng, picture):
    """Draw a colour box into the picture, with a few patches of flow, red towards the probe and blue away from it."""
    width, height = picture.size
    box_h, box_w = int(rng.uniform(0.35, 0.55) * height), int(rng.uniform(0.35, 0.55) * width)
    top, left = int(rng.uniform(0.1, 0.4) * height), int(rng.uniform(0.1, 0.4) * width)
    flow = _field(rng, (box_h, box_w), (9, 12))
    picture.paste((210, 60, 20), (left, top), Image.fromarray(flow > 1.6))
    picture.paste((30, 70, 220), (left, top), Image.fromarray(flow < -1.7))
    ImageDraw.Draw(picture).rectangle([left, top, left + box_w, top + box_h], outline=(230, 200, 60))


def _annotate(rng, pixels, mask, marks, colour, pictogram):
    """Return the pixels with burned-in marks; three channels when ``colour``."""
    picture, ink = Image.fromarray(pixels), int(rng.integers(200, 256))
    if colour:
        picture = picture.convert("RGB")
        if rng.random() < 0.5 or not marks:
            _doppler(rng, picture)
        ink = (250, 220, 60) if rng.random() < 0.6 else (90, 240, 120)
    draw = ImageDraw.Draw(picture)
    if pictogram:
        x, y = picture.width - 30, picture.height - 26
        draw.arc([x, y, x + 22, y + 22], 0, 360, fill=ink)
        draw.line([x + 11, y + 11, x + 18, y + 5], fill=ink, width=2)
    if "calipers" in marks:
        _calipers(rng, draw, mask, ink)
    if "text" in marks:
        width, height = picture.size
        place = rng.uniform(0.02, 0.65) * width, rng.choice([rng.uniform(0.04, 0.12), rng.uniform(0.6, 0.92)]) * height
        draw.text(place, str(rng.choice(_TABLE["texts"])), fill=ink, font=ImageFont.load_default())
    return np.array(picture)


def get_scanner(scanner):
    """Return the `Scanner` of a name in `SCANNERS`, and a Scanner itself. Raises DataError for another name."""
    if isinstance(scanner, str) and scanner not in SCANNERS:
        raise DataError(f"A phantom's scanner must be one of {', '.join(SCANNERS)}, not {scanner!r}.")
    return SCANNERS[scanner] if isinstance(scanner, str) else scanner


def draw(label, seed, *, copy=0, mirrored=False, marks="", colour=False, lesions=1, scanner="first"):
    """Make one scan of class ``label`` from ``seed`` (an int or a list of ints) and return a `Scan`.

    ``copy`` 1, 2 … gives near-duplicates: the same frame cut elsewhere with another gain; ``mirrored`` turns it round;
    ``marks`` is "", "calipers", "text" or "calipers;text"; ``lesions`` is ignored for normal tissue. ``scanner`` is a
    name in `SCANNERS` or a `Scanner`; where it knows patients, the last of the seeds numbers the scans of one patient.
    """
    if label not in CLASSES:
        raise DataError(f"A phantom's class must be one of {', '.join(CLASSES)}, not {label!r}.")
    scanner = get_scanner(scanner)
    seeds = [*np.atleast_1d(seed).tolist(), CLASSES.index(label)]
    first = np.random.default_rng([*seeds, 0])
    look = np.random.default_rng([*seeds[:-2], seeds[-1], 0]) if scanner.patient_scans else first
    grey, masks, truth = _simulate(label, first, lesions, scanner, look)
    rng = np.random.default_rng([*seeds, 1 + copy])
    grey, masks, truth = _cut(rng, grey, masks, truth, copy, mirrored)
    pixels = np.clip(np.rint(grey + rng.standard_normal(grey.shape, dtype=np.float32)), 0, 255).astype(np.uint8)
    _blacken(rng, pixels)
    masks = tuple(mask.astype(np.uint8) * 255 for mask in masks) or (np.zeros_like(pixels),)
    whole = np.maximum.reduce(masks)
    truth |= {"label": label, "marks": marks, "colour": colour, "width": pixels.shape[1], "height": pixels.shape[0]}
    return Scan(_annotate(rng, pixels, whole, marks, colour, scanner.pictogram), whole, truth, masks)


# --- a whole data set -----------------------------------------------------------------------------------------------


def _shares(n, images):
    """Divide ``n`` images among the classes as a scanner does, by the largest remainder, with two at least in each."""
    exact = n * np.array(images) / sum(images)
    counts = exact.astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    return dict(zip(CLASSES, counts.tolist(), strict=True))


def _families(count):
    """Return the sizes of a class's groups: near-duplicates, 2, 3, 2, 2, 3 …, as many as in BUSI, then single ones."""
    rest, sizes = round(_SIBLINGS * count), []
    while rest >= 2:
        sizes.append(3 if rest == 3 or (rest > 3 and len(sizes) % 3 == 1) else 2)
        rest -= sizes[-1]
    return sizes + [1] * (count - sum(sizes))


def _patients(rng, count, most):
    """Return how many scans each patient of a class has: 2 to ``most``, ``count`` in all."""
    sizes = []
    while sum(sizes) < count:
        sizes.append(min(int(rng.integers(2, most + 1)), count - sum(sizes)))
    return sizes


def _plan_class(rng, label, count, first_group, scanner):
    """Return one dict per image of a class: group, copy, mirrored, marks, colour, lesions, in shuffled order."""
    rows, most = [], scanner.patient_scans
    for group, size in enumerate(_patients(rng, count, most) if most else _families(count), first_group):
        flips = [False] * size if most else [False, *(rng.random(size - 1) < 0.35).tolist()]
        if group == first_group and size > 1 and not most:
            flips[1] = True
        shared = {"label": label, "drawn_as": label, "group": group, "lesions": 1, "colour": False}
        shared["lone"] = size == 1 and not most
        rows += [shared | {"copy": 0 if most else k, "scan": k, "mirrored": flip} for k, flip in enumerate(flips)]
    several = max(round(_SEVERAL[label] * count), int(label != "normal" and count >= 14))
    for row in [row for row in rows if row["lone"]][:several]:
        row |= {"lone": False, "lesions": 2}
    marked = set(rng.permutation(count)[: round(scanner.marked[CLASSES.index(label)] * count)].tolist())
    kinds = ["text"] * 4 + ["calipers"] if label == "normal" else ["calipers", "calipers", "text", "calipers;text"]
    for k, row in enumerate(rows):
        row["marks"] = str(rng.choice(kinds)) if k in marked else ""
    return [rows[k] | {"image_id": f"{label} ({number})"} for number, k in enumerate(rng.permutation(count), 1)]


def _plan(n, seed, scanner):
    """Return one dict per image of the whole data set, with all that `draw` needs and the image's name."""
    rng = np.random.default_rng([seed, 7])
    rows = []
    for label, count in _shares(n, scanner.images).items():
        rows += _plan_class(rng, label, count, 1 + len(rows), scanner)
    if scanner.patient_scans:
        return rows
    one, other = ([r for r in rows if r["lone"] and r["label"] == label][-1] for label in ("benign", "malignant"))
    marked = [row for row in rows if row["marks"] and row is not other]
    for k in rng.permutation(len(marked))[: max(1, round(_COLOUR * n))]:
        marked[k]["colour"] = True
    # The same picture under two labels, as benign (433) and malignant (145) in BUSI.
    other.update({key: one[key] for key in ("group", "copy", "mirrored", "marks", "colour")}, drawn_as="benign")
    return rows


def _write_scan(folder, seed, row, scanner):
    """Draw one planned scan, write its image and its masks, and return its line of ``phantom.csv``."""
    wanted = {key: row[key] for key in ("copy", "mirrored", "marks", "colour", "lesions")}
    seeds = [seed, row["group"], *([row["scan"]] if scanner.patient_scans else [])]
    scan = draw(row["drawn_as"], seeds, scanner=scanner, **wanted)
    stem = folder / row["label"] / row["image_id"]
    stem.parent.mkdir(exist_ok=True)
    pictures = [Image.fromarray(pixels) for pixels in (scan.pixels, *scan.masks)]
    for picture, ending in zip(pictures, ("", "_mask", "_mask_1"), strict=False):
        picture.save(f"{stem}{ending}.png", compress_level=4)
    line = {key: row[key] for key in ("image_id", "group")} | scan.truth | {"label": row["label"]}
    line["sha256"] = text_sha256(row["label"], *map(pixel_sha256, pictures))
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}


def make(folder, n=300, seed=0, jobs=None, scanner="first"):
    """Write ``n`` made-up scans with masks into ``folder``, in the BUSI layout; return its Path.

    Beside them ``phantom.csv`` tells how each scan was drawn, and ``phantom.json`` n, seed, the generator's version and
    the scanner, a name in `SCANNERS`; ``patients.csv`` the patients, where that scanner knows them.

    ``n`` counts images, copies included; all that BUSI's faults teach is planted from n = 60 on (two pictures with two
    labels from 12, several masks for a benign scan from about 25 and for a malignant one from about 52). The files
    depend on ``n`` and ``seed`` only; ``jobs`` is the number of threads (default: up to four).
    Raises DataError when the folder holds something already or n is below 12.
    """
    folder, settings = Path(folder), get_scanner(scanner)
    if n < 12:
        raise DataError(f"At least 12 phantoms are needed so that every class has two; {n} were asked for.")
    if folder.is_file() or any(folder.glob("*")):
        raise DataError(f"{folder} exists and is not empty. Choose another folder, or remove it first.")
    with cache.write_folder(folder) as working, ThreadPoolExecutor(jobs or min(4, os.cpu_count() or 1)) as pool:
        lines = pool.map(lambda row: _write_scan(working, seed, row, settings), _plan(n, seed, settings))
        table = pd.DataFrame(cache.bar(lines, "making phantoms", total=n, unit="scan"))
        table.to_csv(working / "phantom.csv", index=False, lineterminator="\n")
        made = json.dumps({"n": n, "seed": seed, "version": GENERATOR_VERSION, "scanner": scanner})
        if settings.patient_scans:
            patients = table[["image_id"]].assign(patient=[f"patient {group}" for group in table["group"]])
            patients.to_csv(working / "patients.csv", index=False, lineterminator="\n")
        (working / "phantom.json").write_text(f"{made}\n", encoding="utf-8")
    return folder


def cached(n=300, seed=0, scanner="first"):
    """Return the folder of ``n`` phantoms in the user's cache; made on first use, by one process at a time."""
    kind = "" if scanner == "first" else f"-{scanner}"
    folder = cache.cache_dir("phantoms") / f"phantom{kind}-n{n}-seed{seed}-v{GENERATOR_VERSION}"
    with FileLock(f"{folder}.lock"):
        return folder if folder.is_dir() else make(folder, n, seed, scanner=scanner)
