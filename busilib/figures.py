"""Every picture, from arrays and tables, each with a caption and a description in words.

A function returns a `Picture`; as the last line of a cell it shows the image and its caption below. The image's
alternative text holds the caption and then all that is drawn, value by value. Colours are Okabe and Ito's, which the
colour-blind can tell apart.
"""

import base64
import html
import io
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from PIL import Image

COLOURS = {"benign": "#0072B2", "malignant": "#D55E00", "normal": "#009E73"}
TRAIN, VALIDATION, PAPER = "#0072B2", "#E69F00", "#595959"
LINES = (("", "training", "o-", TRAIN, ":"), ("val_", "validation", "s--", VALIDATION, "-."))  # of `curves`
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 3}


class Picture:
    """A finished figure: ``png`` (bytes), ``caption`` and ``description``.

    ``caption``: what is shown and how to read it, in one or two sentences. ``description``: what a person who cannot
    see it should be told, the caption and then the ``details``, a sentence each.
    """

    def __init__(self, figure, caption, details=(), dpi=84):
        self.caption = " ".join(caption.split())
        self.description = " ".join([self.caption, *(f"{' '.join(words.split())}." for words in details)])
        for ax in figure.axes:
            ax.set_visible(ax.has_data())  # the last places of a grid may be empty
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
        # 128 colours are enough for scans and plots, and a third of the size.
        small = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        small.save(buffer, format="PNG", optimize=True)
        self.png = buffer.getvalue()

    def _ipython_display_(self):
        _show({"image/png": self.png}, self.caption, self.description, {"image/png": {"alt": self.description}})


def _show(data, caption, description, metadata=None):
    from IPython.display import Markdown, display

    display(data | {"text/plain": description}, metadata=metadata, raw=True)
    display(Markdown(f"*Figure. {caption}*"))


def drawing(name):
    """Show a drawing by its name (a file of drawings/), with its title as the caption."""
    svg = (files("busilib") / "drawings" / f"{name}.svg").read_bytes()
    texts = (ElementTree.fromstring(svg).findtext("{http://www.w3.org/2000/svg}" + tag) for tag in ("title", "desc"))
    caption, description = (" ".join(text.split()) for text in texts)
    # An <img> in HTML: of an SVG output, notebooks and their exports keep no alternative text.
    style, source = 'style="max-width: 100%"', f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
    _show({"text/html": f'<img alt="{html.escape(description)}" {style} src="{source}">'}, caption, description)


def scans(images, titles, masks=None, columns=3, description="", what="scans"):
    """Scans in a grid, with the outline of each mask where one is given.

    ``images``: sequence of arrays (h, w) or (h, w, 3), 0–255. ``titles``: one per scan. ``masks``: boolean arrays
    (h, w) of the same size, or None for a scan without lesion. ``description``: the caption, one or two sentences;
    without it the scans are counted, and ``what`` says what they are.
    """
    lines = max((title.count("\n") for title in titles), default=0)
    width = min(2.7, 16.2 / columns)
    figure, axes = _images(images, titles, columns, (width, width - 0.2 + 0.2 * lines), vmin=0, vmax=255)
    for ax, mask in zip(axes, masks or [], strict=False):
        _outline(ax, mask, "#F0E442")
    caption = description or f"{len(images)} {what}." + (" The yellow line is the lesion's outline." if masks else "")
    return Picture(figure, caption, [title.replace("\n", ", ") for title in titles if title])


def curves(histories, paper=None):
    """Accuracy and loss on the training and the validation set by epoch.

    ``histories``: dict title → table with epoch, accuracy, loss, val_accuracy, val_loss. ``paper``: an optional
    table of the same columns, drawn in grey.
    """
    figure, axes = _axes(9, 3 * len(histories), len(histories), 2)
    panels = [(title, table, measure) for title, table in histories.items() for measure in ("accuracy", "loss")]
    words = []
    for ax, (title, table, measure) in zip(axes, panels, strict=True):
        for prefix, part, style, colour, grey in LINES:
            column = prefix + measure
            ax.plot(table["epoch"], table[column], style, color=colour, ms=4, label=part)
            if paper is not None and column in paper:
                ax.plot(paper["epoch"], paper[column], grey, color=PAPER, label=f"paper, {part}")
            first, last = table[column].iloc[[0, -1]]
            words.append(f"{title}: {part} {measure} goes from {first:.2f} to {last:.2f} in {len(table)} epochs")
        ax.set(xlabel="epoch", ylabel=measure, title=f"{title}: {measure}")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False, fontsize=8)
    caption = "Accuracy and loss by epoch: solid on the training set, dashed on the validation set."
    return Picture(figure, caption + (" Grey: the paper." if paper is not None else ""), words)


def confusion(matrices, classes):
    """Confusion matrices as heat maps: counts, with the share of the row below; two side by side.

    ``matrices``: dict title → (K, K).
    """
    columns, rows = min(2, len(matrices)), -(-len(matrices) // 2)
    figure, axes = _axes(4.1 * columns, 3.7 * rows, rows, columns)
    words = []
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=False):
        shares = matrix / np.maximum(np.sum(matrix, axis=1, keepdims=True), 1)
        texts = [f"{n}\n{share:.0%}" for n, share in zip(np.ravel(matrix), shares.ravel(), strict=True)]
        _heatmap(ax, shares, texts, classes, title, cmap="Blues", vmin=0, vmax=1.8, annot_kws={"color": "black"})
        counts = (f"{name}: {', '.join(map(str, row))}" for name, row in zip(classes, matrix, strict=True))
        words.append(f"{title}: {'; '.join(counts)}")
    caption = "Rows are the true classes, columns the predicted ones. Each cell: a count, and its share of the row."
    return Picture(figure, caption, [f"Classes: {', '.join(classes)}", *words])


def scores(table, title, baseline, baseline_name="majority class"):
    """Scores with their intervals as points with bars. ``table``: index names; columns score, low, high."""
    figure, (ax,) = _axes(7.4, 0.5 * len(table) + 1.2)
    _dots(ax, {"": table})
    _line(ax, baseline)
    ax.set_title(baseline_name, color=PAPER, fontsize=9, x=baseline / 1.02)
    ax.set(xlabel=title, xlim=(0, 1.02))
    caption = f"Scores with their 95 % intervals; the dashed line is the {baseline_name}."
    return Picture(figure, caption, [_words(table), f"The {baseline_name} alone gives {baseline:.2f}"])


def one_against_rest(matrix, classes):
    """Where TP, FN, FP and TN lie in a confusion matrix (K, K) when each class in turn is the positive one."""
    kinds, colours = ("TN", "FP", "FN", "TP"), ("#D9D9D9", "#E69F00", "#D55E00", "#009E73")
    figure, axes = _axes(3.3 * len(classes), 3.6, 1, len(classes))
    words = []
    for k, (ax, positive) in enumerate(zip(axes, classes, strict=True)):
        here = np.arange(len(classes)) == k
        which = 2 * here[:, None] + here  # the index of each cell's kind
        texts = [f"{n}\n{kinds[i]}" for n, i in zip(np.ravel(matrix), which.ravel(), strict=True)]
        counts = ", ".join(f"{kinds[i]} {np.sum(np.asarray(matrix)[which == i])}" for i in (3, 2, 1, 0))
        style = {"cmap": list(colours), "vmin": 0, "vmax": 3, "annot_kws": {"color": "black"}}
        _heatmap(ax, which, texts, classes, f"positive: {positive}\n{counts}", **style)
        words.append(f"{positive}: {counts}")
    caption = """The same confusion matrix once for each class: TP where row and column are the class, FN elsewhere in
        its row, FP elsewhere in its column, TN in all other cells."""
    return Picture(figure, caption, words)


def points(values, label, limits=None):
    """One point per scan for each name, with the median as a bar and a line at 0.

    ``values``: dict or Series name → (N,); NaN is left out. ``label``: the axis' text. ``limits``: the axis' ends.
    """
    figure, (ax,) = _axes(6.8, 0.6 * len(values) + 1)
    rng, words = np.random.default_rng(0), []
    for i, (name, scans) in enumerate(values.items()):
        scans = pd.Series(scans).dropna()
        low, median, high = scans.min(), scans.median(), scans.max()
        heights, colour = -i + rng.uniform(-0.17, 0.17, len(scans)), COLOURS.get(name, TRAIN)
        ax.scatter(scans, heights, s=12, alpha=0.5, color=colour, lw=0)
        ax.plot([median, median], [-i - 0.3, -i + 0.3], color="black", lw=2)
        below = f"{(scans < 0).mean():.0%} of {len(scans)} scans below zero"
        text = f"median {median:.2f}, from {low:.2f} to {high:.2f}, {below}"
        words.append(f"{name}: {text if len(scans) else 'nothing could be measured'}")
    _line(ax)
    ax.set_yticks([-i for i in range(len(values))], list(values.keys()))
    ax.set(xlabel=label, xlim=limits)
    return Picture(figure, f"One point per scan: {label}. The black bar is the median.", words)


def heat(images, maps, masks, places, titles, columns=4):
    """Grad-CAM over scans, with the lesion's outline and a cross at the peak.

    ``images``: uint8 (N, h, w, 3). ``maps``: (N, a, b) in [0, 1]. ``masks``: bool (N, h, w). ``places``: (N, 2), the
    peaks as fractions of height and width, NaN for none. ``titles``: one per scan.
    """
    figure, axes = _images(images, titles, columns, (2.3, 2.55))
    hits = 0
    for ax, values, mask, (y, x) in zip(axes, maps, masks, places, strict=True):
        height, width = mask.shape
        # One colour, the denser the stronger: where the map is 0 the scan stays as it is.
        dense = np.asarray(Image.fromarray(np.asarray(values, "float32")).resize((width, height), 2))
        ax.imshow(np.dstack([np.full((height, width, 3), (0.90, 0.62, 0.0)), 0.65 * np.clip(dense, 0, 1)]))
        _outline(ax, mask, "#56B4E9")
        if np.isfinite(y):
            ax.plot(x * width - 0.5, y * height - 0.5, "P", color="white", mec="black", ms=9)
            hits += bool(mask[int(y * height), int(x * width)])
    caption = f"""Grad-CAM over {len(images)} scans: the more orange, the more a place speaks for the class. The blue
        outline is the lesion, the cross the peak: inside in {hits} of {len(images)}."""
    return Picture(figure, caption, [title.replace("\n", ", ") for title in titles])


def right_counts(right, marked, label):
    """Bars: how many draws gave how many right. ``right``: whole numbers (n,). ``marked``: dict text → a number."""
    figure, (ax,) = _axes(7.4, 3)
    ax.bar(*np.unique(right, return_counts=True), 0.8, color=TRAIN)
    for (text, place), style in zip(marked.items(), ("--", ":", "-."), strict=False):
        ax.axvline(place, color=PAPER, ls=style, lw=1.5, label=f"{text}: {place}")
    ax.set(xlabel=label, ylabel="splits")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize=9, **BESIDE)
    words = f"Marked: {', '.join(f'{text} {place}' for text, place in marked.items())}"
    text = f"Bars from {min(right)} to {max(right)}, median {np.median(right):g}"
    caption = f"How many of {len(right)} splits gave each number: {label}. The vertical lines are named in the legend."
    return Picture(figure, caption, [text, words])


def worth(tables):
    """What each leak is worth: points with intervals, one line per leak, one colour per base.

    ``tables``: dict title → table with the leak's words as index and the columns mean, low, high (points).
    """
    figure, (ax,) = _axes(9.6, 0.55 * max(map(len, tables.values())) + 1.4)
    _dots(ax, tables, "mean")
    _line(ax)
    ax.set_xlabel("worth in points of accuracy, mean and 95 % interval over splits")
    ax.legend(frameon=False, fontsize=9, **ABOVE)
    words = [f"{title}: {_words(table, 'mean', digits='+.1f')}" for title, table in tables.items()]
    caption = "What each leak adds to the accuracy, in points: mean and 95 % interval over splits. Dashed: no effect."
    return Picture(figure, caption, words)


def comparison(table, baseline):
    """Several systems on the same images: accuracy with its interval, and the paired difference to the best.

    ``table``: index titles, best first; accuracy, accuracy_low, accuracy_high, difference, difference_low,
    difference_high (fractions), printed (per cent, NaN where nothing was) and same_kind (was the printed number
    measured on breast ultrasound?). ``baseline``: accuracy of the majority class.
    """
    figure, axes = _axes(10.5, 0.42 * len(table) + 1.7, 1, 2, sharey=True, width_ratios=(3, 2))
    for ax, name, line in zip(axes, ("accuracy", "difference"), (baseline, 0), strict=True):
        _dots(ax, {"": table}, name, f"{name}_")
        _line(ax, line, label="majority class")
        ax.grid(axis="x", alpha=0.25)
    for same, face, text in ((True, PAPER, "printed, breast ultrasound"), (False, "none", "printed, other data")):
        printed = table["printed"].where(table["same_kind"] == same) / 100
        axes[0].scatter(printed, np.arange(len(table))[::-1], marker="D", fc=face, ec=PAPER, label=text)
    axes[0].set(xlabel="accuracy, 95 % interval", xlim=(min(0.2, table["accuracy_low"].min() - 0.02), 1.02))
    axes[0].legend(frameon=False, fontsize=8, **ABOVE)
    axes[1].set_xlabel(f"difference to {table.index[table['difference'].abs().argmin()]}")
    printed = "; ".join(f"{title} {value:g} %" for title, value in table["printed"].dropna().items())
    caption = """Left: each system's accuracy on the same images, with its 95 % interval, and the number printed for it.
        Right: the paired difference to the best."""
    left = f"""Left: {_words(table, "accuracy", "accuracy_")}; the dashed line is the majority class, {baseline:.2f};
        diamonds are printed numbers, filled where measured on breast ultrasound: {printed or "none"}"""
    right = f"Right: {_words(table, 'difference', 'difference_', '+.2f')}"
    return Picture(figure, caption, [left, right])


def by_parameter(table, means, parameter, measure="test_accuracy", lines="protocol"):
    """Every run as a dot over one parameter, with means and 95 % intervals.

    ``table``: one row per run (`runs.collect`). ``means``: one row per value of ``parameter`` and of ``lines``, the
    column whose values get a colour each, with the columns measure, measure_low, measure_high
    (``runs.means(table, [measure], by=[lines, parameter])``). The values stand side by side in
    their order; numbers are joined by a line.
    """
    values = sorted(table[parameter].dropna().unique())
    places = {value: i for i, value in enumerate(values)}
    joined = "-" if pd.api.types.is_numeric_dtype(table[parameter]) else ""
    figure, (ax,) = _axes(8, 3.6)
    words, centre = [], (table[lines].nunique() - 1) / 2
    for number, (name, dots, style) in enumerate(_series(dict(list(table.groupby(lines))))):
        rows, shift = means[means[lines] == name].set_index(parameter), 0.05 * (number - centre)
        small = style | {"label": "", "ls": "", "ms": 4, "alpha": 0.5}
        ax.plot(dots[parameter].map(places) + shift - 0.02, dots[measure], **small)
        bars = _bars(rows, measure, f"{measure}_")
        ax.errorbar(rows.index.map(places) + shift, rows[measure], bars, ms=7, capsize=4, ls=joined, **style)
        words.append(f"{lines} {name}, {parameter} {_words(rows, measure, f'{measure}_', '.3f')}")
    ax.set_xticks(range(len(values)), map(str, values))
    ax.set_xlim(-0.6, len(values) - 0.4)
    measured, over = measure.replace("_", " "), parameter.replace("_", " ")
    ax.set(xlabel=over, ylabel=measured)
    if centre:  # there is more than one
        ax.legend(title=lines, frameon=False, **BESIDE)
    caption = f"Small dots: {measured} of {len(table)} runs over {over}. Large marks: means with 95 % intervals."
    return Picture(figure, caption, words)


def _axes(width, height, rows=1, columns=1, **options):
    """Return a figure and its axes, one after the other (array), without lines at the top and on the right."""
    # Constrained: tight_layout lets a tall scan cover the title below it.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _images(images, titles, columns, size, **options):
    """Return a figure with a grid of images, ``size`` inches each, and the axes of those that there are."""
    rows = max(1, -(-len(images) // columns))
    figure, axes = _axes(size[0] * columns, size[1] * rows, rows, columns)
    if not len(images):
        figure.text(0.5, 0.5, "nothing to show", ha="center")
    for ax, image, title in zip(axes, images, titles, strict=False):
        colour = np.ndim(image) == 3
        ax.axis("off")
        ax.imshow(np.clip(image, 0, 255).astype("uint8") if colour else image, cmap="gray", **options)
        ax.set_title(title, fontsize=9)
    return figure, axes[: len(images)]


def _outline(ax, mask, colour):
    if mask is not None and np.any(mask):
        ax.contour(mask, levels=[0.5], colors=[colour], linewidths=1.6)


def _series(values):
    """Return (title, value, style) for each item of a dict: a colour and a marker of its own, its title as label."""
    styles = ({"color": colour, "marker": marker} for colour, marker in zip(OKABE_ITO * 7, "os^DvPX" * 6, strict=True))
    return [(t, value, style | {"label": str(t)}) for (t, value), style in zip(values.items(), styles, strict=False)]


def _bars(table, value="score", prefix=""):
    """Return the lengths of the error bars (2, n) from a value to its low and high; 0 where there is no interval."""
    ends = table[value] - table[f"{prefix}low"], table[f"{prefix}high"] - table[value]
    return np.nan_to_num(ends).clip(min=0)


def _line(ax, place=0, **options):
    ax.axvline(place, color=PAPER, ls="--", lw=1, **options)


def _dots(ax, tables, value="score", prefix=""):
    """Draw a point with its interval for each row of each table: one line per name, one colour per table."""
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    places = np.arange(len(names))[::-1]
    for i, (_, table, style) in enumerate(_series(tables)):
        rows, shift = table.reindex(names), 0.2 * (i - (len(tables) - 1) / 2)
        ax.errorbar(rows[value], places - shift, xerr=_bars(rows, value, prefix), ls="", capsize=4, **style)
    ax.set_yticks(places, names)
    ax.set_ylim(-0.6, len(names) - 0.4)


def _words(table, value="score", prefix="", digits=".2f"):
    """Return a table's values with their intervals in words, one after the other."""
    columns = table[[value, f"{prefix}low", f"{prefix}high"]].itertuples(name=None)
    texts = (f"{name}: {mean:{digits}} ({low:{digits}} to {high:{digits}})" for name, mean, low, high in columns)
    return "; ".join(texts).replace(" (nan to nan)", "").replace(": nan", ": none")


def _heatmap(ax, values, texts, classes, title, **options):
    """Draw a square of coloured cells (K, K), a text (of K², row by row) in each; rows are true, columns predicted."""
    options |= {"xticklabels": classes, "yticklabels": classes, "linewidths": 1, "cbar": False, "square": True}
    seaborn.heatmap(values, annot=np.reshape(texts, values.shape), fmt="", ax=ax, **options)
    ax.set(title=title, xlabel="predicted", ylabel="true")


def labelled(images, titles, points):
    """Scans with the names of their parts beside them, each joined by a line to a point in that part.

    ``points``: one dict per scan, name → (row, column), from top to bottom.
    """
    figure, axes = _images(images, titles, len(images), (4.6, 3.4), vmin=0, vmax=255)
    words = []
    for ax, title, parts in zip(axes, titles, points, strict=True):
        for k, (name, (row, column)) in enumerate(parts.items()):
            place = 1.06, 1 - (k + 0.5) / len(parts)
            line = {"arrowstyle": "-", "color": "#E69F00", "lw": 1.4, "shrinkB": 0}
            ax.annotate(name, (column, row), place, textcoords="axes fraction", va="center", arrowprops=line)
            ax.plot(column, row, "o", color="#E69F00", mec="black", ms=5)
        words.append(f"{title}, from top to bottom: {', '.join(parts)}")
    return Picture(figure, f"{len(images)} scans. Each orange line leads from a name to a point in that part.", words)


def panels(tables):
    """Several models or tests, one line each: a panel per score, with intervals.

    ``tables``: dict title → table with the scores' names as index and the columns score, low, high.
    """
    names, words = next(iter(tables.values())).index, []
    figure, axes = _axes(11, 0.42 * len(tables) + 1.2, 1, len(names), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        rows = pd.DataFrame({title: table.loc[name, ["score", "low", "high"]] for title, table in tables.items()}).T
        rows = rows.astype(float)
        _dots(ax, {"": rows})
        ax.set_xlabel(name)
        ax.locator_params(axis="x", nbins=4)  # more would run into the next panel's
        ax.grid(axis="x", alpha=0.25)
        words.append(f"{name}: {_words(rows)}")
    return Picture(figure, f"Scores with their 95 % intervals: {', '.join(names)}.", words)
