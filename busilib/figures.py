"""Every picture, from arrays and tables, each with its description in words.

A function returns a `Picture`; as the last line of a cell it shows the image and, below it, its description, which
is the image's alternative text as well. Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

COLOURS = {"benign": "#0072B2", "malignant": "#D55E00", "normal": "#009E73"}
TRAIN, VALIDATION, PAPER = "#0072B2", "#E69F00", "#595959"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


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
    rows = max(1, -(-len(images) // columns))
    lines = max((title.count("\n") for title in titles), default=0)
    # Constrained: tight_layout lets a tall scan cover the title below it.
    figure = Figure(figsize=(2.7 * columns, (2.5 + 0.2 * lines) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for i, (ax, image, title) in enumerate(zip(axes, images, titles, strict=False)):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255)
        ax.set_title(title, fontsize=10)
        if masks is not None and masks[i] is not None and np.any(masks[i]):
            ax.contour(masks[i], levels=[0.5], colors=["#F0E442"], linewidths=1.6)
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
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
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
    """Confusion matrices as heat maps: counts, with the share of the row below; two side by side.

    ``matrices``: dict title → (K, K).
    """
    import seaborn

    columns = min(2, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = Figure(figsize=(4.1 * columns, 3.7 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(matrices) :]:
        ax.axis("off")
    words = []
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=False):
        matrix = np.asarray(matrix)
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        texts = np.array([f"{n}\n{s:.0%}" for n, s in zip(matrix.ravel(), shares.ravel(), strict=True)])
        seaborn.heatmap(
            shares, annot=texts.reshape(matrix.shape), fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False, square=True,
            xticklabels=classes, yticklabels=classes, linewidths=1, ax=ax,
        )  # fmt: skip
        ax.set(title=title, xlabel="predicted", ylabel="true")
        counts = "; ".join(f"{name}: {', '.join(map(str, row))}" for name, row in zip(classes, matrix, strict=True))
        words.append(f"{title}: {counts}")
    figure.tight_layout()
    order = ", ".join(classes)
    return Picture(figure, f"Confusion matrix, rows true, columns predicted ({order}). " + ". ".join(words) + ".")


def scores(table, title="", baseline=None, baseline_name="majority class"):
    """Scores with their intervals as points with bars. ``table``: index names; columns score, low, high."""
    figure = Figure(figsize=(6.4, 0.5 * len(table) + 1.2))
    ax = figure.subplots()
    places = np.arange(len(table))[::-1]
    low, high = table["score"] - table["low"], table["high"] - table["score"]
    ax.errorbar(table["score"], places, xerr=[low, high], fmt="o", color=TRAIN, capsize=4)
    if baseline is not None:
        ax.axvline(baseline, color=PAPER, ls="--", lw=1)
        above = ax.get_xaxis_transform()
        ax.text(baseline, 1.01, baseline_name, color=PAPER, fontsize=9, ha="center", va="bottom", transform=above)
    ax.set_yticks(places, table.index)
    ax.set(xlabel=title or "score", xlim=(0, 1.02), ylim=(-0.6, len(table) - 0.2))
    ax.spines[["top", "right"]].set_visible(False)
    words = "; ".join(
        f"{i}: {r['score']:.2f}, 95 % interval {r['low']:.2f} to {r['high']:.2f}" for i, r in table.iterrows()
    )
    ending = f"; the {baseline_name} alone gives {baseline:.2f}" if baseline is not None else ""
    return Picture(figure, f"Points with intervals. {words}{ending}.")


def cnn_structure():
    """How a convolutional network is built: feature learning, then classification (paper B's Figure 1)."""
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9.6, 3.5))
    ax = figure.subplots()
    ax.set(xlim=(0, 18), ylim=(-1.3, 5.2), aspect="equal")
    ax.axis("off")
    # (x of the left edge, side, planes, what it is)
    stacks = (
        (0.2, 3.4, 1, "image"),
        (4.4, 3.0, 4, "convolution\n+ ReLU"),
        (8.3, 1.6, 4, "pooling"),
        (10.6, 1.3, 7, "convolution,\npooling …"),
    )
    for x, side, planes, text in stacks:
        for i in range(planes):
            place = (x + 0.13 * i, 1.9 - side / 2 + 0.13 * i)
            ax.add_patch(Rectangle(place, side, side, facecolor="#DCEBF5", edgecolor=COLOURS["benign"]))
        ax.text(x + side / 2, -0.25, text, ha="center", va="top", fontsize=9.5)
    ax.add_patch(Rectangle((1.6, 2.2), 0.8, 0.8, facecolor="none", edgecolor=COLOURS["malignant"], linewidth=2))
    ax.plot([2.4, 5.6], [2.6, 2.0], color=COLOURS["malignant"], linewidth=1)
    ax.plot(5.6, 2.0, "s", color=COLOURS["malignant"], ms=5)
    columns = ((13.8, 9, "flatten"), (15.5, 6, "dense"), (17.2, 3, "softmax"))
    for x, dots, text in columns:
        ax.plot([x] * dots, 1.9 + 0.38 * (np.arange(dots) - (dots - 1) / 2), "o", color=COLOURS["malignant"], ms=6)
        ax.text(x, -0.25, text, ha="center", va="top", fontsize=9.5)
    for start, end in ((3.7, 4.3), (7.85, 8.2), (12.8, 13.4), (14.1, 15.2), (15.8, 16.9)):
        ax.annotate("", (end, 1.9), (start, 1.9), arrowprops={"arrowstyle": "->", "color": "black"})
    for start, end, text in ((4.4, 12.7, "feature learning (the base)"), (13.3, 17.7, "classification (the head)")):
        ax.plot([start, start, end, end], [4.3, 4.5, 4.5, 4.3], color="black", linewidth=1)
        ax.text((start + end) / 2, 4.65, text, ha="center", fontsize=10.5)
    return Picture(
        figure,
        "Drawing of a convolutional network from left to right. Feature learning: the image, then convolution with "
        "ReLU, where one small window of the image gives one value of each feature map; then pooling, which makes the "
        "maps smaller; then more of both, with more and smaller maps. Classification: the maps are flattened into one "
        "row of numbers, followed by a dense layer and a softmax with one probability a class.",
    )


def inception_resnet_block():
    """The first kind of block in Inception-ResNet-v2, block35, with its channels (paper B's Figure 2)."""
    figure = Figure(figsize=(8.6, 5.6))
    ax = figure.subplots()
    ax.set(xlim=(-0.4, 10.4), ylim=(-0.4, 7.6))
    ax.axis("off")
    # name: (x, y, text, colour, the boxes that it takes its input from)
    boxes = {
        "in": (6, 7.2, "input: 320 channels", "black", ()),
        "a": (3, 5.9, "1×1 conv, 32", "#0072B2", ("in",)),
        "b1": (6, 5.9, "1×1 conv, 32", "#0072B2", ("in",)),
        "c1": (9, 5.9, "1×1 conv, 32", "#0072B2", ("in",)),
        "b2": (6, 4.9, "3×3 conv, 32", "#0072B2", ("b1",)),
        "c2": (9, 4.9, "3×3 conv, 48", "#0072B2", ("c1",)),
        "c3": (9, 3.9, "3×3 conv, 64", "#0072B2", ("c2",)),
        "join": (6, 2.9, "concatenate: 32 + 32 + 64 = 128", "#D55E00", ("a", "b2", "c3")),
        "up": (6, 1.9, "1×1 conv up to 320, no ReLU, times 0.17", "#D55E00", ("join",)),
        "add": (6, 0.9, "add: input + 0.17 × branches", "#009E73", ("up",)),
        "relu": (6, 0, "ReLU: 320 channels", "black", ("add",)),
    }
    arrow = {"arrowstyle": "->", "color": "black", "shrinkA": 0, "shrinkB": 0}
    for x, y, text, colour, sources in boxes.values():
        style = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour, "linewidth": 1.6}
        ax.text(x, y, text, ha="center", va="center", fontsize=10, bbox=style, zorder=3)
        for source in sources:
            # From the source's lower edge to this box's upper one; those that leave or arrive together stand apart.
            across = boxes[source][0] - x
            ends = ((x + 0.4 * across, y + 0.24), (x + across, boxes[source][1] - 0.24))
            ends = ((x, y + 0.24), (x + 0.6 * across, boxes[source][1] - 0.24)) if source == "in" else ends
            ax.annotate("", *ends, arrowprops=arrow)
    ax.plot([4.6, 0.6, 0.6], [7.2, 7.2, 0.9], color="#009E73", linewidth=1.8)
    ax.annotate("", (4.1, 0.9), (0.6, 0.9), arrowprops={"arrowstyle": "->", "color": "#009E73", "linewidth": 1.8})
    ax.text(0.45, 4, "shortcut: the input, unchanged", rotation=90, ha="right", va="center", color="#009E73")
    return Picture(
        figure,
        "Drawing of an Inception-ResNet block. The input of 320 channels goes into three branches: a 1×1 convolution "
        "with 32 filters; a 1×1 with 32 and a 3×3 with 32; a 1×1 with 32, a 3×3 with 48 and a 3×3 with 64. Their "
        "outputs are concatenated to 128 channels, brought up to 320 by a 1×1 convolution without ReLU, multiplied "
        "by 0.17 and added to the input, which came by a shortcut unchanged. A ReLU follows.",
    )


def one_against_rest(matrix, classes):
    """Where TP, FN, FP and TN lie in a confusion matrix (K, K) when each class in turn is the positive one."""
    from matplotlib.patches import Rectangle

    colours = {"TP": "#009E73", "FN": "#D55E00", "FP": "#E69F00", "TN": "#D9D9D9"}
    matrix = np.asarray(matrix)
    figure = Figure(figsize=(3.3 * len(classes), 3.6))
    axes = figure.subplots(1, len(classes), squeeze=False).ravel()
    words = []
    for k, (ax, positive) in enumerate(zip(axes, classes, strict=True)):
        sums = dict.fromkeys(colours, 0)
        for (i, j), n in np.ndenumerate(matrix):
            kind = ("TP" if j == k else "FN") if i == k else ("FP" if j == k else "TN")
            sums[kind] += int(n)
            ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colours[kind], edgecolor="white", linewidth=2))
            ax.text(j + 0.5, i + 0.5, f"{n}\n{kind}", ha="center", va="center", fontsize=11)
        ax.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal", xlabel="predicted")
        ax.set_xticks(np.arange(len(classes)) + 0.5, classes, fontsize=9)
        ax.set_yticks(np.arange(len(classes)) + 0.5, classes if k == 0 else [""] * len(classes), fontsize=9)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        counts = ", ".join(f"{kind} {n}" for kind, n in sums.items())
        ax.set_title(f"positive: {positive}\n{counts}", fontsize=9.5)
        words.append(f"{positive}: {counts}")
    axes[0].set_ylabel("true")
    figure.tight_layout()
    return Picture(
        figure,
        "The same confusion matrix once for each class, its cells marked: TP where row and column are the class, FN "
        "in the rest of its row, FP in the rest of its column, TN elsewhere. " + "; ".join(words) + ".",
    )


def class_scores(table, measures):
    """Scores of each class with intervals, a panel a measure, a marker a model.

    ``table``: rows with model, class, measure, score, low, high. A score that does not exist is NaN and left out.
    """
    models, classes = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["class"]))
    rows = -(-len(measures) // 2)
    figure = Figure(figsize=(9.6, (1.7 + 0.4 * len(models)) * rows))
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    words = {model: [] for model in models}
    for ax, measure in zip(axes, measures, strict=False):
        for i, model in enumerate(models):
            points = table[(table["model"] == model) & (table["measure"] == measure)].set_index("class").loc[classes]
            places = np.arange(len(classes)) + 0.18 * (i - (len(models) - 1) / 2)
            bars = [(points["score"] - points["low"]).clip(lower=0), (points["high"] - points["score"]).clip(lower=0)]
            ax.errorbar(
                points["score"], places, xerr=bars, fmt="os^D"[i % 4], capsize=3, ms=6,
                color=(TRAIN, "#D55E00", "#009E73", PAPER)[i % 4], label=model,
            )  # fmt: skip
            values = ", ".join("none" if np.isnan(value) else f"{value:.2f}" for value in points["score"])
            words[model].append(f"{measure} {values}")
        ax.set_yticks(np.arange(len(classes)), classes)
        ax.set(title=measure, xlim=(-0.02, 1.04), ylim=(len(classes) - 0.4, -0.6))
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(measures) :]:
        ax.axis("off")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=len(models), frameon=False)
    text = ". ".join(f"{model}: {'; '.join(values)}" for model, values in words.items())
    return Picture(figure, f"Points with 95 % intervals for each class, in the order {', '.join(classes)}. {text}.")


def mistakes(table, images, masks):
    """Pictures of wrong predictions, each with the lesion's outline, the two labels and the probability.

    ``table``: rows with file_id, label, predicted, confidence; ``images`` and ``masks``: as for `scans`, one a row.
    """
    titles = [
        f"{row['file_id']}\ntrue {row['label']}\nsaid {row['predicted']}, p = {row['confidence']:.2f}"
        for _, row in table.iterrows()
    ]
    if not titles:
        figure = Figure(figsize=(4, 0.6))
        figure.text(0.5, 0.5, "no mistakes in this part", ha="center", va="center")
        return Picture(figure, "There are no mistakes in this part, so there is nothing to show.")
    words = "; ".join(
        f"{row['file_id']}, taken for {row['predicted']} with {row['confidence']:.2f}" for _, row in table.iterrows()
    )
    return scans(images, titles, masks, description=f"The most confident mistakes, the lesion outlined: {words}.")


def variants(originals, changed, titles, parameters):
    """Originals beside their augmented variants, a row each (paper B's Figure 4).

    ``originals``: uint8 (R, h, w, 3). ``changed``: (R, V, h, w, 3), values 0–255. ``titles``: one a row.
    ``parameters``: (R, V, 4) = rotation (°), shear (°), x zoom, y zoom, as the augmentation drew them.
    """
    parameters = np.asarray(parameters)
    rows, columns = parameters.shape[:2]
    figure = Figure(figsize=(1.9 * (columns + 1), 2.2 * rows))
    axes = figure.subplots(rows, columns + 1, squeeze=False)
    for line, original, views, title, drawn in zip(axes, originals, changed, titles, parameters, strict=True):
        names = [title] + [f"{p[0]:+.0f}°, × {p[2]:.2f}, × {p[3]:.2f}" for p in drawn]
        for ax, image, name in zip(line, [original, *views], names, strict=True):
            ax.imshow(np.clip(image, 0, 255).astype("uint8"))
            ax.set_title(name, fontsize=9)
            ax.axis("off")
    figure.tight_layout()
    low, high = parameters.reshape(-1, 4).min(axis=0), parameters.reshape(-1, 4).max(axis=0)
    return Picture(
        figure,
        f"{rows} rows: an original scan ({', '.join(titles)}) and {columns} variants of it. The variants are turned by "
        f"{low[0]:+.0f}° to {high[0]:+.0f}° and scaled by {low[2:].min():.2f} to {high[2:].max():.2f}, width and "
        "height each by its own factor; where a corner of the scan is missing, its border pixels become streaks.",
    )


def resamplings(images, sharpness):
    """The same detail after different resamplings, enlarged. ``images``: dict title → (h, w), values 0–255.

    ``sharpness``: dict title → what is left of the neighbouring pixels' squared differences, 1 = the first image.
    """
    figure = Figure(figsize=(3 * len(images), 3.3))
    axes = figure.subplots(1, len(images), squeeze=False).ravel()
    for ax, (title, image) in zip(axes, images.items(), strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(f"{title}\nsharpness {sharpness[title]:.0%}", fontsize=10)
        ax.axis("off")
    figure.tight_layout()
    words = "; ".join(f"{title}: {sharpness[title]:.0%}" for title in images)
    return Picture(
        figure,
        f"The same detail {len(images)} times, enlarged, with the sharpness that is left of it. {words}. Fine speckle "
        "fades with every resampling.",
    )


def verdicts(images, titles, allowed):
    """Changed scans, framed by whether an ultrasound image allows the change. ``allowed``: one bool an image."""
    columns = min(4, len(images))
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(2.3 * columns, 2.8 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(images) :]:
        ax.axis("off")
    for ax, image, title, fine in zip(axes, images, titles, allowed, strict=False):
        colour = COLOURS["normal"] if fine else COLOURS["malignant"]
        ax.imshow(np.clip(image, 0, 255).astype("uint8"))
        ax.set_title(f"{title}\n{'allowed' if fine else 'not allowed'}", fontsize=10, color=colour)
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=3, linestyle="-" if fine else "--")
    figure.tight_layout()
    yes = ", ".join(t.replace("\n", " ") for t, fine in zip(titles, allowed, strict=True) if fine)
    no = ", ".join(t.replace("\n", " ") for t, fine in zip(titles, allowed, strict=True) if not fine)
    return Picture(figure, f"One scan changed in {len(images)} ways. Allowed: {yes}. Not allowed: {no}.")


def by_class(table, column, label, zero=""):
    """One point a scan, by class, with the median as a bar. ``table``: columns label and ``column``; NaN is left out.

    ``label``: the axis' text. ``zero``: what the line at 0 stands for.
    """
    figure = Figure(figsize=(6.4, 2.6))
    ax = figure.subplots()
    words, rng = [], np.random.default_rng(0)
    kept = table.dropna(subset=[column])
    names = [name for name in COLOURS if (kept["label"] == name).any()]
    for i, name in enumerate(names):
        values = kept.loc[kept["label"] == name, column].to_numpy()
        middle = np.median(values)
        ax.scatter(values, -i + rng.uniform(-0.18, 0.18, len(values)), s=12, alpha=0.5, color=COLOURS[name], lw=0)
        ax.plot([middle, middle], [-i - 0.3, -i + 0.3], color="black", lw=2)
        below = np.mean(values < 0)
        words.append(f"{name}: median {middle:+.1f}, {below:.0%} of {len(values)} scans below zero")
    ax.axvline(0, color=PAPER, ls="--", lw=1)
    ax.set_yticks([-i for i in range(len(names))], names)
    ax.set(xlabel=label, title=zero)
    ax.title.set_fontsize(9)
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(figure, f"Points by class: {label}. {'; '.join(words)}.")


def filters(grids, columns=22):
    """The filters of a first convolution as small colour images. ``grids``: dict title → (h, w, 3, n), any range.

    Each filter is scaled on its own: its lowest weight is black, its highest white, so only its pattern shows.
    """
    lines = sum(-(-weights.shape[3] // columns) + 0.7 for weights in grids.values())
    figure = Figure(figsize=(0.4 * columns, 0.42 * lines))
    axes = figure.subplots(len(grids), 1, squeeze=False).ravel()
    first = next(iter(grids.values()))
    words = []
    for ax, (title, weights) in zip(axes, grids.items(), strict=True):
        height, width, _, n = weights.shape
        mosaic = np.ones((-(-n // columns) * (height + 1), columns * (width + 1), 3))
        low, high = weights.min(axis=(0, 1, 2)), weights.max(axis=(0, 1, 2))
        scaled = (weights - low) / np.maximum(high - low, 1e-12)
        for i in range(n):
            y, x = i // columns * (height + 1), i % columns * (width + 1)
            mosaic[y : y + height, x : x + width] = scaled[..., i]
        ax.imshow(mosaic, interpolation="nearest")
        ax.set_title(title, fontsize=10, loc="left")
        ax.axis("off")
        words.append(f"{title}, {n} filters of {height} × {width}: at most {np.abs(weights - first).max():.2g} "
                     "away from the first grid")  # fmt: skip
    figure.tight_layout()
    return Picture(figure, f"Filters as small colour images. {'; '.join(words)}.")


def feature_maps(image, maps):
    """A row a layer: the scan with the layer's grid of places over it, then feature maps.

    ``image``: uint8 (h, w, 3). ``maps``: dict layer → (a, b, k), k the same for all; each map is scaled on its own.
    """
    columns = next(iter(maps.values())).shape[-1]
    figure = Figure(figsize=(1.35 * (columns + 1), 1.6 * len(maps)))
    axes = figure.subplots(len(maps), columns + 1, squeeze=False)
    words = []
    for line, (name, values) in zip(axes, maps.items(), strict=True):
        height, width, _ = values.shape
        line[0].imshow(image, extent=(0, width, height, 0))
        if height <= 16:
            line[0].hlines(np.arange(1, height), 0, width, color="white", lw=0.6)
            line[0].vlines(np.arange(1, width), 0, height, color="white", lw=0.6)
        line[0].set_title(f"{name}: {height} × {width}", fontsize=9, loc="left")
        for ax, k in zip(line[1:], range(columns), strict=True):
            ax.imshow(values[..., k], cmap="gray", interpolation="nearest")
        for ax in line:
            ax.axis("off")
        words.append(f"{name}: {height} × {width} places, {np.mean(values == 0):.0%} of the values are zero")
    figure.tight_layout()
    return Picture(
        figure,
        f"{len(maps)} rows, a layer each, from the first down: the scan with the layer's places as a grid (drawn from "
        f"16 × 16 on), then {columns} feature maps. {'; '.join(words)}.",
    )


def heat(images, maps, masks, places, titles, columns=4):
    """Grad-CAM over scans, with the lesion's outline and a cross at the peak.

    ``images``: uint8 (N, h, w, 3). ``maps``: (N, a, b) in [0, 1]. ``masks``: bool (N, h, w). ``places``: (N, 2), the
    peaks as fractions of height and width, NaN for none. ``titles``: one a scan.
    """
    rows = max(1, -(-len(images) // columns))
    figure = Figure(figsize=(2.3 * columns, 2.55 * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    hits = 0
    for ax in axes:
        ax.axis("off")
    for ax, image, values, mask, (y, x), title in zip(axes, images, maps, masks, places, titles, strict=False):
        height, width = mask.shape
        ax.imshow(image, extent=(0, width, height, 0))
        # One colour, the denser the stronger: where the map is 0 the scan stays as it is.
        dense = np.asarray(Image.fromarray(np.asarray(values, "float32")).resize((width, height), 2))
        colour = np.broadcast_to(np.array([0.90, 0.62, 0.0]), (*dense.shape, 3))
        ax.imshow(np.dstack([colour, 0.65 * np.clip(dense, 0, 1)]), extent=(0, width, height, 0))
        if mask.any():
            ax.contour(np.arange(width) + 0.5, np.arange(height) + 0.5, mask, levels=[0.5], colors=["#56B4E9"])
        if np.isfinite(y):
            ax.plot(x * width, y * height, "P", color="white", mec="black", ms=9)
            hits += bool(mask[int(y * height), int(x * width)])
        ax.set_title(title, fontsize=9)
    figure.tight_layout()
    return Picture(
        figure,
        f"{len(images)} maps of Grad-CAM, each over its scan: the more orange, the more a place speaks for the class. "
        f"The blue outline is the lesion, the cross the map's peak: it lies inside in {hits} of {len(images)}.",
    )


def spread(values, label, low=-1, high=1):
    """One point a scan for each name, with the mean as a bar. ``values``: dict name → (N,); NaN is left out."""
    figure = Figure(figsize=(6.8, 0.6 * len(values) + 1))
    ax = figure.subplots()
    words, rng = [], np.random.default_rng(0)
    for i, (name, one) in enumerate(values.items()):
        kept = np.asarray(one)[np.isfinite(one)]
        ax.scatter(kept, -i + rng.uniform(-0.16, 0.16, len(kept)), s=12, alpha=0.5, color=TRAIN, lw=0)
        mean = kept.mean() if len(kept) else np.nan
        ax.plot([mean, mean], [-i - 0.3, -i + 0.3], color="black", lw=2)
        words.append(f"{name}: mean {mean:.2f}, from {kept.min():.2f} to {kept.max():.2f}, {len(kept)} scans"
                     if len(kept) else f"{name}: none")  # fmt: skip
    ax.axvline(0, color=PAPER, ls="--", lw=1)
    ax.set_yticks([-i for i in range(len(values))], list(values))
    ax.set(xlabel=label, xlim=(low - 0.03, high + 0.03))
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(figure, f"Points, one a scan: {label}. {'; '.join(words)}.")


def candidates(counts, labels):
    """How many whole numbers still fit after each printed value. ``counts``: dict title → list, one a value read."""
    figure = Figure(figsize=(6.4, 3.2))
    ax = figure.subplots()
    for (title, left), colour, marker in zip(counts.items(), (TRAIN, VALIDATION), "os", strict=False):
        ax.plot(range(1, len(left) + 1), left, marker=marker, color=colour, label=title)
        ax.annotate(f"{left[-1]} left", (len(left), left[-1]), xytext=(6, 4), textcoords="offset points", fontsize=9)
    ax.set(yscale="log", xlabel=labels[0], ylabel=labels[1], ylim=(0.7, None))
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    words = "; ".join(f"{title}: {', '.join(map(str, left))}" for title, left in counts.items())
    return Picture(figure, f"Two falling lines on a logarithmic axis, {labels[1]} by {labels[0]}. {words}.")


def right_counts(right, marked, label):
    """Bars: how many draws gave how many right. ``right``: whole numbers (n,). ``marked``: dict text → a number."""
    figure = Figure(figsize=(6.4, 3))
    ax = figure.subplots()
    values, heights = np.unique(right, return_counts=True)
    ax.bar(values, heights, 0.8, color=TRAIN)
    for (text, place), style in zip(marked.items(), ("--", ":", "-."), strict=False):
        ax.axvline(place, color=PAPER, ls=style, lw=1.5, label=f"{text}: {place}")
    ax.set(xlabel=label, ylabel="splits")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    ax.spines[["top", "right"]].set_visible(False)
    words = "; ".join(f"{text} {place}" for text, place in marked.items())
    return Picture(
        figure,
        f"Bars of {label} over {len(right)} splits, from {min(right)} to {max(right)}, median {np.median(right):g}. "
        f"Marked: {words}.",
    )


def worth(tables, label="points of accuracy"):
    """What each leak is worth: points with intervals, one line a leak, one colour a base.

    ``tables``: dict title → table with the leak's words as index and the columns mean, low, high (points).
    """
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    figure = Figure(figsize=(8.2, 0.55 * len(names) + 1.4))
    ax = figure.subplots()
    words = []
    for i, ((title, table), colour) in enumerate(zip(tables.items(), (TRAIN, "#D55E00", "#009E73"), strict=False)):
        rows = table.reindex(names)
        places = len(names) - 1 - np.arange(len(names)) - 0.2 * (i - (len(tables) - 1) / 2)
        bars = [rows["mean"] - rows["low"], rows["high"] - rows["mean"]]
        ax.errorbar(rows["mean"], places, xerr=bars, fmt="os^"[i], color=colour, capsize=4, label=title)
        found = (f"{n}: {r['mean']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f})" for n, r in table.iterrows())
        words.append(f"{title}: {'; '.join(found)}")
    ax.axvline(0, color=PAPER, ls="--", lw=1)
    ax.set_yticks(np.arange(len(names))[::-1], names)
    ax.set(xlabel=f"worth in {label}, mean and 95 % interval over seeds", ylim=(-0.6, len(names) - 0.4))
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(figure, f"Points with 95 % intervals: what each leak adds, in {label}. {'. '.join(words)}.")


def roc_and_precision_recall(truth, probabilities, name="malignant"):
    """ROC and precision–recall curves of one class against the rest, one line a model.

    ``truth``: bool (N,). ``probabilities``: dict title → (N,), the probability of the class.
    """
    from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

    truth = np.asarray(truth, dtype=bool)
    figure = Figure(figsize=(9, 3.9))
    left, right = figure.subplots(1, 2)
    words = []
    for (title, p), colour, style in zip(
        probabilities.items(), (TRAIN, "#D55E00", "#009E73"), ("-", "--", "-."), strict=False
    ):
        false, true, _ = roc_curve(truth, p)
        precision, recall, _ = precision_recall_curve(truth, p)
        area, average = auc(false, true), average_precision_score(truth, p)
        left.plot(false, true, style, color=colour, label=f"{title}: area {area:.2f}")
        right.plot(recall, precision, style, color=colour, label=f"{title}: average {average:.2f}")
        words.append(f"{title}: area under the ROC curve {area:.2f}, average precision {average:.2f}")
    left.plot([0, 1], [0, 1], ":", color=PAPER)
    right.axhline(truth.mean(), ls=":", color=PAPER)
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, {name} against the rest")
    right.set(xlabel="sensitivity (recall)", ylabel="precision", title="precision–recall", ylim=(0, 1.02))
    for ax, place in ((left, "lower right"), (right, "lower left")):
        ax.legend(frameon=False, fontsize=9, loc=place)
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return Picture(
        figure,
        f"Two panels for {name} against the rest. {'; '.join(words)}. The dotted lines are chance: area 0.5, "
        f"precision {truth.mean():.2f}.",
    )


def reliability(tables):
    """Confidence against accuracy, one colour a model. ``tables``: dict title → what `metrics.calibration` gives."""
    figure = Figure(figsize=(4.8, 4.2))
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], ":", color=PAPER, label="as right as it is sure")
    words = []
    for (title, t), colour, marker in zip(tables.items(), (TRAIN, "#D55E00", "#009E73"), "os^", strict=False):
        bars = [(t["accuracy"] - t["low"]).clip(lower=0), (t["high"] - t["accuracy"]).clip(lower=0)]
        ax.errorbar(t["confidence"], t["accuracy"], yerr=bars, fmt=f"{marker}-", color=colour, capsize=3, label=title)
        found = (f"sure {r['confidence']:.2f}, right {r['accuracy']:.2f} of {r['n']:.0f}" for _, r in t.iterrows())
        words.append(f"{title}: {'; '.join(found)}")
    ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0.25, 1.02), ylim=(0, 1.02))
    ax.legend(frameon=False, fontsize=9, loc="lower right")
    ax.spines[["top", "right"]].set_visible(False)
    return Picture(figure, f"Reliability diagram with 95 % intervals, by bin of confidence. {'. '.join(words)}.")


def comparison(table, baseline):
    """Several systems on the same images: accuracy with its interval, and the paired difference to the best.

    ``table``: index titles, best first; accuracy, accuracy_low, accuracy_high, difference, difference_low,
    difference_high (fractions), printed (per cent, NaN where nothing was) and same_kind (was the printed number
    measured on breast ultrasound?). ``baseline``: accuracy of the majority class.
    """
    figure = Figure(figsize=(10.5, 0.42 * len(table) + 1.7))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(table))[::-1]
    for ax, name, colour in ((left, "accuracy", TRAIN), (right, "difference", "black")):
        value, low, high = (table[column] for column in (name, f"{name}_low", f"{name}_high"))
        bars = {"fmt": "o", "capsize": 4, "color": colour}
        ax.errorbar(value, places, xerr=[(value - low).clip(lower=0), (high - value).clip(lower=0)], **bars)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", alpha=0.25)
    for same, face, text in ((True, PAPER, "printed, breast ultrasound"), (False, "none", "printed, other data")):
        rows = (table["printed"].notna() & (table["same_kind"] == same)).to_numpy()
        style = {"marker": "D", "facecolors": face, "edgecolors": PAPER, "label": text}
        left.scatter(table["printed"][rows] / 100, places[rows], **style)
    left.axvline(baseline, color=PAPER, ls="--", lw=1, label="majority class")
    left.set_yticks(places, table.index)
    left.set(xlabel="accuracy, 95 % interval", xlim=(min(0.2, table["accuracy_low"].min() - 0.02), 1.02))
    left.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    right.axvline(0, color=PAPER, ls="--", lw=1)
    right.set(xlabel=f"difference to {table.index[table['difference'].abs().argmin()]}")
    figure.tight_layout()
    words = [
        f"{title}: {row['accuracy']:.2f} ({row['accuracy_low']:.2f} to {row['accuracy_high']:.2f}), difference "
        f"{row['difference']:+.2f} ({row['difference_low']:+.2f} to {row['difference_high']:+.2f})"
        + (f", printed {row['printed'] / 100:.2f}" if row["printed"] == row["printed"] else "")
        for title, row in table.iterrows()
    ]
    return Picture(
        figure,
        f"Two panels of points with intervals, one line a system. Left: accuracy on the same images; diamonds are the "
        f"printed numbers, filled where they were measured on breast ultrasound; the dashed line is the majority "
        f"class, {baseline:.2f}. Right: the paired difference to the best. {'; '.join(words)}.",
    )


def by_parameter(table, means, parameter, measure="test_accuracy", lines="protocol"):
    """Every run as a dot over one parameter, with means and 95 % intervals.

    ``table``: one row a run (`runs.collect`). ``means``: one row a value of ``parameter`` and of ``lines``, the column
    whose values get a colour each, with the columns measure, measure_low, measure_high
    (``runs.means(table, [measure], by=[lines, parameter])``). Three or more numbers are joined by a line.
    """
    values = sorted(table[parameter].dropna().unique())
    scale = len(values) > 2 and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values)
    places = {value: value if scale else i for i, value in enumerate(values)}
    step = (max(places.values()) - min(places.values()) or 1) / 25
    groups = sorted(table[lines].unique())
    figure = Figure(figsize=(7, 3.6))
    ax = figure.subplots()
    words = []
    for number, (name, colour, marker) in enumerate(zip(groups, OKABE_ITO, "osD^vP", strict=False)):
        shift = (number - (len(groups) - 1) / 2) * step
        dots, rows = (data[data[lines] == name] for data in (table, means))
        beside = dots[parameter].map(places) + shift - 0.35 * step
        ax.scatter(beside, dots[measure], s=18, color=colour, alpha=0.5, marker=marker)
        x, mean = rows[parameter].map(places).to_numpy() + shift, rows[measure].to_numpy()
        low, high = rows[f"{measure}_low"].to_numpy(), rows[f"{measure}_high"].to_numpy()
        ax.errorbar(
            x, mean, np.nan_to_num([mean - low, high - mean]), color=colour, marker=marker, markersize=7, capsize=4,
            linestyle="-" if scale else "none", label=str(name),
        )  # fmt: skip
        for value, *numbers in zip(rows[parameter], mean, low, high, strict=True):
            interval = f" ({numbers[1]:.3f} to {numbers[2]:.3f})" if np.isfinite(numbers[1]) else ""
            words.append(f"{lines} {name}, {parameter} {value}: {numbers[0]:.3f}{interval}")
    if not scale:
        ax.set_xticks(list(places.values()), [str(value) for value in values])
        ax.set_xlim(-0.6, len(values) - 0.4)
    ax.set(xlabel=parameter.replace("_", " "), ylabel=measure.replace("_", " "))
    ax.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        ax.legend(title=lines, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return Picture(
        figure,
        f"Small dots: {measure.replace('_', ' ')} of {len(table)} runs over {parameter.replace('_', ' ')}; "
        f"large marks: means with 95 % intervals. {'; '.join(words)}.",
    )
