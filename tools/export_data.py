"""Exports the data that well-kept packages carry into files that einkorn reads.

Usage: export_data.py FOLDER

digits.npz     scikit-learn's handwritten digits (UCI, CC BY 4.0): images [1797, 8, 8] f64 in 0..16,
               labels [1797] i64
*.gml          networkx's bundled graphs with a known division: karate (attribute "club"), davis
               (attribute "side"), florentine and les_miserables (weighted)
"""

import sys
from pathlib import Path

import networkx
import numpy
from sklearn.datasets import load_digits


def export_digits(folder: Path) -> None:
    digits = load_digits()
    numpy.savez(
        folder / "digits.npz",
        images=digits.images.astype(numpy.float64),
        labels=digits.target.astype(numpy.int64),
    )


def export_graphs(folder: Path) -> None:
    karate = networkx.karate_club_graph()
    for _, _, edge in karate.edges(data=True):
        edge.pop("weight", None)
    davis = networkx.davis_southern_women_graph()
    for _, node in davis.nodes(data=True):
        node["side"] = node.pop("bipartite")
    graphs = {
        "karate": karate,
        "davis": davis,
        "florentine": networkx.florentine_families_graph(),
        "les_miserables": networkx.les_miserables_graph(),
    }
    for name, graph in graphs.items():
        for key in list(graph.graph):
            del graph.graph[key]
        networkx.write_gml(graph, folder / f"{name}.gml")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    export_graphs(target)
    export_digits(target)
