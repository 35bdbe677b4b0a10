"""GPT-2 as a graph for ONNX Runtime: in its own fused operators, as its exporters for language models write them.

Keys and values are buffers of a fixed length that each call extends in place: `past_*` and `present_*` are to be bound to the same memory.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

MICROSOFT = "com.microsoft"


class Graph:
    """Nodes and weights in the making."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def weight(self, name, value):
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator, inputs, outputs=1, domain=MICROSOFT, **attributes):
        name = f"{operator}_{len(self.nodes)}"
        results = [f"{name}.{index}" for index in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(operator, inputs, results, name, domain=domain, **attributes))
        return results[0] if len(results) == 1 else results

    def product(self, x, name, value):
        return self.add("MatMul", [x, self.weight(name, value)], domain="")


def build(model):
    config = model.config
    state = {name: tensor.detach().numpy() for name, tensor in model.transformer.state_dict().items()}
    heads, width = config.n_head, config.n_embd // config.n_head
    graph, inputs, outputs = Graph(), [], []

    def state_weight(name):
        return graph.weight(name, state[name])

    def tensor(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    inputs.append(tensor("ids", TensorProto.INT64, ["batch", "tokens"]))
    inputs.append(tensor("positions", TensorProto.INT64, ["batch", "tokens"]))
    inputs.append(tensor("last", TensorProto.INT32, ["batch"]))
    inputs.append(tensor("total", TensorProto.INT32, [1]))
    x = graph.add("Gather", [state_weight("wte.weight"), "ids"], domain="")
    branch = graph.add("Gather", [state_weight("wpe.weight"), "positions"], domain="")
    bias = None

    def norm(name):
        """Adds the branch with its bias to the residual stream; the sum, normalized, and the sum."""
        parts = [x, branch, state_weight(f"{name}.weight"), state_weight(f"{name}.bias")]
        parts += [bias] if bias else []
        normed = graph.add("SkipLayerNormalization", parts, 4, epsilon=config.layer_norm_epsilon)
        return normed[0], normed[3]

    for layer in range(config.n_layer):
        at = f"h.{layer}."
        normed, x = norm(at + "ln_1")
        qkv = graph.product(normed, at + "attn.c_attn.weight", state[at + "attn.c_attn.weight"])
        qkv = graph.add("Add", [qkv, state_weight(at + "attn.c_attn.bias")], domain="")
        past, present = ([f"{side}_{part}_{layer}" for part in "kv"] for side in ("past", "present"))
        for names, values in ((past, inputs), (present, outputs)):
            values += [tensor(name, TensorProto.FLOAT, ["batch", heads, "room", width]) for name in names]
        branch = graph.add(
            "GroupQueryAttention",
            [qkv, "", "", *past, "last", "total"],
            [f"attention_{layer}", *present],
            num_heads=heads,
            kv_num_heads=heads,
        )
        branch = graph.product(f"attention_{layer}", at + "attn.c_proj.weight", state[at + "attn.c_proj.weight"])
        bias = state_weight(at + "attn.c_proj.bias")
        normed, x = norm(at + "ln_2")
        wide = graph.product(normed, at + "mlp.c_fc.weight", state[at + "mlp.c_fc.weight"])
        wide = graph.add("FastGelu", [wide, state_weight(at + "mlp.c_fc.bias")])
        branch = graph.product(wide, at + "mlp.c_proj.weight", state[at + "mlp.c_proj.weight"])
        bias = state_weight(at + "mlp.c_proj.bias")
    normed, _ = norm("ln_f")
    end = graph.weight("end", np.array([-1]))
    last = graph.add("Gather", [normed, end], domain="", axis=1)
    graph.add("MatMul", [last, graph.weight("head", state["wte.weight"].T)], ["logits"], domain="")
    outputs.append(tensor("logits", TensorProto.FLOAT, ["batch", 1, config.vocab_size]))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    made = helper.make_graph(graph.nodes, "gpt2", inputs, outputs, graph.weights)
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def write(folder, model):
    onnx.save(build(model), folder / "f32.onnx")
    quantize_dynamic(
        folder / "f32.onnx",
        folder / "int8.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )
