#!/usr/bin/env bash
# TensorRT for RTX's ONNX parser accepts Attention and LSTM nodes and ignores a part of them.
#
# Versions: TensorRT for RTX 1.7.1.116 (its parser runs without a GPU), onnx 1.23.2, x86-64.
#
# Behavior: both models pass onnx.checker, parse() returns True and reports no error.
#   Attention (opset 24): the input nonpad_kv_seqlen, the number of valid keys of each batch entry,
#   becomes an input of the network that no layer reads. The layers are those of the model without
#   it, so nothing keeps queries from attending to the padding.
#   LSTM and GRU (opset 14 on): layout=1, batch first, is read as layout=0. The network's output has
#   another shape than the model declares, with batch and time exchanged.
#
# One would have guessed: what the parser does not implement is rejected. It does reject softcap,
# softmax_precision and a second output of Attention, and input_forget of LSTM, in one clear line.
#
# Where it matters: exporting a decoder with a static KV cache, where nonpad_kv_seqlen replaces the
# mask, or a batch-first recurrent tracker: a different network is built, without an error. Pass
# attn_mask, transpose around layout=0, and compare the engine with ONNX. This was seen in the parsed
# network; no engine was run.
#
# Output seen:
#   TensorRT for RTX 1.7.1.116
#   Attention: parsed True, inputs q k v, unread: none
#   Attention with nonpad_kv_seqlen: parsed True, inputs q k v valid, unread: valid
#   the layers are equal: True; in ONNX the outputs differ by up to 2.9
#   LSTM layout=0: parsed True, declared [5, 1, 2, 4], network [5, 1, 2, 4]
#   LSTM layout=1: parsed True, declared [5, 2, 1, 4], network [5, 1, 2, 4]
#   GRU layout=1: parsed True, declared [5, 2, 1, 4], network [5, 1, 2, 4]
#   Attention with softcap: parsed False
set -euo pipefail

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq "onnx==1.23.2" "numpy<3" \
  "tensorrt-rtx-cu13==1.7.1.116" 2>/dev/null

cat >"$work/probe.py" <<'PYTHON'
import numpy as np
import onnx
import tensorrt_rtx as tensorrt
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print("TensorRT for RTX", tensorrt.__version__)
generator = np.random.default_rng(0)
logger = tensorrt.Logger(tensorrt.Logger.INTERNAL_ERROR)


def values(*shape):
    return generator.standard_normal(shape).astype(np.float32)


def model_of(node, opset, inputs, output_shape, **weights):
    """A valid model of one node whose inputs are given as name: shape; `valid` is int64."""
    types = {"valid": TensorProto.INT64}
    graph = helper.make_graph(
        [node],
        "probe",
        [
            helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def parsed(model):
    """Whether it was parsed, the layers, the inputs, those no layer reads, the output's shape."""
    network = tensorrt.Builder(logger).create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return False, None, None, None, None
    assert parser.num_errors == 0
    layers = []
    for layer in map(network.get_layer, range(network.num_layers)):
        tensors = map(layer.get_input, range(layer.num_inputs))
        layers.append((layer.type, layer.name, [t.name if t else None for t in tensors]))
    read = {name for _, _, names in layers for name in names}
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    unread = [name for name in inputs if name not in read]
    return True, layers, inputs, unread, list(network.get_output(0).shape)


CACHE = {"q": [2, 2, 4, 8], "k": [2, 2, 6, 8], "v": [2, 2, 6, 8]}


def attention(label, more=(), **attributes):
    inputs = {**CACHE, "valid": [2]} if more else CACHE
    node = helper.make_node("Attention", ["q", "k", "v", *more], ["y"], name="node", **attributes)
    model = model_of(node, 24, inputs, CACHE["q"])
    ok, layers, names, unread, _ = parsed(model)
    shown = f", inputs {' '.join(names)}, unread: {' '.join(unread) or 'none'}" if ok else ""
    print(f"{label}: parsed {ok}{shown}")
    return model, ok, layers, unread


plain, plain_ok, plain_layers, plain_unread = attention("Attention")
padded, padded_ok, padded_layers, padded_unread = attention(
    "Attention with nonpad_kv_seqlen", ("", "", "", "valid")
)
feed = {name: values(*shape) for name, shape in CACHE.items()}
all_keys = ReferenceEvaluator(plain).run(None, feed)[0]
valid_keys = ReferenceEvaluator(padded).run(None, {**feed, "valid": np.array([6, 2])})[0]
effect = float(np.abs(all_keys - valid_keys).max())
same = plain_layers == padded_layers
print(f"the layers are equal: {same}; in ONNX the outputs differ by up to {effect:.1f}")


def recurrent(operator, gates, layout):
    """Whether it was parsed, and whether the network's output has the declared shape."""
    shape = [5, 2, 1, 4] if layout else [5, 1, 2, 4]
    node = helper.make_node(operator, ["x", "w", "r"], ["y"], hidden_size=4, layout=layout)
    weights = {"w": values(1, gates * 4, 8), "r": values(1, gates * 4, 4)}
    model = model_of(node, 22, {"x": [5, 2, 8]}, shape, **weights)
    computed = ReferenceEvaluator(model).run(None, {"x": values(5, 2, 8)})[0]
    assert list(computed.shape) == shape
    ok, _, _, _, network_shape = parsed(model)
    print(f"{operator} layout={layout}: parsed {ok}, declared {shape}, network {network_shape}")
    return ok, network_shape == shape


time_first = recurrent("LSTM", 4, 0)
batch_first = [recurrent("LSTM", 4, 1), recurrent("GRU", 3, 1)]
_, softcap_ok, _, _ = attention("Attention with softcap", softcap=5.0)
assert plain_ok and plain_unread == [] and time_first == (True, True) and not softcap_ok
assert effect > 0.1
assert padded_ok and padded_unread == ["valid"] and same, "nonpad_kv_seqlen is read or rejected now"
assert batch_first == [(True, False)] * 2, "layout=1 is implemented or rejected now"
PYTHON

"$work/venv/bin/python" "$work/probe.py"
