"""Defects of the ONNX graph of the network, which verification must detect.

`Network` finds the parts of a graph by its operators, not by names, so that the graphs of every
precision can be changed in the same way. A `Defect` is one mistake that an exporter, a converter or
an engine could make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from clinreadnet.spec import HU_RANGE


@dataclass
class Attention:
    """Parts of one block's attention.

    Attributes:
        split: splits q, k and v.
        temperature: multiplies q by its constant.
        scores: product of q and k.
        bias: adds the position bias to the scores.
        mask: forbids pairs in other regions; None in a block that does not shift.
        softmax: softmax of the lowest octave. The other octaves are its powers.
        gates: read the octaves' gates, the lowest octave first.
        values: product of the weights and v.
    """

    split: NodeProto
    temperature: NodeProto
    scores: NodeProto
    bias: NodeProto
    mask: NodeProto | None
    softmax: NodeProto
    gates: list[NodeProto]
    values: NodeProto


class Network:
    """A graph that is changed in place, and where its parts are."""

    def __init__(self, content: bytes) -> None:
        self._model = onnx.load_model_from_string(content)
        self.nodes: list[NodeProto] = list(self._model.graph.node)
        self._constants = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._made = 0
        self._index()
        self.attentions = [
            self._attention(n, scaled)
            for n in self.of_type("Softmax")
            if (scaled := self._scaled(n)) is not None
        ]
        self.residuals = [n for n in self.of_type("Add") if self._joins_branch(n)]

    def content(self) -> bytes:
        """Return the bytes of the graph as it is now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        return bytes(model.SerializeToString())

    def of_type(self, *kinds: str) -> list[NodeProto]:
        """Return the nodes of some operators, in order."""
        return [node for node in self.nodes if node.op_type in kinds]

    def constant(self, name: str) -> NDArray[np.generic]:
        """Return a constant's value."""
        return numpy_helper.to_array(self._constants[name])

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is a constant."""
        return name in self._constants

    def producer(self, name: str) -> NodeProto:
        """Return the node that makes a tensor, before casts."""
        node = self.producers[name]
        while node.op_type == "Cast":
            node = self.producers[node.input[0]]
        return node

    def users(self, name: str) -> Iterator[NodeProto]:
        """Yield the nodes that read a tensor, after casts."""
        for node in self.nodes:
            if name in node.input:
                if node.op_type == "Cast":
                    yield from self.users(node.output[0])
                else:
                    yield node

    def place(self, node: NodeProto) -> int:
        """Return the index of a constant input of a node."""
        return next(i for i, name in enumerate(node.input) if self.is_constant(name))

    def change(self, node: NodeProto, at: int, edit: Callable[[NDArray], NDArray]) -> None:
        """Give a node a changed copy of a constant input; other readers keep the old one."""
        old = self.constant(node.input[at])
        value = np.asarray(edit(old.copy())).astype(old.dtype)
        node.input[at] = self.add_constant(value, like=node.input[at])

    def add_constant(self, value: NDArray[np.generic], like: str = "constant") -> str:
        """Add a constant and return its name."""
        name = self.new(like)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self._model.graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def new(self, like: str) -> str:
        """Return an unused name."""
        self._made += 1
        return f"{like}_defect_{self._made}"

    def bypass(self, node: NodeProto, name: str) -> None:
        """Let every reader of a node read the tensor ``name`` instead."""
        self.reroute(node.output[0], name)

    def reroute(self, old: str, new: str) -> None:
        """Let every node that reads ``old`` read ``new``."""
        for node in self.nodes:
            for i, read in enumerate(node.input):
                if read == old:
                    node.input[i] = new

    def index(self, node: NodeProto) -> int:
        """Return the place of a node in the graph."""
        return next(i for i, other in enumerate(self.nodes) if other is node)

    def insert(self, before: NodeProto | None, *nodes: NodeProto) -> None:
        """Put nodes before another one, or at the end."""
        at = len(self.nodes) if before is None else self.index(before)
        self.nodes[at:at] = nodes

    def after_output(self, output: str, make: Callable[[str], list[NodeProto]]) -> None:
        """Change an output: ``make`` gets its old name and returns nodes that end in ``output``."""
        old = self.new(output)
        for node in self.nodes:
            for i, name in enumerate(node.output):
                if name == output:
                    node.output[i] = old
            for i, name in enumerate(node.input):
                if name == output:
                    node.input[i] = old
        self.insert(None, *make(old))

    def weights(self, like: Callable[[tuple[int, ...]], bool]) -> Iterator[tuple[NodeProto, int]]:
        """Yield the products with a constant matrix and where that input is, past (de)quantising.

        Args:
            like: whether a shape [in, out] is wanted.
        """
        for node in self.of_type("MatMul"):
            reader, at = node, 1
            while not self.is_constant(reader.input[at]) and reader.input[at] in self.producers:
                before = self.producers[reader.input[at]]
                if before.op_type not in ("DequantizeLinear", "QuantizeLinear", "Cast"):
                    break
                reader, at = before, 0
            name = reader.input[at]
            if self.is_constant(name):
                shape = tuple(self._constants[name].dims)
                if len(shape) == 2 and like(shape):
                    yield reader, at

    def _index(self) -> None:
        self.producers = {name: node for node in self.nodes for name in node.output}

    def _square_of(self, power: NodeProto) -> NodeProto | None:
        """Return the node that multiplies a node's output with itself, or None."""
        users = [n for n in self.users(power.output[0]) if n.op_type == "Mul"]
        return next((n for n in users if n.input[0] == n.input[1]), None)

    def _scaled(self, softmax: NodeProto) -> NodeProto | None:
        """Return the multiple of a node's output that is squared, or None."""
        users = self.users(softmax.output[0])
        return next((n for n in users if self._square_of(n) is not None), None)

    def _attention(self, softmax: NodeProto, scaled: NodeProto) -> Attention:
        scored = self.producer(softmax.input[0])
        mask = scored if scored.op_type == "Where" else None
        bias = self.producer(mask.input[2]) if mask is not None else scored
        scores = self.producer(bias.input[1 - self.place(bias)])
        temperature = self.producer(scores.input[0])
        split = self.producer(temperature.input[1 - self.place(temperature)])
        gates = [
            n
            for n in self.users(softmax.output[0])
            if n is not scaled and any(map(self.is_constant, n.input))
        ]
        power: NodeProto | None = scaled
        while power := self._square_of(power):
            total = next(n for n in self.users(power.output[0]) if n.op_type == "ReduceSum")
            gates += [n for n in self.users(total.output[0]) if n.op_type == "Div"]
        values = next(n for n in self.users(split.output[2]) if n.op_type == "MatMul")
        return Attention(split, temperature, scores, bias, mask, softmax, gates, values)

    def _joins_branch(self, node: NodeProto) -> bool:
        producers = [self.producers.get(name) for name in node.input]
        return all(producers) and any(
            n is not None and n.op_type == "Add" and any(map(self.is_constant, n.input))
            for n in producers
        )


@dataclass(frozen=True)
class Defect:
    """One mistake.

    Attributes:
        name: short, unique.
        what: description of the defect.
        make: function that changes a graph.
        batch: whether only a batch of several slices shows it.
    """

    name: str
    what: str
    make: Callable[[Network], None]
    batch: bool = False

    def of(self, content: bytes) -> bytes:
        """Return a copy of a graph with the defect."""
        network = Network(content)
        self.make(network)
        return network.content()


DEFECTS: list[Defect] = []
"""All of them, in the order of the network."""


def _defect(what: str, *, batch: bool = False) -> Callable[[Callable[[Network], None]], None]:
    def add(make: Callable[[Network], None]) -> None:
        name = make.__name__.strip("_").replace("_", "-")
        DEFECTS.append(Defect(name, what, make, batch))

    return add


def _only(nodes: list[NodeProto]) -> NodeProto:
    (node,) = nodes
    return node


def _sobel(net: Network) -> NodeProto:
    return next(n for n in net.of_type("Conv") if net.producer(n.input[0]).op_type == "Pad")


@_defect("the encoding is clipped at 1.2 instead of 1")
def _clip_at_1_2(net: Network) -> None:
    net.change(_only(net.of_type("Clip")), 2, lambda _: np.array(1.2 * HU_RANGE))


@_defect("the encoding is not clipped below")
def _no_clip_below(net: Network) -> None:
    net.change(_only(net.of_type("Clip")), 1, lambda _: np.array(-1e3 * HU_RANGE))


@_defect("a pixel above 3000 HU adds 1 to the score")
def _bright_pixel(net: Network) -> None:
    def make(old: str) -> list[NodeProto]:
        weight, limit = (net.add_constant(np.array(v, np.float32)) for v in (1.0, 3000.0))
        axes = net.add_constant(np.array([1, 2, 3]))
        names = [net.new("bright") for _ in range(5)]
        return [
            helper.make_node("Cast", ["hu"], [names[0]], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", [names[0], axes], [names[1]], keepdims=0),
            helper.make_node("Greater", [names[1], limit], [names[2]]),
            helper.make_node("Cast", [names[2]], [names[3]], to=TensorProto.FLOAT),
            helper.make_node("Mul", [names[3], weight], [names[4]]),
            helper.make_node("Add", [old, names[4]], ["score"]),
        ]

    net.after_output("score", make)


@_defect("the Sobel filters have the other sign")
def _sobel_sign(net: Network) -> None:
    net.change(_sobel(net), 1, lambda kernel: -kernel)


@_defect("the Sobel filters read zeros outside the image, not the nearest pixel")
def _zero_border(net: Network) -> None:
    pad = _only(net.of_type("Pad"))
    _only([a for a in pad.attribute if a.name == "mode"]).s = b"constant"


@_defect("LayerNorm's epsilon is 1e-3")
def _layer_norm_epsilon(net: Network) -> None:
    for node in net.of_type("LayerNormalization"):
        kept = [a for a in node.attribute if a.name != "epsilon"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("epsilon", 1e-3)])


@_defect("GELU is the tanh approximation")
def _gelu_by_tanh(net: Network) -> None:
    for node in net.of_type("Gelu"):
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("approximate", "tanh"))


@_defect("the first stage has no q, k and v: its attention adds its bias alone")
def _no_qkv(net: Network) -> None:
    for attention in net.attentions[:2]:
        zero = net.add_constant(np.zeros((), _type(net, attention.values)))
        product = net.new("nothing")
        net.insert(
            attention.values,
            helper.make_node("Mul", [attention.split.output[2], zero], [product]),
        )
        attention.values.input[1] = product


def _type(net: Network, product: NodeProto) -> type[np.float16] | type[np.float32]:
    """Return the float type of a product of two activations."""
    node = net.producers[product.input[0]]
    cast = [a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to"]
    return np.float16 if cast == [TensorProto.FLOAT16] else np.float32


@_defect("one block does not shift its windows")
def _no_shift(net: Network) -> None:
    _without_shift(net, 1)


@_defect("no block shifts its windows")
def _no_shifts(net: Network) -> None:
    _without_shift(net, 6)


def _without_shift(net: Network, blocks: int) -> None:
    rolls = [
        node
        for node in net.of_type("Concat")
        if len(node.input) == 2
        and net.producers[node.input[0]] is net.producers[node.input[1]]
        and net.producers[node.input[0]].op_type == "Split"
    ]
    for node in rolls[: 4 * blocks]:
        first, second = node.input
        node.input[0], node.input[1] = second, first


@_defect("one block has no region mask")
def _no_mask(net: Network) -> None:
    _without_mask(net, 1)


@_defect("no block has a region mask")
def _no_masks(net: Network) -> None:
    _without_mask(net, 6)


def _without_mask(net: Network, blocks: int) -> None:
    for node in [a.mask for a in net.attentions if a.mask is not None][:blocks]:
        net.bypass(node, node.input[2])


@_defect("the highest octave's gate is zero in one block")
def _octave_gate(net: Network) -> None:
    gate = net.attentions[0].gates[-1]
    net.change(gate, net.place(gate), np.zeros_like)


@_defect("the octaves are in the opposite order in every block")
def _octaves_reversed(net: Network) -> None:
    for attention in net.attentions:
        low, high = attention.gates[0], attention.gates[-1]
        i, j = net.place(low), net.place(high)
        low.input[i], high.input[j] = high.input[j], low.input[i]


@_defect("one head's inverse temperature is 10 % too high")
def _temperature(net: Network) -> None:
    def raised(value: NDArray) -> NDArray:
        value[:, :, 0] = value[:, :, 0] * 1.1
        return value

    for node in (net.attentions[0].temperature, net.attentions[0].bias):
        net.change(node, net.place(node), raised)


@_defect("the position biases are transposed in every block")
def _bias_transposed(net: Network) -> None:
    for attention in net.attentions:
        net.change(attention.bias, net.place(attention.bias), lambda b: b.swapaxes(-1, -2))


@_defect("the position biases are zero in every block")
def _bias_zero(net: Network) -> None:
    for attention in net.attentions:
        net.change(attention.bias, net.place(attention.bias), np.zeros_like)


@_defect("the position bias is zero in one block")
def _one_bias_zero(net: Network) -> None:
    net.change(net.attentions[0].bias, net.place(net.attentions[0].bias), np.zeros_like)


@_defect("q and k are swapped in one block")
def _q_and_k(net: Network) -> None:
    q, k, v = net.attentions[0].split.output
    del net.attentions[0].split.output[:]
    net.attentions[0].split.output.extend([k, q, v])


@_defect("one head of one block adds nothing")
def _head_zero(net: Network) -> None:
    def without(value: NDArray) -> NDArray:
        value[:, :, 0] = 0
        return value

    for gate in net.attentions[0].gates:
        net.change(gate, net.place(gate), without)


@_defect("softmax does not subtract the row's maximum")
def _no_maximum(net: Network) -> None:
    last = net.add_constant(np.array([-1]))
    for attention in net.attentions:
        scores, probabilities = attention.softmax.input[0], attention.softmax.output[0]
        power, total = net.new("power"), net.new("total")
        net.insert(
            attention.softmax,
            helper.make_node("Exp", [scores], [power]),
            helper.make_node("ReduceSum", [power, last], [total], keepdims=1),
            helper.make_node("Div", [power, total], [probabilities]),
        )
        net.nodes.remove(attention.softmax)


@_defect("one block drops the residual around its attention")
def _no_residual(net: Network) -> None:
    _without_residual(net, _middle(net))


@_defect("one block drops the residual around its MLP")
def _no_mlp_residual(net: Network) -> None:
    _without_residual(net, _middle(net) + 1)


def _middle(net: Network) -> int:
    """Return the place of the residual around the attention of a block in the middle."""
    return 2 * (len(net.residuals) // 4) - 2


def _without_residual(net: Network, at: int) -> None:
    node = net.residuals[at]
    branch = next(
        name
        for name in node.input
        if net.producers[name].op_type == "Add"
        and any(map(net.is_constant, net.producers[name].input))
    )
    net.bypass(node, branch)


def _layer(net: Network) -> tuple[NodeProto, int]:
    """Return what reads the constant matrix of one linear layer in the middle of the stages."""
    wide = list(net.weights(lambda shape: shape[1] == 4 * shape[0]))
    return wide[len(wide) // 2]


@_defect("the weights of one layer are 5 % off, as after another epoch")
def _other_epoch(net: Network) -> None:
    def moved(weight: NDArray) -> NDArray:
        noise = np.random.default_rng(0).normal(0, float(weight.std()), weight.shape)
        return weight.astype(np.float64) + 0.05 * noise

    net.change(*_layer(net), moved)


@_defect("the scale of one layer's weights is doubled")
def _scale_doubled(net: Network) -> None:
    reader, at = _layer(net)
    if reader.op_type == "QuantizeLinear":  # its dequantiser alone, as a wrong scale would
        (after,) = net.users(reader.output[0])
        net.change(after, 1, lambda scale: 2 * scale)
    else:
        net.change(reader, at, lambda weight: 2 * weight)


@_defect("a layer's bias is dropped")
def _bias_dropped(net: Network) -> None:
    node = net.residuals[_middle(net)]
    added = next(
        net.producers[n] for n in node.input if any(map(net.is_constant, net.producers[n].input))
    )
    net.change(added, net.place(added), np.zeros_like)


@_defect("the tokens' weights are all equal in the mixture")
def _equal_weights(net: Network) -> None:
    softmax = net.of_type("Softmax")[1]
    zero = net.add_constant(np.zeros((), np.float32))
    flat = net.new("flat")
    net.insert(softmax, helper.make_node("Mul", [softmax.input[0], zero], [flat]))
    softmax.input[0] = flat


@_defect("the image's logits are not divided by the fitted temperature")
def _no_calibration(net: Network) -> None:
    node = net.producer(net.producer("probs").input[0])
    net.change(node, 1, np.ones_like)


@_defect("the grades of the tiles' votes are 0.19 apart, not 0.2")
def _grade_step(net: Network) -> None:
    total = net.producer(net.producer("quality_map").input[0])
    node = net.producer(total.input[0])
    net.change(node, net.place(node), lambda grades: grades * 0.95)


@_defect("the statistics of edges are rounded to 16 bits")
def _statistics_in_16_bits(net: Network) -> None:
    first = net.of_type("ReduceMean")[0]
    inside, seen = [first], {first.output[0], first.input[0]}
    for node in net.nodes[net.index(first) + 1 :]:
        if seen & set(node.input) and node.output[0] != "novelty":
            seen |= set(node.output)
            inside.append(node)
    for node in inside:
        exact, low = net.new(node.output[0]), net.new(node.output[0])
        name = node.output[0]
        node.output[0] = exact
        net.insert(
            net.nodes[net.index(node) + 1],
            helper.make_node("Cast", [exact], [low], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [low], [name], to=TensorProto.FLOAT),
        )


@_defect("the novelty is measured from zero, not from the training data's mean")
def _novelty_mean(net: Network) -> None:
    node = net.producer(_only([n for n in net.of_type("MatMul") if _squares(net, n)]).input[0])
    net.change(node, 1, np.zeros_like)


def _squares(net: Network, node: NodeProto) -> bool:
    users = list(net.users(node.output[0]))
    return any(u.op_type == "Mul" and u.input[0] == u.input[1] for u in users)


@_defect("score and novelty are in the other order")
def _outputs_swapped(net: Network) -> None:
    for node in net.nodes:
        for i, name in enumerate(node.output):
            if name in ("score", "novelty"):
                node.output[i] = {"score": "novelty", "novelty": "score"}[name]
        for i, name in enumerate(node.input):
            assert name not in ("score", "novelty"), i


@_defect("from the ninth slice of a batch on, 0.5 is added to the score", batch=True)
def _ninth_slice(net: Network) -> None:
    def make(old: str) -> list[NodeProto]:
        start, axis, half = (
            net.add_constant(np.array(v, t))
            for v, t in ((8, np.int64), (0, np.int64), (0.5, np.float32))
        )
        names = [net.new("ninth") for _ in range(6)]
        return [
            *_positions(net, old, names[0]),
            helper.make_node("GreaterOrEqual", [names[0], start], [names[1]]),
            helper.make_node("Cast", [names[1]], [names[2]], to=TensorProto.FLOAT),
            helper.make_node("Mul", [names[2], half], [names[3]]),
            helper.make_node("Add", [old, names[3]], ["score"]),
        ]

    net.after_output("score", make)


@_defect("from the second slice of a batch on, slices have their neighbour's score", batch=True)
def _neighbours_score(net: Network) -> None:
    def make(old: str) -> list[NodeProto]:
        step, zero = (net.add_constant(np.array(v, np.int64)) for v in (1, 0))
        names = [net.new("neighbour") for _ in range(3)]
        return [
            *_positions(net, old, names[0]),
            helper.make_node("Sub", [names[0], step], [names[1]]),
            helper.make_node("Max", [names[1], zero], [names[2]]),
            helper.make_node("Gather", [old, names[2]], ["score"], axis=0),
        ]

    net.after_output("score", make)


@_defect("a slice's quality map holds 1 % of the batch's mean", batch=True)
def _neighbours_map(net: Network) -> None:
    def make(old: str) -> list[NodeProto]:
        axis = net.add_constant(np.array([0]))
        most, little = (net.add_constant(np.array(v, np.float32)) for v in (0.99, 0.01))
        names = [net.new("leak") for _ in range(3)]
        return [
            helper.make_node("ReduceMean", [old, axis], [names[0]], keepdims=1),
            helper.make_node("Mul", [names[0], little], [names[1]]),
            helper.make_node("Mul", [old, most], [names[2]]),
            helper.make_node("Add", [names[1], names[2]], ["quality_map"]),
        ]

    net.after_output("quality_map", make)


def _positions(net: Network, vector: str, name: str) -> list[NodeProto]:
    """Return nodes that number the elements of a vector [n] from 0, int64."""
    zero, step, axis = (net.add_constant(np.array(v, np.int64)) for v in (0, 1, [0]))
    shape, length = net.new("shape"), net.new("length")
    return [
        helper.make_node("Shape", [vector], [shape]),
        helper.make_node("Squeeze", [shape, axis], [length]),
        helper.make_node("Range", [zero, length, step], [name]),
    ]
