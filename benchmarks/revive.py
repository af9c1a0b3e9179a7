"""Write the starting point of make_backbones.py: the weights shipped before, their idle blocks given a twin's weights.

python benchmarks/revive.py ResNet50 start.weights.h5
"""

import sys

import keras
import make_backbones as make

from busilib.learning import backbones, embedded

name, file = sys.argv[1:]
network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(None, None, 3))
embedded.load(network, name, embedded.path(name))
idle = {layer.name for _, layer in embedded.idle(network, name)}


def norms(block):
    """Return the BatchNormalization layers that follow a block's convolutions, in order."""
    wanted = set(make.inside(network, block))
    every = backbones.layers(network, keras.layers.BatchNormalization)
    return [layer for layer in every if layer._inbound_nodes[0].input_tensors[0]._keras_history[0].name in wanted]


draw = keras.initializers.HeUniform(0)
for convolution in backbones.layers(network, keras.layers.Conv2D):
    if convolution.name in idle and not convolution.get_weights()[0].any():
        convolution.set_weights([draw(convolution.kernel.shape), *convolution.get_weights()[1:]])
if name == "ResNet50":
    for part in ("2_conv", "3_conv", "1_bn", "2_bn", "3_bn"):
        network.get_layer(f"conv5_block2_{part}").set_weights(network.get_layer(f"conv5_block1_{part}").get_weights())
revived = [] if name == "InceptionResNetV2" else ["conv5_block2"]
for block, twin in make.TWINS.items():
    if make.inside(network, block) and not block.startswith("block8"):
        revived.append(block)
        for layer, other in zip(norms(block), norms(twin), strict=True):
            layer.set_weights(other.get_weights())
for block in revived if name == "ResNet50" else []:  # half as strong at first: they come on top of what works
    layer = network.get_layer(f"{block}_3_bn")
    gamma, beta, *averages = layer.get_weights()
    layer.set_weights([gamma / 2, beta / 2, *averages])
network.save_weights(file)
print("revived", revived)
