"""benchmarks/gpu.py: operations counted by hand, the chips' limits; its timing on a CPU, with tiny settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from busilib.learning import keras

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_operations_are_those_counted_by_hand(gpu):
    x = keras.Input((8, 6, 2))
    inner = keras.Model(x, keras.layers.Conv2D(4, 3, padding="same", strides=2)(x))  # 4 × 3 places
    pixels = keras.Input((8, 6, 2))
    model = keras.Model(pixels, keras.layers.Dense(5)(keras.layers.Flatten()(inner(pixels))))
    assert gpu.flops(model) == 2 * (4 * 3 * 3 * 3 * 2 * 4) + 2 * (4 * 3 * 4 * 5)
    y = keras.Input((8, 6, 2))
    assert gpu.flops(keras.Model(y, keras.layers.DepthwiseConv2D(3, padding="same")(y))) == 2 * 8 * 6 * 3 * 3 * 2


def test_resnet50_has_the_operations_that_are_known(gpu):
    # He et al. 2016, table 1: 3.8e9 multiply-adds at 224 pixels, counted without the shortcuts' convolutions.
    network = keras.applications.ResNet50(weights=None, input_shape=(224, 224, 3))
    assert gpu.flops(network) == pytest.approx(2 * 3.86e9, rel=0.01)


def test_limits_are_found_by_name(gpu):
    assert gpu.limit("NVIDIA H100 80GB HBM3") == 989 and gpu.limit("NVIDIA H100 PCIe") == 756
    assert gpu.limit("NVIDIA L40S") == 362 and gpu.limit("NVIDIA L4") == 121
    assert gpu.limit("Tesla T4") is None


def test_without_a_gpu_every_target_is_named_and_nothing_reached(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "gpu", lambda: None)
    rows = gpu.measure()
    assert {(row["ours"], row["reached"], row["note"]) for row in rows} == {
        (None, None, "not measured: there is no GPU")
    }
    found = {"fit": 96.0, "bare step": 100.0, "predict": 300.0, "bare answer": 310.0, "augmentation": 0.2, "flops": 1e9}
    measured = [gpu.papers_row({"data": "busi", "A-frozen": 1.0})]
    for name, size in gpu.NETWORKS.items():
        measured += gpu.rows_of(name, size, found, 989.0, "mixed_bfloat16")
    targets = {row["name"]: row["target"] for row in measured if row["target"]}
    assert {row["name"]: row["target"] for row in rows} == targets and len(targets) == 5


def test_an_unknown_chip_or_float32_has_nothing_to_compare_with(gpu):
    found = {"fit": 96.0, "bare step": 100.0, "predict": 300.0, "bare answer": 310.0, "augmentation": 0.2, "flops": 1e9}
    rows = gpu.rows_of("ResNet50", 128, found, 989.0, "mixed_bfloat16")
    assert [row["reached"] for row in rows] == [True, None, None, None, False]
    assert rows[1]["ours"] == pytest.approx(0.3) and rows[1]["other"] == 989  # 100 images × 3 × 1 GFLOP
    for most, precision in ((None, "mixed_bfloat16"), (989.0, "float32")):
        assert gpu.rows_of("ResNet50", 128, found, most, precision)[1]["ratio"] is None


TINY = """
import json, gpu
found = gpu.speeds("MobileNetV2", 32, 4, 2, "mixed_bfloat16")
found["papers"] = gpu.papers("quick", image_size=32, backbone="MobileNetV2", epochs=1, views=1)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_it_measures_with_tiny_settings_on_a_cpu():
    env = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(BENCHMARKS)}
    env.pop("BUSI_DIR", None)
    done = subprocess.run([sys.executable, "-c", TINY], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    papers = found.pop("papers")
    assert all(found[name] > 0 for name in ("fit", "bare step", "predict", "bare answer", "flops"))
    assert [name for name, value in papers.items() if name != "data" and value > 0] == [
        "A-frozen", "A-tuned", "B-frozen", "B-tuned",
    ]  # fmt: skip
