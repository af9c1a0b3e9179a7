"""What lesson 08 writes out gives the library's numbers: its functions are taken from its cells and run here."""

import numpy as np
import pytest
from scipy import stats

from busilib import metrics, recipes
from busilib.data import splits
from tests.notebooks.test_written_out import functions


def test_the_bootstrap_is_the_librarys():
    rng = np.random.default_rng(1)
    groups, right = rng.integers(30, size=90).astype(str), rng.random(90) < 0.8
    written = functions("08", np=np)["grouped_bootstrap"]
    np.testing.assert_allclose(written(np.mean, groups, right), metrics.grouped_bootstrap(np.mean, groups, right))


def test_a_fold_is_the_librarys(phantoms, tiny):
    """Same seed, same numbers: the losses and every probability."""
    from busilib.learning import keras, models, training

    recipe = recipes.get("A-frozen", "quick", "clean", backbone=tiny, image_size=32, dense=(8,), epochs=3, patience=2)
    split, weights = splits.clean(phantoms, 1, 5, 0), models.Weights("none", "random")
    history, table = training.train_head(recipe, split, weights=weights, seed=0)
    features = training.still(recipe, split, training.frozen_base(tiny, 32, recipe.preprocessing, weights))
    labels = keras.utils.to_categorical(split.table["label"].map(recipes.CLASSES.index), 3)
    names = {"np": np, "keras": keras, "training": training, "recipe": recipe, "SEED": 0}
    written = functions("08", features=features, labels=labels, **names)["train_fold"]
    _, fitted, probabilities = written(split)
    np.testing.assert_allclose(fitted.history["val_loss"], history["val_loss"], rtol=1e-4)
    np.testing.assert_allclose(probabilities, table[recipes.PROBABILITIES], atol=1e-4)


def test_the_count_of_scans_has_the_power_that_it_promises():
    """Connor's count, and McNemar's exact test on drawn studies of that size: 80 % of them see the gain, or nearly."""
    count = functions("08", np=np, stats=stats)["scans_needed"](0.04, 0.12)
    assert count == 587
    draws = np.random.default_rng(0).multinomial(count, [0.08, 0.04, 0.88], size=400)
    seen = [stats.binomtest(int(gained), int(gained + lost)).pvalue < 0.05 for gained, lost, _ in draws]
    assert 0.72 < np.mean(seen) < 0.84


def test_moved_probabilities_follow_bayes():
    """The share of cancers among the scans of one answer, before and after cancers become rare."""
    malignant, others = 0.30 * 0.4, 0.70 * 0.2  # of all scans: those that get this answer
    after = 0.01 * 0.4 / (0.01 * 0.4 + 0.99 * 0.2)
    assert functions("08")["at_prevalence"](malignant / (malignant + others), 0.30, 0.01) == pytest.approx(after)
