"""The packer's region attention as one ONNX node, in the form that each runtime needs.

``add_function`` is for ONNX Runtime: the node and a model-local function that implements it.
``use_plugin`` is for TensorRT with the plugin library: the node only, because some of its parsers
prefer a function to the plugin. ``decompose`` is for TensorRT without the plugin: standard
operators in place of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import onnx_ir
import onnxscript
import torch

import llava_st_ros.model.packer.region_attention  # noqa: F401  (registers the operator)
from llava_st_ros.export.plugin_names import DOMAIN, NAME, PLUGIN, VERSION

OPSET = 20  # ONNX opset that TensorRT 10.3 reads; it has LayerNormalization and Gelu

BODY = f"""
<domain: "{DOMAIN}", opset_import: ["": {OPSET}]>
{NAME} <spatial_region, temporal_region, epsilon> (query, key, value) => (mixed)
{{
  first = Constant <value_ints: ints = [0]> ()
  all = Constant <value_ints: ints = [-1]> ()
  side = Constant <value_int: int = @spatial_region> ()
  length = Constant <value_int: int = @temporal_region> ()
  s = Unsqueeze (side, first)
  t = Unsqueeze (length, first)
  frames = Shape <start: int = 0, end: int = 1> (query)
  height = Shape <start: int = 1, end: int = 2> (query)
  width = Shape <start: int = 2, end: int = 3> (query)
  heads = Shape <start: int = 3, end: int = 4> (query)
  wide = Shape <start: int = 4, end: int = 5> (query)
  area = Mul (s, s)
  count = Mul (area, t)
  in_regions = Concat <axis: int = 0> (frames, t, height, s, width, s, wide)
  each = Concat <axis: int = 0> (all, count, wide)
  each_query = Concat <axis: int = 0> (all, heads, wide)

  one = Constant <value_floats: floats = [1.0]> ()
  typed_one = CastLike (one, query)
  ones = Expand (typed_one, wide)
  normed_key = LayerNormalization <axis: int = -1, epsilon: float = @epsilon> (key, ones)
  normed_value = LayerNormalization <axis: int = -1, epsilon: float = @epsilon> (value, ones)

  cut_key = Reshape (normed_key, in_regions)
  moved_key = Transpose <perm: ints = [0, 2, 4, 1, 3, 5, 6]> (cut_key)
  rows = Reshape (moved_key, each)
  keys = Transpose <perm: ints = [0, 2, 1]> (rows)
  cut_value = Reshape (normed_value, in_regions)
  moved_value = Transpose <perm: ints = [0, 2, 4, 1, 3, 5, 6]> (cut_value)
  values = Reshape (moved_value, each)
  queries = Reshape (query, each_query)

  scores = MatMul (queries, keys)
  weights = Softmax <axis: int = -1> (scores)
  sums = MatMul (weights, values)
  shape = Shape (query)
  mixed = Reshape (sums, shape)
}}
"""


_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)")
_Attribute, _Parameter = onnx.defs.OpSchema.Attribute, onnx.defs.OpSchema.FormalParameter
SCHEMA = onnx.defs.OpSchema(
    NAME,
    DOMAIN,
    VERSION,
    doc="llava_st_ros.model.packer.region_attention",
    inputs=[_Parameter(name, "T") for name in ("query", "key", "value")],
    outputs=[_Parameter("mixed", "T")],
    type_constraints=[("T", list(_FLOATS), "")],
    attributes=[
        _Attribute("spatial_region", onnx.defs.OpSchema.AttrType.INT, "side in tokens"),
        _Attribute("temporal_region", onnx.defs.OpSchema.AttrType.INT, "length in frames"),
        _Attribute("epsilon", onnx.defs.OpSchema.AttrType.FLOAT, "added to the variance"),
        *(
            _Attribute(name, onnx.defs.OpSchema.AttrType.STRING, "for TensorRT", required=False)
            for name in PLUGIN
        ),
    ],
)
if not onnx.defs.has(NAME, DOMAIN):
    onnx.defs.register_schema(SCHEMA)
OPERATORS = onnxscript.values.Opset(DOMAIN, VERSION)


def _node(
    query: Any,
    key: Any,
    value: Any,
    spatial_region: int,
    temporal_region: int,
    epsilon: float,
) -> Any:
    return OPERATORS.LlavaStRegionAttention(
        query,
        key,
        value,
        spatial_region=spatial_region,
        temporal_region=temporal_region,
        epsilon=epsilon,
    )


# torch.onnx.export's custom_translation_table.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.llava_st.region_attention.default: _node
}


def add_function(model: onnx_ir.Model) -> None:
    """Add the function that implements the node, if the graph has such nodes."""
    if any(_region_attention_nodes(model)):
        function = onnx_ir.serde.deserialize_function(onnx.parser.parse_function(BODY))
        model.functions[function.identifier()] = function


def use_plugin(model: onnx_ir.Model) -> None:
    """Name the plugin in each node. Only TensorRT with the plugin library can run the result."""
    for node in _region_attention_nodes(model):
        node.attributes.update(
            (key, onnx_ir.AttrString(key, value)) for key, value in PLUGIN.items()
        )


def decompose(model: onnx_ir.Model) -> None:
    """Replace each node by the function's operators."""
    add_function(model)
    onnx_ir.passes.Sequential(
        onnx_ir.passes.common.InlinePass(), onnx_ir.passes.common.RemoveUnusedOpsetsPass()
    )(model)


def _region_attention_nodes(model: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    return (node for node in model.graph if node.domain == DOMAIN)
