"""Proximity measures between the nodes of a graph, plain and logarithmic, and clustering with them.

V. Ivashkin, P. Chebotarev, "Do logarithmic proximity measures outperform plain ones in graph
clustering?", 2016, arXiv 1605.01046.

A graph is given as a symmetric adjacency matrix (numpy, torch or scipy.sparse), a list of edges
``(u, v)`` or ``(u, v, weight)``, a networkx graph, or the path of a file (edge list, GML, GraphML,
Matrix Market, .npy, .npz). Matrices come back as numpy arrays where a numpy array or a scipy
matrix was given, and as torch tensors otherwise. Bad arguments raise ValueError.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from ._arrays import Array, accepts_arrays, as_tensor, is_foreign_array
from ._einkorn import graph_proximity as _graph_proximity

__all__ = [
    "Dendrogram",
    "Graph",
    "KMeansResult",
    "Kernel",
    "Proximity",
    "ProximityClustering",
    "RejectCurve",
    "ResistanceNetwork",
    "Standing",
    "SweepPoint",
    "adjusted_rand_index",
    "all_measures",
    "as_graph",
    "competition",
    "cut",
    "distance_from_kernel",
    "kernel_from_distance",
    "kernel_kmeans",
    "misclassified_fraction",
    "modularity",
    "normalized_mutual_information",
    "paper_measures",
    "planted_partition",
    "rand_index",
    "reject_curve",
    "spectral_clustering",
    "stochastic_block_model",
    "ward",
    "zachary_karate_club",
]

GraphLike = Any
"""What as_graph accepts."""

Graph = _graph_proximity.Graph
"""A checked graph: adjacency [n, n] f64, nodes (names), attributes (name -> one text a node)."""


class Kernel(NamedTuple):
    """A kernel is exp(log_scale) * values if plain, values + log_scale if logarithmic."""

    values: Array
    log_scale: float
    condition: float
    path: str


class SweepPoint(NamedTuple):
    """One distance of a sweep."""

    measure: str
    s: float
    parameter: float | None
    distance: Array


class Dendrogram(NamedTuple):
    """Merges in order of height; cluster i < n is node i, cluster n + k the result of merge k."""

    children: Array  # [n - 1, 2] i64
    heights: Array  # [n - 1] f64
    sizes: Array  # [n - 1] i64


class KMeansResult(NamedTuple):
    """The best of all restarts."""

    labels: Array  # [n] i64
    inertia: float
    modularity: float
    iterations: int
    converged: bool


class RejectCurve(NamedTuple):
    """Shares of inter-class (x) and intra-class pairs (y) within each threshold, and the area."""

    x: Array
    y: Array
    area: float


class Standing(NamedTuple):
    """How one measure did in a competition; scores[s][graph] are adjusted Rand indices."""

    measure: str
    scores: list[list[float]]
    mean_scores: list[float]
    best_s: float
    best_score: float
    standard_error: float
    median_score: float
    copeland: int
    reject_area: float


def all_measures() -> list[str]:
    """The names of all measures."""
    return _graph_proximity.measures(False)


def paper_measures() -> list[str]:
    """The 13 that the paper compares."""
    return _graph_proximity.measures(True)


def as_graph(
    graph: GraphLike,
    *,
    symmetrize: str = "refuse",
    repeated: str = "refuse",
    self_loops: str = "refuse",
    component: str = "all",
) -> Graph:
    """A checked undirected graph.

    Parameters
    ----------
    graph : see the module; returned as it is if it is a Graph already
    symmetrize : how two directions become one edge: refuse, sum, mean or maximum
    repeated : the weight of an edge listed more than once: refuse, sum or maximum
    self_loops : refuse, drop or keep (kept loops count once in the degree)
    component : "all", or "largest" for the largest connected component alone
    """
    if component not in ("all", "largest"):
        raise ValueError(f"component: expected all or largest, got {component!r}")
    checked = _checked_graph(graph, symmetrize, repeated, self_loops)
    return _graph_proximity.largest_component(checked) if component == "largest" else checked


def _checked_graph(graph: GraphLike, symmetrize: str, repeated: str, self_loops: str) -> Graph:
    if isinstance(graph, Graph):
        return graph
    if isinstance(graph, (str, os.PathLike)):
        return _graph_proximity.read(os.fspath(graph), symmetrize, repeated, self_loops, False)
    if hasattr(graph, "is_directed") and hasattr(graph, "edges"):
        edges = [(u, v, data.get("weight", 1.0)) for u, v, data in graph.edges(data=True)]
        return _from_edges(
            edges, list(graph.nodes), graph.is_directed(), symmetrize, repeated, self_loops
        )
    if hasattr(graph, "toarray"):
        graph = graph.toarray()
    if isinstance(graph, torch.Tensor) or is_foreign_array(graph):
        return _graph_proximity.from_adjacency(as_tensor(graph), symmetrize, self_loops)
    return _from_edges(list(graph), [], False, symmetrize, repeated, self_loops)


def _from_edges(
    edges: list, nodes: list, directed: bool, symmetrize: str, repeated: str, self_loops: str
) -> Graph:
    position = {node: i for i, node in enumerate(nodes)}
    numbered = []
    for edge in edges:
        if not isinstance(edge, Sequence) or isinstance(edge, str) or len(edge) not in (2, 3):
            raise ValueError(f"edges: expected (u, v) or (u, v, weight), got {edge!r}")
        u, v = (position.setdefault(node, len(position)) for node in edge[:2])
        numbered.append((u, v, float(edge[2]) if len(edge) == 3 else 1.0))
    names = [str(node) for node in position]
    return _graph_proximity.from_edges(names, numbered, directed, symmetrize, repeated, self_loops)


def zachary_karate_club() -> Graph:
    """34 members, 78 ties (Zachary 1977), with the attributes "club" and "faction"."""
    return _graph_proximity.zachary_karate_club()


def stochastic_block_model(
    sizes: Sequence[int],
    probabilities: Sequence[Sequence[float]],
    *,
    seed: int = 0,
    connected: bool = True,
    max_attempts: int = 1000,
) -> tuple[Graph, torch.Tensor]:
    """A random graph with planted classes, and the classes [n] i64.

    Independent edges of weight 1; ``probabilities`` is symmetric, [classes, classes]. Drawn again
    until it is connected, if that is asked for.
    """
    rows = [[float(p) for p in row] for row in probabilities]
    graph = _graph_proximity.sample([int(n) for n in sizes], rows, seed, connected, max_attempts)
    return graph, _graph_proximity.classes(graph, "class")


def planted_partition(
    nodes: int, classes: int, p_in: float, p_out: float, *, seed: int = 0, connected: bool = True
) -> tuple[Graph, torch.Tensor]:
    """G(N, (m) p_in, p_out): equal classes (the first N mod m one node larger), and the classes."""
    if not 1 <= classes <= nodes:
        raise ValueError(f"classes: expected 1 <= classes <= {nodes} (the nodes), got {classes}")
    sizes = [nodes // classes + (c < nodes % classes) for c in range(classes)]
    probabilities = [[p_in if r == c else p_out for c in range(classes)] for r in range(classes)]
    return stochastic_block_model(sizes, probabilities, seed=seed, connected=connected)


class Proximity:
    """Measures of one graph; what parameters share is computed once and kept.

    Parameters
    ----------
    graph : see the module
    device : "cpu" or "cuda", where matrices are computed and returned
    single_precision : plain kernels in f32
    normalize_mixture : SP-CT divides SP and CT by their standard deviations first
    path : how exponentials are computed: automatic, spectral, positive or logarithmic
    policy : the keywords of as_graph
    """

    def __init__(
        self,
        graph: GraphLike,
        *,
        device: str = "cpu",
        single_precision: bool = False,
        normalize_mixture: bool = True,
        path: str = "automatic",
        **policy: str,
    ) -> None:
        self.graph = as_graph(graph, **policy)
        self._as_numpy = is_foreign_array(graph) or hasattr(graph, "toarray")
        self._proximity = _graph_proximity.Proximity(
            self.graph, device, single_precision, normalize_mixture, path
        )

    @property
    def spectral_radius(self) -> float:
        """The largest eigenvalue of the adjacency matrix."""
        return self._proximity.spectral_radius()

    def parameter_range(self, measure: str) -> tuple[str, float, float] | None:
        """The parameter's symbol and its bounds; None for a family without a parameter."""
        symbol, low, high, _ = self._proximity.range(measure)
        return (symbol, low, high) if symbol else None

    def parameter(self, measure: str, s: float) -> float | None:
        """The parameter at s in (0, 1), the axis that all families share."""
        return self._proximity.parameter(measure, s)

    def kernel(
        self,
        measure: str,
        parameter: float | None = None,
        *,
        s: float | None = None,
        log: bool = False,
    ) -> Kernel:
        """The kernel [n, n] f64 (f32 in single precision) of a measure.

        Give its own ``parameter`` or ``s``; ``log`` takes the logarithm of a plain measure. Of a
        distance by definition it is -H D H / 2. Raises ValueError for parameters outside their
        range (which the message tells), isolated nodes where the measure divides by degrees,
        and disconnected graphs where it takes logarithms.
        """
        found = self._proximity.kernel(measure, log, self._value(measure, parameter, s))
        found["values"] = self._given_back(found["values"])
        return Kernel(**found)

    def distance(
        self,
        measure: str,
        parameter: float | None = None,
        *,
        s: float | None = None,
        log: bool = False,
        root: bool = False,
    ) -> Array:
        """(h_ii + h_jj - h_ij - h_ji) / 2 of the kernel, or the distance that the measure is.

        [n, n] f64, symmetric; ``root`` takes its square root, as some authors do for Comm.
        """
        found = self._proximity.distance(measure, log, self._value(measure, parameter, s))
        return self._given_back(found.sqrt() if root else found)

    def sweep(self, measures: Iterable[str], s_grid: Iterable[float]) -> Iterator[SweepPoint]:
        """The distances of all measures at all s, one after the other."""
        grid = list(s_grid)
        for measure in measures:
            constant = None
            for s in grid:
                parameter = self.parameter(measure, s)
                if parameter is None and constant is None:
                    constant = self.distance(measure)
                distance = constant if parameter is None else self.distance(measure, parameter)
                yield SweepPoint(measure, s, parameter, distance)

    def resistance(self) -> Array:
        """Effective resistances [n, n] f64 of a connected graph."""
        return self._given_back(self._proximity.resistance())

    def _value(self, measure: str, parameter: float | None, s: float | None) -> float | None:
        if s is None:
            return parameter
        if parameter is not None:
            raise ValueError("parameter and s both name the parameter; give one of them")
        value = self.parameter(measure, s)
        if value is None:
            raise ValueError(f"s: {measure} has no parameter")
        return value

    def _given_back(self, matrix: torch.Tensor) -> Array:
        return matrix.cpu().numpy() if self._as_numpy else matrix


@accepts_arrays("kernel")
def distance_from_kernel(kernel: Array) -> Array:
    """(k_ii + k_jj - k_ij - k_ji) / 2 of a kernel [n, n]."""
    return _graph_proximity.distance_from_kernel(kernel)


@accepts_arrays("distance")
def kernel_from_distance(distance: Array) -> Array:
    """-H D H / 2 of a symmetric distance [n, n], which is not squared."""
    return _graph_proximity.kernel_from_distance(distance)


@accepts_arrays("distances")
def ward(distances: Array, *, ties: str = "chain") -> Dendrogram:
    """Ward's clustering on a symmetric matrix [n, n] f32 or f64, O(n^2).

    For a kernel give distance_from_kernel(kernel), for RSP and the like the distance itself.
    ``ties``: "chain" takes equally near pairs as nearest-neighbour chains meet them,
    "lexicographic" always the first of the nearest pairs.
    """
    return Dendrogram(*_graph_proximity.ward(distances, ties))


def cut(dendrogram: Dendrogram, clusters: int) -> Array:
    """The partition into 1 <= clusters <= n parts: labels [n] i64, numbered as they appear."""
    children = dendrogram.children
    labels = _graph_proximity.cut(as_tensor(children), clusters)
    return labels.numpy() if is_foreign_array(children) else labels


@accepts_arrays("kernel", "adjacency")
def kernel_kmeans(
    kernel: Array,
    clusters: int,
    *,
    update: str = "batch",
    start: str = "plus_plus",
    adjacency: Array | None = None,
    restarts: int = 10,
    max_iterations: int = 100,
    seed: int = 0,
) -> KMeansResult:
    """Kernel k-means on a kernel [n, n]; the result depends on the seed alone.

    Parameters
    ----------
    update : "batch" (all nodes, then recompute) or "iterative" (one node at a time)
    start : "plus_plus" (k-means++), "one" (random nodes as centres) or "all" (random clusters)
    adjacency : if given, the restart with the highest modularity is kept, else the least inertia
    """
    found = _graph_proximity.kmeans(
        kernel, False, clusters, update, start, adjacency, restarts, max_iterations, seed
    )
    return KMeansResult(**found)


@accepts_arrays("kernel", "adjacency")
def spectral_clustering(
    kernel: Array,
    clusters: int,
    *,
    update: str = "batch",
    start: str = "plus_plus",
    adjacency: Array | None = None,
    restarts: int = 10,
    max_iterations: int = 100,
    seed: int = 0,
) -> KMeansResult:
    """k-means on the unit rows of the kernel's leading eigenvectors; see kernel_kmeans."""
    found = _graph_proximity.kmeans(
        kernel, True, clusters, update, start, adjacency, restarts, max_iterations, seed
    )
    return KMeansResult(**found)


def _labels(labels: Array | Sequence[int]) -> torch.Tensor:
    if isinstance(labels, torch.Tensor) or is_foreign_array(labels):
        return as_tensor(labels)
    return torch.as_tensor(labels)


def adjusted_rand_index(labels: Array, truth: Array) -> float:
    """Hubert and Arabie's index of two partitions [n] of integers; exact pair counts."""
    return _graph_proximity.adjusted_rand_index(_labels(labels), _labels(truth))


def rand_index(labels: Array, truth: Array) -> float:
    """The share of pairs on which two partitions agree."""
    return _graph_proximity.rand_index(_labels(labels), _labels(truth))


def normalized_mutual_information(labels: Array, truth: Array) -> float:
    """Mutual information over the geometric mean of the entropies."""
    return _graph_proximity.normalized_mutual_information(_labels(labels), _labels(truth))


def misclassified_fraction(labels: Array, truth: Array) -> float:
    """1 - the share of nodes that agree under the best matching of clusters to classes."""
    return _graph_proximity.misclassified_fraction(_labels(labels), _labels(truth))


def modularity(adjacency: Array, labels: Array) -> float:
    """Newman and Girvan's modularity of a partition."""
    return _graph_proximity.modularity(as_tensor(adjacency), _labels(labels))


@accepts_arrays("distances")
def reject_curve(distances: Array, labels: Array) -> RejectCurve:
    """How well a distance tells pairs of one class from pairs of two; ties count one half."""
    return RejectCurve(*_graph_proximity.reject_curve(distances, _labels(labels)))


def competition(
    graphs: Sequence[GraphLike],
    truths: Sequence[Array],
    *,
    measures: Sequence[str] | None = None,
    s_grid: Sequence[float] | None = None,
    method: str = "ward",
    seed: int = 0,
) -> list[Standing]:
    """Adjusted Rand index of every measure, s and graph, with Copeland's scores.

    ``truths`` are the classes of each graph's nodes, [n] integers. By default the paper's 13
    measures at 30 values of s; ``method`` is ward, kmeans or spectral.
    """
    rows = _graph_proximity.compete(
        [as_graph(graph) for graph in graphs],
        [_labels(truth) for truth in truths],
        list(measures) if measures is not None else paper_measures(),
        [float(s) for s in s_grid] if s_grid is not None else [i / 31 for i in range(1, 31)],
        method,
        seed,
    )
    return [Standing(**row) for row in rows]


class ResistanceNetwork:
    """Effective resistances of a large sparse graph, without any [n, n] matrix.

    ``graph``: the path of an edge list, GML, GraphML or Matrix Market file, which is read without
    becoming dense, or anything that as_graph accepts. The graph must be connected.
    """

    def __init__(
        self,
        graph: GraphLike,
        *,
        symmetrize: str = "refuse",
        repeated: str = "refuse",
        self_loops: str = "refuse",
    ) -> None:
        if isinstance(graph, (str, os.PathLike)):
            self._network = _graph_proximity.ResistanceNetwork(
                os.fspath(graph), symmetrize, repeated, self_loops
            )
        else:
            checked = _checked_graph(graph, symmetrize, repeated, self_loops)
            self._network = _graph_proximity.ResistanceNetwork(checked)

    def __len__(self) -> int:
        return self._network.size

    @property
    def edges(self) -> int:
        """The number of edges."""
        return self._network.edges

    def resistance(
        self,
        pairs: Iterable[tuple[int, int]],
        *,
        tolerance: float = 1e-10,
        max_iterations: int = 0,
    ) -> torch.Tensor:
        """The resistance of each pair of node positions, [pairs] f64, by conjugate gradients."""
        listed = [(int(u), int(v)) for u, v in pairs]
        return self._network.resistance(listed, tolerance, max_iterations)

    def embedding(
        self,
        epsilon: float = 0.3,
        *,
        seed: int = 0,
        tolerance: float = 1e-10,
        max_iterations: int = 0,
    ) -> torch.Tensor:
        """Coordinates [n, k] whose squared distances are resistances within 1 +- epsilon."""
        return self._network.embedding(epsilon, seed, tolerance, max_iterations)


class ProximityClustering:
    """Clustering of a graph's nodes as a scikit-learn style estimator.

    Parameters
    ----------
    n_clusters : number of clusters
    measure : a name of all_measures()
    s : the parameter on the axis that all families share; ignored for families without one
    parameter : the family's own parameter, instead of s
    method : ward, kmeans or spectral
    random_state : seed of kmeans and spectral
    device : cpu or cuda

    Attributes
    ----------
    labels_ : numpy array [n] i64
    parameter_ : the parameter used, or None
    n_features_in_ : n
    """

    _parameter_names = (
        "device",
        "measure",
        "method",
        "n_clusters",
        "parameter",
        "random_state",
        "s",
    )

    def __init__(
        self,
        n_clusters: int = 2,
        *,
        measure: str = "logComm",
        s: float = 0.5,
        parameter: float | None = None,
        method: str = "ward",
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.n_clusters = n_clusters
        self.measure = measure
        self.s = s
        self.parameter = parameter
        self.method = method
        self.random_state = random_state
        self.device = device

    def fit(self, X: GraphLike, y: None = None) -> "ProximityClustering":
        """Clusters the graph with the adjacency matrix X (or any graph that as_graph accepts)."""
        if self.method not in ("ward", "kmeans", "spectral"):
            raise ValueError(f"method: expected ward, kmeans or spectral, got {self.method!r}")
        proximity = Proximity(X, device=self.device)
        self.parameter_ = self.parameter
        if self.parameter is None:
            self.parameter_ = proximity.parameter(self.measure, self.s)
        if self.method == "ward":
            distance = proximity.distance(self.measure, self.parameter_)
            labels = cut(ward(distance), self.n_clusters)
        else:
            kernel = proximity.kernel(self.measure, self.parameter_).values
            cluster = kernel_kmeans if self.method == "kmeans" else spectral_clustering
            labels = cluster(kernel, self.n_clusters, seed=self.random_state).labels
        self.labels_ = as_tensor(labels).numpy()
        self.n_features_in_ = len(self.labels_)
        return self

    def fit_predict(self, X: GraphLike, y: None = None) -> Array:
        """Clusters and returns labels_."""
        return self.fit(X).labels_

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters by name."""
        return {name: getattr(self, name) for name in self._parameter_names}

    def set_params(self, **params: Any) -> "ProximityClustering":
        """Sets parameters by name; ValueError for unknown ones."""
        for name, value in params.items():
            if name not in self._parameter_names:
                known = ", ".join(self._parameter_names)
                raise ValueError(f"Invalid parameter {name!r}; valid ones are {known}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = type(self)().get_params()
        changed = {k: v for k, v in self.get_params().items() if v != defaults[k]}
        return f"ProximityClustering({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    def __sklearn_tags__(self):
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            input_tags=InputTags(pairwise=True, sparse=True, positive_only=True),
        )
