"""The Python face of graph-proximity, and that it agrees with the command."""

import json
import os
import pickle
import subprocess

import numpy as np
import pytest
import torch

import einkorn
from einkorn import graph_proximity as gp

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")


def run(*words, expected=0):
    done = subprocess.run([COMMAND, "graph-proximity", *words], capture_output=True, text=True)
    assert done.returncode == expected, done.stderr
    return done


def run_json(*words):
    return json.loads(run(*words, "--json").stdout)


@pytest.fixture
def karate(tmp_path):
    networkx = pytest.importorskip("networkx")
    graph = networkx.karate_club_graph()
    for _, _, edge in graph.edges(data=True):
        edge.pop("weight", None)
    path = tmp_path / "karate.gml"
    networkx.write_gml(graph, path)
    return path


def path_of_four():
    return np.diag(np.ones(3), 1) + np.diag(np.ones(3), -1)


def test_reference_values():
    proximity = gp.Proximity(path_of_four())
    distance = proximity.distance("logComm", 1.0)
    assert isinstance(distance, np.ndarray)
    assert distance[0, 3] == pytest.approx(2.10756083834, abs=1e-11)
    assert proximity.kernel("For", 1.0).values[0, 0] == pytest.approx(13 / 21, abs=1e-15)
    assert proximity.spectral_radius == pytest.approx(1.618033988749895)


def test_every_way_to_give_a_graph(tmp_path):
    networkx = pytest.importorskip("networkx")
    sparse = pytest.importorskip("scipy.sparse")
    a = path_of_four()
    expected = gp.Proximity(a).distance("Walk", 0.3)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "a.npz", a=a)
    (tmp_path / "a.txt").write_text("a b\nb c\nc d\n")
    graphs = [
        torch.from_numpy(a),
        a.astype(np.int32),
        sparse.csr_matrix(a),
        [("a", "b"), ("b", "c"), ("c", "d", 1.0)],
        networkx.path_graph(4),
        tmp_path / "a.npy",
        str(tmp_path / "a.npz"),
        tmp_path / "a.txt",
        gp.as_graph(a),
    ]
    for graph in graphs:
        found = gp.Proximity(graph).distance("Walk", 0.3)
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-15)
    assert isinstance(gp.Proximity(graphs[0]).distance("Walk", 0.3), torch.Tensor)
    assert isinstance(gp.Proximity(graphs[2]).distance("Walk", 0.3), np.ndarray)


def test_against_networkx():
    networkx = pytest.importorskip("networkx")
    graph = networkx.connected_watts_strogatz_graph(40, 4, 0.3, seed=1)
    proximity = gp.Proximity(graph)
    communicability = networkx.communicability_exp(graph)
    resistance = networkx.resistance_distance(graph)
    values = proximity.kernel("Comm", 1.0).values
    found = proximity.resistance()
    for u in graph:
        for v in graph:
            assert values[u, v] == pytest.approx(communicability[u][v], rel=1e-9)
            assert found[u, v] == pytest.approx(resistance[u][v], abs=1e-10)
    labels = [v % 3 for v in graph]
    parts = [{v for v in graph if v % 3 == c} for c in range(3)]
    assert gp.modularity(networkx.to_numpy_array(graph), labels) == pytest.approx(
        networkx.community.modularity(graph, parts)
    )


def test_scores_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for n, classes in [(2, 2), (10, 3), (200, 5), (1000, 17)]:
        a, b = rng.integers(0, classes, (2, n))
        assert gp.adjusted_rand_index(a, b) == pytest.approx(metrics.adjusted_rand_score(a, b))
        assert gp.rand_index(a, b) == pytest.approx(metrics.rand_score(a, b))
        assert gp.normalized_mutual_information(a, b) == pytest.approx(
            metrics.normalized_mutual_info_score(a, b, average_method="geometric"), abs=1e-12
        )
    distance = gp.Proximity(gp.zachary_karate_club()).distance("FE", 1.0).numpy()
    labels = rng.integers(0, 2, 34)
    upper = np.triu_indices(34, 1)
    intra = labels[upper[0]] == labels[upper[1]]
    curve = gp.reject_curve(distance, labels)
    assert curve.area == pytest.approx(metrics.roc_auc_score(intra, -distance[upper]))
    assert isinstance(curve.x, np.ndarray)


def test_ward_agrees_with_scipy():
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    points = np.random.default_rng(1).normal(size=(150, 3))
    squared = ((points[:, None] - points[None]) ** 2).sum(2)
    tree = gp.ward(squared / 2)
    expected = hierarchy.linkage(points, "ward")
    np.testing.assert_allclose(np.sqrt(2 * tree.heights), expected[:, 2], rtol=1e-12)
    np.testing.assert_array_equal(tree.children, expected[:, :2])
    np.testing.assert_array_equal(tree.sizes, expected[:, 3])
    for clusters in (1, 2, 7, 150):
        labels = hierarchy.fcluster(expected, clusters, "maxclust")
        assert gp.adjusted_rand_index(gp.cut(tree, clusters), labels) == 1


def test_variants_of_a_measure():
    proximity = gp.Proximity(gp.zachary_karate_club())
    by_name = proximity.kernel("logComm", 0.5)
    by_flag = proximity.kernel("Comm", 0.5, log=True)
    by_s = proximity.kernel("logComm", s=0.5)
    assert torch.equal(by_name.values, by_flag.values)
    torch.testing.assert_close(by_name.values, by_s.values, atol=1e-8, rtol=0)
    root = proximity.distance("Comm", 0.5, root=True)
    torch.testing.assert_close(root**2, proximity.distance("Comm", 0.5))
    assert proximity.parameter_range("Walk")[0] == "t"
    assert proximity.parameter_range("CT") is None
    single = gp.Proximity(gp.zachary_karate_club(), single_precision=True)
    assert single.kernel("Heat", 0.5).values.dtype == torch.float32
    points = list(proximity.sweep(["CT", "FE"], [0.25, 0.75]))
    assert [(p.measure, p.s) for p in points] == [
        ("CT", 0.25),
        ("CT", 0.75),
        ("FE", 0.25),
        ("FE", 0.75),
    ]
    assert points[0].parameter is None and points[3].parameter == pytest.approx(1 / 3)


def test_bad_input_is_a_value_error():
    a = path_of_four()
    proximity = gp.Proximity(a)
    with pytest.raises(ValueError, match=r"outside 0 < t < 1/rho = 0\.618"):
        proximity.kernel("pWalk", 1.0)
    with pytest.raises(ValueError, match="both name the parameter"):
        proximity.kernel("Comm", 1.0, s=0.5)
    with pytest.raises(ValueError, match="CT has no parameter"):
        proximity.kernel("CT", s=0.5)
    with pytest.raises(ValueError, match="did you mean 'logComm'"):
        proximity.kernel("logcom")
    with pytest.raises(ValueError, match="path: expected one of"):
        gp.Proximity(a, path="other")
    with pytest.raises(ValueError, match="self-loop"):
        gp.Proximity(a + np.eye(4))
    gp.Proximity(a + np.eye(4), self_loops="drop")
    with pytest.raises(ValueError, match="component: expected"):
        gp.as_graph(a, component="smallest")
    with pytest.raises(ValueError, match="expected \\(u, v\\)"):
        gp.as_graph([("a", "b", 1, 2)])
    with pytest.raises(ValueError, match="listed more than once"):
        gp.as_graph([("a", "b"), ("b", "a")])
    with pytest.raises(ValueError, match="names the cluster 9"):
        gp.cut(gp.Dendrogram(np.array([[0, 9]]), None, None), 1)
    with pytest.raises(OSError, match="no.gml"):
        gp.Proximity("no.gml")


def test_random_graphs_and_competition():
    graphs, truths = zip(
        *(gp.planted_partition(40, 2, 0.5, 0.05, seed=seed) for seed in range(4)), strict=True
    )
    standings = gp.competition(graphs, truths, measures=["logComm", "For"], s_grid=[0.3, 0.6])
    assert [standing.measure for standing in standings] == ["logComm", "For"]
    assert standings[0].best_score > 0.9
    assert len(standings[0].scores) == 2 and len(standings[0].scores[0]) == 4
    assert standings[0].copeland == -standings[1].copeland
    graph, truth = gp.stochastic_block_model([3, 2], [[1, 1], [1, 1]])
    assert graph.adjacency.sum() == 20
    assert truth.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="expected 1 <= classes <= 3"):
        gp.planted_partition(3, 4, 0.5, 0.5)


def test_resistance_network(tmp_path):
    network = gp.ResistanceNetwork(gp.zachary_karate_club())
    assert len(network) == 34 and network.edges == 78
    assert network.resistance([(0, 33)])[0].item() == pytest.approx(0.2538022983367, abs=1e-12)
    assert network.embedding(0.9, seed=1).shape[0] == 34
    (tmp_path / "series.txt").write_text("a b 2\nb c 4\n")
    series = gp.ResistanceNetwork(tmp_path / "series.txt")
    assert series.resistance([(0, 2)])[0].item() == pytest.approx(0.75)


def test_estimator_follows_the_protocol_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn")
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    estimator = gp.ProximityClustering(3, measure="RSP", s=0.2)
    copy = sklearn.base.clone(estimator)
    assert copy is not estimator and copy.get_params() == estimator.get_params()
    assert not hasattr(copy, "labels_")
    assert repr(copy) == "ProximityClustering(measure='RSP', n_clusters=3, s=0.2)"
    assert sklearn.base.is_clusterer(copy)
    with pytest.raises(ValueError, match="Invalid parameter 'k'"):
        copy.set_params(k=2)
    name = "ProximityClustering"
    for check in (
        "check_no_attributes_set_in_init",
        "check_get_params_invariance",
        "check_set_params",
        "check_parameters_default_constructible",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
    ):
        getattr(checks, check)(name, gp.ProximityClustering())


def test_estimator_clusters():
    graph = gp.zachary_karate_club()
    adjacency = graph.adjacency.numpy()
    before = adjacency.copy()
    for method in ("ward", "kmeans", "spectral"):
        estimator = gp.ProximityClustering(2, method=method).set_params(random_state=3)
        labels = estimator.fit_predict(adjacency)
        assert labels.dtype == np.int64 and labels.shape == (34,)
        assert gp.adjusted_rand_index(labels, [int(x) for x in graph.attributes["faction"]]) > 0.7
        assert estimator.n_features_in_ == 34
        assert estimator.parameter_ == pytest.approx(0.5, abs=1e-9)
        again = pickle.loads(pickle.dumps(estimator)).fit(adjacency)
        np.testing.assert_array_equal(again.labels_, labels)
    np.testing.assert_array_equal(adjacency, before)
    assert gp.ProximityClustering(2, measure="CT").fit(adjacency).parameter_ is None
    with pytest.raises(ValueError, match="1 <= clusters <= 34"):
        gp.ProximityClustering(35).fit(adjacency)
    with pytest.raises(ValueError, match="method: expected"):
        gp.ProximityClustering(method="other").fit(adjacency)


def test_command_measures_as_the_function_does(karate, tmp_path):
    out = tmp_path / "K.npy"
    result = run_json(
        "measure",
        str(karate),
        "--measure",
        "Comm",
        "--log",
        "--parameter",
        "0.5",
        "--out",
        str(out),
    )["result"]
    expected = gp.Proximity(karate).kernel("logComm", 0.5)
    np.testing.assert_array_equal(np.load(out), expected.values)
    assert result["measure"] == "logComm" and result["t"] == 0.5
    assert result["nodes"] == 34 and result["edges"] == 78
    assert result["path"] == expected.path
    distance = tmp_path / "D.npy"
    words = ["measure", str(karate), "--measure", "RSP", "--s", "0.4", "--distance"]
    run(*words, "--out", str(distance))
    np.testing.assert_array_equal(np.load(distance), gp.Proximity(karate).distance("RSP", s=0.4))
    refused = run(*words, "--out", str(distance), expected=2)
    assert "--force" in refused.stderr


def test_command_clusters_as_the_function_does(karate, tmp_path):
    out = tmp_path / "labels.csv"
    words = ["--measure", "logComm", "--s", "0.5", "--clusters", "2", "--truth", "club"]
    result = run_json("cluster", str(karate), *words, "--out", str(out))["result"]
    assert result["ari"] == pytest.approx(0.88226, abs=1e-5)
    assert sorted(result["sizes"]) == [16, 18]
    assert result["labels"] == gp.ProximityClustering(2).fit(karate).labels_.tolist()
    assert {"nmi", "rand_index", "misclassified", "modularity", "reject_area"} <= set(result)
    assert out.read_text().splitlines()[:2] == ["node,cluster", "0,0"]
    job = einkorn.jobs.graph_proximity.cluster(karate, clusters=2, truth="club", s=0.5)
    assert job["result"]["labels"] == result["labels"]
    for method in ("kmeans", "spectral"):
        words = ["cluster", str(karate), "--clusters", "2", "--method", method, "--truth", "club"]
        assert run_json(*words, "--update", "iterative", "--start", "one")["result"]["ari"] > 0.5


def test_command_compares(tmp_path, karate):
    out = tmp_path / "scores.csv"
    random = ["--random", "40,2,0.5,0.05", "--count", "3", "--measures", "logComm,For"]
    found = run_json("compare", *random, "--points", "2", "--out", str(out))
    assert found["result"]["winner"] == "logComm"
    assert found["result"]["graphs"] == 3
    assert len(out.read_text().splitlines()) == 1 + 2 * 2 * 3
    files = ["compare", f"{karate},{karate}", "--truth", "club", "--measures", "Walk,SP,CT"]
    result = run_json(*files, "--points", "4")["result"]
    assert result["measures"] == ["Walk", "SP", "CT"]
    assert sum(result["copeland"]) == 0


def test_command_generates(tmp_path):
    gml = tmp_path / "graph.gml"
    words = ["--sizes", "12,8", "--probabilities", "0.8,0.1,0.1,0.9", "--seed", "3"]
    result = run_json("generate", *words, "--out", str(gml))["result"]
    assert result["nodes"] == 20 and result["classes"] == 2
    read = gp.as_graph(gml)
    assert read.attributes["class"] == ["0"] * 12 + ["1"] * 8
    edges, labels = tmp_path / "graph.txt", tmp_path / "labels.csv"
    run("generate", *words, "--out", str(edges), "--labels", str(labels))
    assert gp.as_graph(edges).adjacency.sum() == read.adjacency.sum()
    assert labels.read_text().splitlines()[1] == "0,0"
    run("generate", "--planted", "30,3,0.7,0.1", "--out", str(tmp_path / "planted.gml"))


def test_command_computes_resistances(karate, tmp_path):
    out = tmp_path / "Z.npy"
    words = ["resistance", str(karate), "--pairs", "0:33,0:1"]
    result = run_json(*words, "--embedding", str(out), "--epsilon", "0.5")["result"]
    assert result["resistance"] == pytest.approx([0.2538022983367, 0.1930645172287], abs=1e-12)
    z = np.load(out)
    assert z.shape == (34, result["dimensions"])
    assert ((z[0] - z[33]) ** 2).sum() == pytest.approx(0.2538, rel=0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["measure", "G", "--measure", "Comm", "--out", "K.npy"], "needs its parameter, t > 0"),
        (
            ["measure", "G", "--measure", "Walk", "--parameter", "1", "--out", "K.npy"],
            "outside 0 < t < 1/rho = 0.148",
        ),
        (
            ["measure", "G", "--measure", "CT", "--s", "0.5", "--out", "K.npy"],
            "CT has no parameter",
        ),
        (
            ["measure", "G", "--measure", "CT", "--log", "--out", "K.npy"],
            "CT: has no logarithmic version",
        ),
        (
            ["measure", "G", "--measure", "CT", "--root", "--out", "K.npy"],
            "--root: only with --distance",
        ),
        (
            ["measure", "G", "--measure", "CT", "--raw-mixture", "--out", "K.npy"],
            "only SP-CT is a mixture",
        ),
        (["cluster", "G", "--clusters", "40"], "1 <= clusters <= 34"),
        (["cluster", "G", "--clusters", "2", "--truth", "clubb"], "no node attribute 'clubb'"),
        (["cluster", "G", "--clusters", "2", "--start", "one"], "only with --method kmeans"),
        (
            ["cluster", "G", "--clusters", "2", "--method", "kmeans", "--ties", "chain"],
            "only with --method ward",
        ),
        (["cluster", "G", "--clusters", "2", "--s", "0.5", "--parameter", "1"], "give one of them"),
        (["compare"], "either graph files or --random"),
        (["compare", "G"], "--truth is missing"),
        (["compare", "--random", "10,2,0.5"], "expected NODES,CLASSES,P_IN,P_OUT"),
        (
            ["compare", "--random", "10,2,0.5,0.1", "--component", "largest"],
            "--component: only with graph files",
        ),
        (["generate", "--out", "x.gml"], "give either --planted"),
        (["generate", "--planted", "10,2,0.9,0.5", "--out", "x.txt"], "--labels is missing"),
        (
            ["generate", "--sizes", "5,5", "--probabilities", "1,0,1", "--out", "x.gml"],
            "2 classes need 4 numbers",
        ),
        (["resistance", "G"], "give --pairs"),
        (["resistance", "G", "--pairs", "0:99"], "no node '99'"),
        (
            ["resistance", "G", "--pairs", "0:1", "--epsilon", "0.1"],
            "--epsilon: only with --embedding",
        ),
    ],
)
def test_command_refuses(words, message, karate, tmp_path):
    words = [str(karate) if word == "G" else word for word in words]
    done = subprocess.run(
        [COMMAND, "graph-proximity", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
