"""Every picture, from arrays and tables, each with its description in words.

A function returns a `Picture`; as the last line of a cell it shows the image and, below it, its description, which
is the image's alternative text as well. Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

COLOURS = {"benign": "#0072B2", "malignant": "#D55E00", "normal": "#009E73"}
TRAIN, VALIDATION, PAPER = "#0072B2", "#E69F00", "#7F7F7F"


class Picture:
    """A finished figure: ``png`` (bytes) and ``description`` (what a person who cannot see it should be told)."""

    def __init__(self, figure, description, dpi=84):
        self.description = " ".join(description.split())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
        # 128 colours are enough for scans and plots, and a third of the size.
        small = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        small.save(buffer, format="PNG", optimize=True)
        self.png = buffer.getvalue()

    def save(self, path):
        """Write the PNG to a file."""
        with open(path, "wb") as file:
            file.write(self.png)

    def _ipython_display_(self):
        from IPython.display import Markdown, display

        data = {"image/png": self.png, "text/plain": self.description}
        display(data, metadata={"image/png": {"alt": self.description}}, raw=True)
        display(Markdown(f"*Figure. {self.description}*"))


def workflows():
    """The steps of both papers side by side (paper A's Figure 1, paper B's Figure 3)."""
    steps = {
        "Paper A: ResNet50": [
            "780 scans (BUSI)",
            "clean names, resize to 128 × 128",
            "split 85 / 15 %: train, test",
            "train the head, base frozen",
            "fine-tune, 3 more dense layers",
            "scores and confusion matrix\non the test part",
        ],
        "Paper B: Inception-ResNet-v2": [
            "1578 files: scans and masks",
            "split 70 / 20 / 10 %: train, validation, test",
            "augment train and validation",
            "train 10 epochs at 150 × 150",
            "choose the best model",
            "accuracy and confusion matrix\non the test part",
        ],
    }
    figure = Figure(figsize=(9, 5.4))
    axes = figure.subplots(1, 2)
    for ax, (title, boxes), colour in zip(axes, steps.items(), ("#0072B2", "#D55E00"), strict=True):
        ax.set(xlim=(0, 1), ylim=(-len(boxes) + 0.4, 0.6), title=title)
        ax.axis("off")
        for i, text in enumerate(boxes):
            ax.text(
                0.5, -i, text, ha="center", va="center", fontsize=11,
                bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": colour, "linewidth": 1.6},
            )  # fmt: skip
            if i:
                ax.annotate("", (0.5, -i + 0.28), (0.5, -i + 0.72), arrowprops={"arrowstyle": "->", "color": colour})
    figure.tight_layout()
    return Picture(
        figure,
        "Two columns of six boxes joined by arrows. Paper A: 780 scans, clean names and resize to 128 × 128, split 85 "
        "to 15 per cent, train the head, fine-tune, score on the test part. Paper B: 1578 files, split 70, 20 and 10 "
        "per cent, augment train and validation, train 10 epochs at 150 × 150, choose the best model, score on the "
        "test part. Paper A has no validation part of its own.",
    )


def scans(images, titles, masks=None, columns=3, description=""):
    """Scans in a grid, with the outline of each mask where one is given.

    ``images``: sequence of arrays (h, w) or (h, w, 3), uint8. ``titles``: one a scan. ``masks``: boolean arrays
    (h, w) of the same size, or None for a scan without lesion.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2.7 * columns, 2.5 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for i, (ax, image, title) in enumerate(zip(axes, images, titles, strict=False)):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(title, fontsize=10)
        if masks is not None and masks[i] is not None and np.any(masks[i]):
            ax.contour(masks[i], levels=[0.5], colors=["#F0E442"], linewidths=1.6)
    figure.tight_layout()
    return Picture(figure, description or f"{len(images)} scans: {'; '.join(titles)}.".replace("\n", ", "))


def class_balance(counts):
    """Bars of images and masks a class. ``counts``: table with a row a class and the columns images and masks."""
    table = counts.drop(index="total", errors="ignore")
    figure = Figure(figsize=(6, 3))
    ax = figure.subplots()
    places = np.arange(len(table))
    for shift, column, hatch in ((-0.2, "images", ""), (0.2, "masks", "//")):
        colours = [COLOURS[name] for name in table.index]
        bars = ax.bar(places + shift, table[column], 0.38, color=colours, hatch=hatch, edgecolor="white", label=column)
        ax.bar_label(bars, fontsize=9)
    ax.set_xticks(places, table.index)
    ax.set_ylabel("files")
    ax.margins(y=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("left bar: images, right bar (hatched): masks", fontsize=10)
    words = "; ".join(f"{name}: {row['images']} images and {row['masks']} masks" for name, row in table.iterrows())
    return Picture(figure, f"Bar chart of files a class. {words}.")


def sizes(table):
    """Width against height of every scan. ``table``: a catalogue's table."""
    figure = Figure(figsize=(5.4, 3.6))
    ax = figure.subplots()
    for (name, rows), marker in zip(table.groupby("label"), "o^s", strict=False):
        ax.scatter(rows["width"], rows["height"], s=14, alpha=0.6, color=COLOURS[name], marker=marker, label=name)
    ax.set(xlabel="width in pixels", ylabel="height in pixels")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(
        figure,
        f"Scatter plot of the scans' sizes: widths from {table['width'].min()} to {table['width'].max()} pixels, "
        f"heights from {table['height'].min()} to {table['height'].max()}. No size is common to all, so every scan "
        "must be resized.",
    )


def curves(histories, paper=None, measures=("accuracy", "loss")):
    """Accuracy and loss of training and validation by epoch.

    ``histories``: dict title → table with epoch, accuracy, loss, val_accuracy, val_loss. ``paper``: an optional
    table of the same columns, drawn in grey.
    """
    rows = len(histories)
    figure = Figure(figsize=(9, 3 * rows))
    axes = figure.subplots(rows, len(measures), squeeze=False)
    words = []
    for line, (title, table) in zip(axes, histories.items(), strict=True):
        for ax, measure in zip(line, measures, strict=True):
            ax.plot(table["epoch"], table[measure], "o-", color=TRAIN, ms=4, label="training")
            ax.plot(table["epoch"], table[f"val_{measure}"], "s--", color=VALIDATION, ms=4, label="validation")
            if paper is not None and measure in paper:
                ax.plot(paper["epoch"], paper[measure], ":", color=PAPER, label="paper, training")
                ax.plot(paper["epoch"], paper[f"val_{measure}"], "-.", color=PAPER, label="paper, validation")
            ax.set(xlabel="epoch", ylabel=measure, title=f"{title}: {measure}")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(frameon=False, fontsize=8)
            first, last = table.iloc[0], table.iloc[-1]
            words.append(
                f"{title}: training {measure} goes from {first[measure]:.2f} to {last[measure]:.2f} in {len(table)} "
                f"epochs, validation {measure} from {first[f'val_{measure}']:.2f} to {last[f'val_{measure}']:.2f}"
            )
    figure.tight_layout()
    return Picture(figure, "Line plots by epoch. " + "; ".join(words) + ".")


def confusion(matrices, classes):
    """Confusion matrices as heat maps: counts, with the share of the row below. ``matrices``: dict title → (K, K)."""
    import seaborn

    figure = Figure(figsize=(4.1 * len(matrices), 3.7))
    axes = figure.subplots(1, len(matrices), squeeze=False).ravel()
    words = []
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=True):
        matrix = np.asarray(matrix)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        texts = np.array([f"{n}\n{s:.0%}" for n, s in zip(matrix.ravel(), shares.ravel(), strict=True)])
        seaborn.heatmap(
            shares, annot=texts.reshape(matrix.shape), fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
            xticklabels=classes, yticklabels=classes, linewidths=1, ax=ax,
        )  # fmt: skip
        ax.set(title=title, xlabel="predicted", ylabel="true")
        rows = "; ".join(f"{name}: {', '.join(map(str, row))}" for name, row in zip(classes, matrix, strict=True))
        words.append(f"{title}: {rows}")
    figure.tight_layout()
    columns = ", ".join(classes)
    return Picture(figure, f"Confusion matrix, rows true, columns predicted ({columns}). " + ". ".join(words) + ".")


def scores(table, title="", baseline=None):
    """Scores with their intervals as points with bars. ``table``: index names; columns score, low, high."""
    figure = Figure(figsize=(6.4, 0.5 * len(table) + 1.2))
    ax = figure.subplots()
    places = np.arange(len(table))[::-1]
    low, high = table["score"] - table["low"], table["high"] - table["score"]
    ax.errorbar(table["score"], places, xerr=[low, high], fmt="o", color=TRAIN, capsize=4)
    if baseline is not None:
        ax.axvline(baseline, color=PAPER, ls="--", lw=1)
        ax.text(baseline, len(table) - 0.4, "majority class", color=PAPER, fontsize=9, ha="center")
    ax.set_yticks(places, table.index)
    ax.set(xlabel=title or "score", xlim=(0, 1.02), ylim=(-0.6, len(table) - 0.2))
    ax.spines[["top", "right"]].set_visible(False)
    words = "; ".join(
        f"{i}: {r['score']:.2f}, 95 % interval {r['low']:.2f} to {r['high']:.2f}" for i, r in table.iterrows()
    )
    ending = f"; the majority class alone gives {baseline:.2f}" if baseline is not None else ""
    return Picture(figure, f"Points with intervals. {words}{ending}.")
