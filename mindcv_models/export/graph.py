"""An ONNX graph while it is built and simplified: plain operators, arrays and shapes."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple, Union

import numpy as np

__all__ = ["OnnxGraph", "Operator"]

Shape = Tuple[int, ...]


@dataclass(eq=False)
class Operator:
    """One call of an operator of the ``ai.onnx`` set."""

    type: str
    inputs: List[str]
    outputs: List[str]
    attributes: Dict[str, Any] = field(default_factory=dict)


@dataclass
class OnnxGraph:
    """Operators in the order of execution, with the constants and the shapes of all tensors.

    A shape has -1 for the dimension, at most one, that grows with a dynamic batch. Outputs are float32, but those in
    ``integers``, which are int64.
    """

    input: str
    outputs: List[str] = field(default_factory=list)
    operators: List[Operator] = field(default_factory=list)
    constants: Dict[str, np.ndarray] = field(default_factory=dict)
    shapes: Dict[str, Shape] = field(default_factory=dict)
    integers: Set[str] = field(default_factory=set)
    counts: Counter = field(default_factory=Counter)

    def name(self, kind: str) -> str:
        """An unused name."""
        self.counts[kind] += 1
        return f"{kind}_{self.counts[kind]}"

    def constant(self, value: Union[np.ndarray, float, Sequence[int]], name: str = "") -> str:
        """Store a value under ``name`` or an unused name; a sequence of integers becomes an int64 vector."""
        value = np.asarray(value)
        name = name or self.name("constant")
        self.constants[name] = value
        self.shapes[name] = value.shape
        return name

    def add(self, type: str, inputs: Sequence[str], shape: Shape, before: Optional[Operator] = None, **attributes):
        """Append an operator with one output of ``shape``, or insert it, and return that output's name."""
        return self.add_many(type, inputs, [shape], before, **attributes)[0]

    def add_many(
        self, type: str, inputs: Sequence[str], shapes: Sequence[Shape], before: Optional[Operator] = None, **attributes
    ) -> List[str]:
        """Append an operator with an output for each of ``shapes``, or insert it, and return their names."""
        outputs = [self.name(type) for _ in shapes]
        self.shapes.update(zip(outputs, map(tuple, shapes)))
        place = len(self.operators) if before is None else self.operators.index(before)
        self.operators.insert(place, Operator(type, list(inputs), outputs, attributes))
        return outputs

    def reshape(self, x: str, shape: Shape, before: Optional[Operator] = None) -> str:
        """Add a reshape and return its output's name."""
        return self.add("Reshape", [x, self.constant(shape)], shape, before)

    def producers(self) -> Dict[str, Operator]:
        """The operator that computes each name."""
        return {output: operator for operator in self.operators for output in operator.outputs}

    def consumers(self) -> Dict[str, List[Operator]]:
        """The operators that use each name."""
        users = defaultdict(list)
        for operator in self.operators:
            for name in operator.inputs:
                users[name].append(operator)
        return users

    def only_user(self, name: str, type: str) -> Optional[Operator]:
        """The operator that uses ``name``, if it is the only one and of ``type``."""
        users = [operator for operator in self.operators if name in operator.inputs]
        return users[0] if len(users) == 1 and users[0].type == type and name not in self.outputs else None

    def redirect(self, old: str, new: str) -> None:
        """Replace all uses of ``old`` by ``new``."""
        for operator in self.operators:
            operator.inputs = [new if name == old else name for name in operator.inputs]
        self.outputs = [new if name == old else name for name in self.outputs]

    def prune(self) -> None:
        """Remove operators and constants that no output depends on."""
        needed, kept = set(self.outputs), []
        for operator in reversed(self.operators):
            if needed.intersection(operator.outputs):
                kept.append(operator)
                needed.update(operator.inputs)
        self.operators = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
