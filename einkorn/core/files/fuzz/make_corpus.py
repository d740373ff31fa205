"""Writes seeds for the fuzz targets: `make_corpus.py FOLDER` makes FOLDER/<format>/<seed>."""

import gzip
import io
import json
import struct
import sys
import zipfile
from pathlib import Path


def npy(descr, shape, data=b"", *, version=1, fortran=False, text=None):
    """An .npy file; text replaces the header's dictionary."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape})
    encoded = (text or header).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(encoded))
    return b"\x93NUMPY" + bytes([version, 0]) + length + encoded + data


def npy_seeds():
    doubles = struct.pack("<6d", *range(6))
    yield "f8", npy("<f8", (2, 3), doubles)
    yield "f8_fortran", npy("<f8", (2, 3), doubles, fortran=True)
    yield "f4_big_endian", npy(">f4", (2,), struct.pack(">2f", 1, 2))
    yield "f2", npy("<f2", (4,), struct.pack("<4e", 1, -0.5, float("inf"), 6e-8))
    yield "i8", npy("<i8", (1,), struct.pack("<q", -1))
    yield "u2", npy("<u2", (1, 1, 1), b"\xff\xff")
    yield "u1_scalar", npy("|u1", (), b"\x07")
    yield "bool", npy("|b1", (3,), b"\x00\x01\x02")
    yield "c16_version_2", npy("<c16", (1,), struct.pack("<2d", 1, 2), version=2)
    yield "version_3", npy("<f8", (0, 3), version=3)
    yield "object", npy("|O", (1,), b"pickle")
    yield "structured", npy([("a", "<f8")], (1,), bytes(8))
    yield "huge_shape", npy("<f8", (1 << 62, 4))
    yield "empty_huge_shape", npy("<f8", (0, 1 << 62, 1 << 62))
    python_2 = "{'shape': (1L,), 'fortran_order': False, 'descr': '<f8', }"
    yield "python_2", npy("", (), bytes(8), text=python_2)


def zip_seeds():
    array = npy("<f8", (3,), struct.pack("<3d", 1, 2, 3))
    zeros = npy("<f8", (200,), bytes(1600))
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("x.npy", array)
            archive.writestr("zeros.npy", zeros)
            archive.writestr("größe.npy", array)
        yield name, out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("x.npy", "w", force_zip64=True) as member:
            member.write(array)
        archive.comment = b"a comment"
    yield "zip64_local", out.getvalue()

    class Pipe(io.RawIOBase):
        """Cannot seek, so that zipfile writes data descriptors."""

        def __init__(self):
            self.bytes = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.bytes += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", array)
    yield "data_descriptor", bytes(pipe.bytes)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", array)
    yield "bzip2", out.getvalue()
    yield "empty", b"PK\x05\x06" + bytes(18)
    yield (
        "zip64_end",
        b"".join(
            (
                b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 0, 0, 0, 0),
                b"PK\x06\x07" + struct.pack("<IQI", 0, 0, 1),
                b"PK\x05\x06"
                + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0),
            )
        ),
    )


def gzip_seeds():
    text = b"a b\nb c 2\n" * 20
    yield "one_member", gzip.compress(text, mtime=0)
    yield "two_members", gzip.compress(text, mtime=0) + gzip.compress(b"c d\n", mtime=0)
    yield "padded", gzip.compress(text, mtime=0) + bytes(64)
    yield "empty", gzip.compress(b"", mtime=0)
    yield "long", gzip.compress(bytes(1 << 21), mtime=0)


def csv_seeds():
    yield "plain", b"a,b,c\n1,2,3\n4,5,6\n"
    yield "quoted", b'name,text\r\nx,"a ""quoted"", cell\r\non two lines"\r\n'
    yield "gaps", b"x,y\n1,\n\n,2\nnan,inf\n"
    yield "one_column", b'x\n1\n""\n-1e-400\n'
    yield "byte_order_mark", b"\xef\xbb\xbf\xc3\xa4,b\n1,2"
    yield "ragged", b"a,b\n1,2,3\n"
    yield "open_quote", b'a\n"1\n2\n'


def edge_list_seeds():
    yield "plain", b"# comment\n1 2\n2 3 0.5\n\n3\t1\n"
    yield "commas", b"a,b,1e3\r\nb, c ,-2 % a comment\r\n"
    yield "repeated", b"a a\na b\nb a\n"
    yield "one_node", b"a\n"
    yield "infinite", b"a b inf\n"


def gml_seeds():
    yield (
        "plain",
        (
            b'graph [ directed 1 node [ id 1 label "a" gt 0 ] node [ id 2 ] '
            b"edge [ source 1 target 2 weight 0.5 ] ]"
        ),
    )
    yield (
        "references",
        (
            b'Creator "me"\n# comment\ngraph [\n'
            b'node [ id 7 label "&#228; &amp; &quot;&nope;" x "two\nlines" ]\n]\n'
        ),
    )
    yield (
        "lists",
        (
            b'Version 1 graph [ node [ id 0 graphics [ x 1.0 [ ] fill "#FFF" ] ] '
            b"edge [ source 0 target 0 value 3 ] ]"
        ),
    )
    yield "missing_node", b"graph [ node [ id 0 ] edge [ source 0 target 1 ] ]"
    nodes = b" ".join(b"node [ id %d a%d 1 ]" % (i, i) for i in range(20))
    yield "many_attributes", b"graph [ %s ]" % nodes


def graphml(inner):
    return (
        b'<?xml version="1.0" encoding="UTF-8"?>\n'
        b'<graphml xmlns="http://graphml.graphdrawing.org/xmlns">' + inner + b"</graphml>"
    )


def graphml_seeds():
    yield (
        "plain",
        graphml(
            b'<key id="d0" for="node" attr.name="gt" attr.type="int"><default>0</default></key>'
            b'<key id="d1" for="edge" attr.name="weight" attr.type="double"/>'
            b'<graph id="G" edgedefault="undirected">'
            b'<node id="a"><data key="d0">1</data></node><node id="b"/>'
            b'<edge source="a" target="b"><data key="d1">0.5</data></edge></graph>'
        ),
    )
    yield (
        "characters",
        graphml(
            b'<!-- <graph> --><key id="k"/><graph edgedefault="directed">'
            b"<node id='&lt;&#228;&#x41;'><data key='k'><![CDATA[<&>]]> &amp; "
            b"<x:y xmlns:x='z'><w/></x:y></data></node></graph>"
        ),
    )
    yield "document_type", b'<!DOCTYPE x [<!ENTITY a "b">]>' + graphml(b"")
    yield (
        "nested",
        graphml(
            b'<graph edgedefault="directed"><node id="a"><graph edgedefault="directed"/></node>'
            b"</graph>"
        ),
    )
    yield "deep", b"<a>" * 100


def matrix_market_seeds():
    for kind, rest in (
        ("coordinate real general", b"% comment\n3 3 2\n1 2 0.5\n2 3 1\n"),
        ("coordinate pattern symmetric", b"3 3 3\n2 1\n3 2\n2 1\n"),
        ("coordinate integer general", b"2 2 1\n1 1 -3\n"),
        ("array real general", b"2 2\n0\n1\n2.5\n0\n"),
        ("array real symmetric", b"2 2\n0\n1\n0\n"),
        ("coordinate real skew-symmetric", b"2 2 1\n2 1 1\n"),
        ("coordinate complex general", b"1 1 1\n1 1 1 0\n"),
        ("coordinate pattern general", b"1000000000000 1000000000000 0\n"),
    ):
        yield kind.replace(" ", "_"), b"%%MatrixMarket matrix " + kind.encode() + b"\n" + rest


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    yield (
        "two",
        safetensors(
            {
                "__metadata__": {"format": "pt"},
                "a": tensor("F32", [2, 1], 0, 8),
                "b": tensor("U8", [3], 8, 11),
            },
            bytes(range(11)),
        ),
    )
    yield "empty", safetensors({})
    yield "empty_tensor", safetensors({"a": tensor("BF16", [0], 0, 0)})
    yield "scalar", safetensors({"ä": tensor("I64", [], 0, 8)}, bytes(8))
    yield "padded", safetensors(b"{}      ")
    twice = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}'
    yield "duplicate", safetensors(twice, b"\0")
    yield "overlap", safetensors({name: tensor("U8", [1], 0, 1) for name in "ab"}, b"\0")
    yield "huge_header", struct.pack("<Q", 1 << 40) + b"{}"


SEEDS = {
    "npy": npy_seeds,
    "npz": zip_seeds,
    "zip": zip_seeds,
    "gzip": gzip_seeds,
    "csv": csv_seeds,
    "edge_list": edge_list_seeds,
    "gml": gml_seeds,
    "graphml": graphml_seeds,
    "matrix_market": matrix_market_seeds,
    "safetensors": safetensors_seeds,
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for format_name, seeds in SEEDS.items():
        folder = Path(sys.argv[1]) / format_name
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
