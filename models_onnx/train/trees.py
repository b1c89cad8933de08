"""Boosted trees that tell classes apart: scikit-learn's, as nodes of a graph. Same seed, same trees, on one thread.

About a thousand faults in a hundred and fifty columns, many of them unknown: a small network learns such a table by
heart within few epochs, and trees did better on validation farms. What is unknown goes its own way at each split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from models_onnx.train.graph import ML_DOMAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models_onnx.train.graph import Graph

    F32 = NDArray[np.float32]
    Ints = NDArray[np.int64]

# of tried: 40 to 70 rounds and 8 or 15 leaves are alike on validation farms
ROUNDS, RATE, LEAVES, LEAST_IN_LEAF = 60, 0.1, 15, 20
PULL = 5.0  # of the leaves to 0
LOOKED_AT = 0.3  # of the columns, at each split
NEVER = -12.0  # the score of a class that the training never saw


class Trees:
    """One ensemble of trees; ``classes`` counts those that there are, seen or not."""

    def __init__(self, classes: int, seed: int) -> None:
        """Begin with nothing."""
        self._classes = classes
        self._model = HistGradientBoostingClassifier(
            max_iter=ROUNDS,
            learning_rate=RATE,
            max_leaf_nodes=LEAVES,
            min_samples_leaf=LEAST_IN_LEAF,
            l2_regularization=PULL,
            max_features=LOOKED_AT,
            early_stopping=False,
            random_state=seed,
        )

    def fit(self, x: F32, label: Ints, weight: F32) -> Trees:
        """Learn from columns [rows, columns] (NaN = unknown), and return itself."""
        with threadpool_limits(1, "openmp"):  # sums of several threads come in any order
            self._model.fit(x, label, sample_weight=weight)
        return self

    def logits(self, x: F32) -> F32:
        """Return the logits, [rows, classes]."""
        found = np.full((len(x), self._classes), NEVER, np.float32)
        found[:, self._model.classes_] = self._model.decision_function(x)
        return found

    def emit(self, graph: Graph, x: str) -> str:
        """Add the trees to a graph; return their logits, [rows, classes]."""
        seen = self._model.classes_.tolist()
        nodes: dict[str, list[Any]] = {name: [] for name in (*_NODES, *_LEAVES)}
        # scikit-learn shows its trees nowhere else; each round has one for each class that was seen
        trees = [(c, tree.nodes) for round_ in self._model._predictors for c, tree in zip(seen, round_, strict=True)]  # noqa: SLF001
        for number, (target, tree) in enumerate(trees):
            is_leaf = tree["is_leaf"].astype(bool)
            for name, column in (
                ("treeids", np.full(len(tree), number)),
                ("nodeids", np.arange(len(tree))),
                ("featureids", np.where(is_leaf, 0, tree["feature_idx"])),
                ("modes", np.where(is_leaf, "LEAF", "BRANCH_LEQ")),
                ("values", np.where(is_leaf, 0, _down(tree["num_threshold"]))),
                ("truenodeids", np.where(is_leaf, 0, tree["left"])),
                ("falsenodeids", np.where(is_leaf, 0, tree["right"])),
                ("missing_value_tracks_true", np.where(is_leaf, 0, tree["missing_go_to_left"])),
            ):
                nodes[f"nodes_{name}"] += column.tolist()
            leaves = np.flatnonzero(is_leaf)
            nodes["target_treeids"] += [number] * len(leaves)
            nodes["target_nodeids"] += leaves.tolist()
            nodes["target_ids"] += [target] * len(leaves)
            nodes["target_weights"] += tree["value"][leaves].tolist()
        base = np.full(self._classes, NEVER)
        base[seen] = self._model._baseline_prediction.ravel()  # noqa: SLF001
        # onnxruntime forgets the base value of a class without trees
        scores = graph.op("TreeEnsembleRegressor", x, domain=ML_DOMAIN, n_targets=self._classes, **nodes)
        return graph.add(scores, graph.const(base))


_NODES = tuple(
    f"nodes_{name}"
    for name in (
        "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
        "missing_value_tracks_true",
    )
)  # fmt: skip
_LEAVES = tuple(f"target_{name}" for name in ("treeids", "nodeids", "ids", "weights"))


def _down(threshold: NDArray[np.float64]) -> F32:
    """Return the largest float32 that is not above: what was at most the threshold is at most this."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)
