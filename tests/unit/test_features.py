"""features: computed once an image, found again, and worth exactly what the whole model would give."""

import numpy as np
import pytest

from busilib import recipes
from busilib.data import images, splits
from busilib.learning import features, models, training
from busilib.runs import PROBABILITIES

NONE = models.Weights("none", "random")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BUSILIB_CACHE", str(tmp_path))


def parts(tiny, seed=0, **changes):
    recipe = recipes.get("A-frozen", **{"backbone": tiny, "image_size": 32, "dense": (8,), "epochs": 2} | changes)
    return models.parts(models.build(recipe, NONE, seed), recipe)[0]


def pixels(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def test_only_what_is_missing_is_computed(tiny, monkeypatch):
    frozen, asked = parts(tiny), []
    predict = frozen.predict
    monkeypatch.setattr(frozen, "predict", lambda x, **options: asked.append(len(x)) or predict(x, **options))
    few, more = pixels(5), np.concatenate([pixels(3, seed=1), pixels(5)])
    first = features.load(frozen, few)
    again = features.load(frozen, more)
    assert asked == [5, 3]
    assert (again[3:] == first).all() and first.dtype == np.float32
    np.testing.assert_allclose(again, predict(more, verbose=0), atol=1e-5)


def test_a_copy_is_computed_once_and_nothing_gives_nothing(tiny, monkeypatch):
    frozen, asked = parts(tiny), []
    predict = frozen.predict
    monkeypatch.setattr(frozen, "predict", lambda x, **options: asked.append(len(x)) or predict(x, **options))
    one = pixels(1)
    both = features.load(frozen, np.concatenate([one, one]))
    assert asked == [1] and (both[0] == both[1]).all()
    assert features.load(frozen, one[:0]).shape == (0, *frozen.output_shape[1:])


def test_the_key_tells_apart_what_gives_other_features(tiny):
    same = features.key(parts(tiny))
    assert same == features.key(parts(tiny)), "built again with the same seed, it is the same"
    others = [parts(tiny, seed=1), parts(tiny, preprocessing="own"), parts(tiny, unfreeze="block")]
    assert len({same, *map(features.key, others)}) == 4


def test_a_kept_head_and_the_assembled_model_agree(tiny, phantoms):
    recipe = recipes.get("A-frozen", backbone=tiny, image_size=32, dense=(8,), epochs=2)
    split = splits.paper_a(phantoms)
    trained = training.train(recipe, split, weights=NONE)
    whole = trained.model.predict(images.load(split.table["path"], 32), verbose=0)
    np.testing.assert_allclose(trained.predictions[PROBABILITIES], whole, atol=1e-4)
