"""The Python face of log-bessel, its accuracy against mpmath and Boost, and the command."""

import json
import os
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import einkorn
from einkorn import log_bessel

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")
EPSILON = np.finfo(np.float64).eps


# ---- accuracy against arbitrary precision ------------------------------------------------------


class HighPrecision:
    """log I_v(x) and log K_v(x) in 50 digits: mpmath's own functions near the origin; Debye's
    expansion of the logarithm with 30 terms for v^2 + x^2 > 150^2, where it leaves 1e-45."""

    order = 30

    def __init__(self, mpmath):
        self.mp = mpmath.mp
        self.mp.dps = 50
        # Integers g_k with D_k'(t) = g_k(t) / 8^k, by powers of t.
        g = {1: {0: 1, 2: -5}}
        for k in range(1, self.order):
            inner: dict[int, int] = {}
            for power, value in g[k].items():
                for shift, sign in ((2, 1), (4, -1)):
                    at = power + shift - 1
                    inner[at] = inner.get(at, 0) + 4 * sign * value * (power + shift)
            for i in range(1, k):
                for a, left in g[i].items():
                    for b, right in g[k - i].items():
                        for shift, sign in ((2, 1), (4, -1)):
                            at = a + b + shift
                            inner[at] = inner.get(at, 0) + 4 * sign * left * right
            g[k + 1] = inner
        self.polynomials = {
            k: {
                (power + 1 - k) // 2: Fraction(value, 8**k * (power + 1))
                for power, value in terms.items()
            }
            for k, terms in g.items()
        }

    def _debye(self, v, x, sign):
        mp = self.mp
        s = mp.sqrt(v * v + x * x)
        p = (v / s) ** 2
        total = mp.mpf(0)
        for k, polynomial in self.polynomials.items():
            value = sum(mp.mpf(c.numerator) / c.denominator * p**m for m, c in polynomial.items())
            total += sign**k * value / s**k
        exponent = s - v * mp.asinh(v / x)
        if sign == 1:
            return exponent - mp.log(2 * mp.pi * s) / 2 + total
        return -exponent + mp.log(mp.pi / (2 * s)) / 2 + total

    def log_i(self, v, x):
        v, x = self.mp.mpf(v), self.mp.mpf(x)
        if v * v + x * x > 150**2:
            return self._debye(v, x, 1)
        return self.mp.log(self.mp.besseli(v, x))

    def log_k(self, v, x):
        v, x = self.mp.mpf(v), self.mp.mpf(x)
        if v * v + x * x > 150**2:
            return self._debye(v, x, -1)
        return self.mp.log(self.mp.besselk(v, x, maxprec=20000))


def test_points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders and arguments: the small square, around the origin, over the domain, and the curve on
    which I passes through 1."""
    rng = np.random.default_rng(seed)
    each = count // 5
    v = [
        rng.uniform(0, 150, each),
        rng.uniform(0, 25, each),
        10 ** rng.uniform(-3, 8, each),
        10 ** rng.uniform(0, 8, each),
        rng.choice([0, 0.25, 0.5, 1, 2.5, 3, 7, 12], each),
    ]
    curve = v[3] * (
        0.66274341934918159 + rng.choice([-1, 1], each) * 10 ** rng.uniform(-9, -1, each)
    )
    x = [
        rng.uniform(0, 150, each),
        rng.uniform(0, 40, each),
        10 ** rng.uniform(-6, 12, each),
        curve,
        10 ** rng.uniform(-4, 1.6, each),
    ]
    return np.concatenate(v), np.concatenate(x)


test_points.__test__ = False


@pytest.fixture(scope="module")
def references():
    exact = HighPrecision(pytest.importorskip("mpmath"))
    v, x = test_points(1500, 0)
    log_i = [exact.log_i(*pair) for pair in zip(v, x, strict=True)]
    log_k = [exact.log_k(*pair) for pair in zip(v, x, strict=True)]
    mp = exact.mp
    ratio_i = [
        mp.exp(exact.log_i(mp.mpf(a) + 1, b) - i) for a, b, i in zip(v, x, log_i, strict=True)
    ]
    ratio_k = [
        mp.exp(exact.log_k(mp.mpf(a) + 1, b) - k) for a, b, k in zip(v, x, log_k, strict=True)
    ]
    # The oracle itself: x (I_v K_{v+1} + I_{v+1} K_v) = 1.
    for b, i, k, r, q in zip(x, log_i, log_k, ratio_i, ratio_k, strict=True):
        assert abs(mp.mpf(b) * mp.exp(i + k) * (r + q) - 1) < 1e-25
    return v, x, log_i, log_k, ratio_i, ratio_k


def ulps(values, exact):
    """Errors in units of the last place of max(1, abs(exact))."""
    return np.array(
        [
            float(abs(float(a) - b) / max(1, abs(b))) / EPSILON
            for a, b in zip(values, exact, strict=True)
        ]
    )


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_accuracy(references, isa):
    v, x, log_i, log_k, ratio_i, ratio_k = references
    script = (
        "import sys, numpy as np, einkorn\n"
        "v, x = np.load(sys.argv[1])\n"
        "b = einkorn.log_bessel\n"
        "names = 'log_iv log_kv log_ive log_kve iv_ratio iv_ratio_c kv_ratio'.split()\n"
        "np.save(sys.argv[2], np.stack([getattr(b, name)(v, x) for name in names]))\n"
    )
    results = run_at_isa(isa, script, np.stack([v, x]))
    for values, exact in (
        (results[0], log_i),
        (results[1], log_k),
        (results[2], [i - b for i, b in zip(log_i, x, strict=True)]),
        (results[3], [k + b for k, b in zip(log_k, x, strict=True)]),
    ):
        error = ulps(values, exact)
        assert np.quantile(error, 0.999) <= 4
        assert error.max() * EPSILON <= 1e-13
    for values, exact in (
        (results[4], ratio_i),
        (results[5], [1 - r for r in ratio_i]),
        (results[6], ratio_k),
    ):
        assert (
            max(float(abs(float(a) / b - 1)) for a, b in zip(values, exact, strict=True)) <= 1.6e-15
        )


def run_at_isa(isa: str, script: str, values: np.ndarray) -> np.ndarray:
    """What the script makes of the values in a process that is held to one instruction set."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "in.npy"), Path(folder, "out.npy")
        np.save(given, values)
        environment = {**os.environ, "EINKORN_ISA": isa}
        done = subprocess.run(
            [os.sys.executable, "-c", script, given, made],
            env=environment,
            capture_output=True,
            text=True,
        )
        if "EINKORN_ISA" in done.stderr:
            pytest.skip(f"{isa} is not on this processor")
        assert done.returncode == 0, done.stderr
        return np.load(made)


def test_single_precision(references):
    v, x, *_ = references
    v32, x32 = v.astype(np.float32), x.astype(np.float32)
    for function in (log_bessel.log_iv, log_bessel.log_kv, log_bessel.log_ive, log_bessel.log_kve):
        single = function(v32, x32)
        assert single.dtype == np.float32
        double = function(v32.astype(np.float64), x32.astype(np.float64))
        error = np.abs(single - double) / np.maximum(1, np.abs(double))
        assert error.max() <= 0.55 * np.finfo(np.float32).eps


BOOST = Path(os.environ.get("EINKORN_DATA", "/nonexistent"), "bessel-reference")


@pytest.mark.skipif(not BOOST.exists(), reason="EINKORN_DATA has no bessel-reference")
@pytest.mark.parametrize("kind, name", [("i", "i"), ("i", "i_int"), ("k", "k"), ("k", "k_int")])
def test_boost_tables(kind, name):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    count = 0
    for line in (BOOST / f"bessel_{name}_data.txt").read_text().splitlines():
        order, argument, value = line.split()
        v, x, exact = float(order), float(argument), mpmath.mpf(value)
        if exact == 0 or x <= 0:
            continue
        if kind == "k":
            found = log_bessel.log_kv(v, x)
        else:
            found, sign = log_bessel.signed_log_iv(v, x)
            assert sign == (1 if exact > 0 else -1), line
        expected = mpmath.log(abs(exact))
        # Negative orders of I are differences: sin(pi v) has an absolute error of 2^-53.
        bound = 4 if kind == "k" or v >= 0 or v == int(v) else 200
        assert ulps([found], [expected])[0] <= bound, line
        count += 1
    assert count > 100


@pytest.mark.skipif(not BOOST.exists(), reason="EINKORN_DATA has no bessel-reference")
@pytest.mark.parametrize("kind", ["i", "k"])
def test_boost_tables_of_derivatives(kind):
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 40
    count = 0
    for line in (BOOST / f"bessel_{kind}_prime_int_data.txt").read_text().splitlines():
        order, argument, value = line.split()
        v, x, exact = abs(float(order)), float(argument), mpmath.mpf(value)
        if exact == 0 or x <= 0:
            continue
        operand = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        function = log_bessel.log_iv if kind == "i" else log_bessel.log_kv
        log = function(v, operand)
        log.backward()
        found = mpmath.exp(mpmath.mpf(log.item())) * mpmath.mpf(operand.grad.item())
        bound = 1e-14 * max(1, abs(log.item()))
        assert abs(found / exact - 1) < bound, line
        count += 1
    assert count > 100


# ---- the faces ---------------------------------------------------------------------------------


def test_numbers_arrays_and_out():
    value = log_bessel.log_iv(1023, 2500)
    assert isinstance(value, float)
    assert value == pytest.approx(2288.6085121878329126, abs=2e-12)
    x = np.linspace(0.5, 900, 7)
    values = log_bessel.log_iv(np.arange(3.0)[:, None], x)
    assert isinstance(values, np.ndarray) and values.shape == (3, 7)
    assert values[2, 3] == log_bessel.log_iv(2.0, float(x[3]))
    out = np.empty((3, 7))
    assert log_bessel.log_iv(np.arange(3.0)[:, None], x, out=out) is out
    assert np.array_equal(out, values)
    tensor = log_bessel.log_kv(2.5, torch.tensor([1.0, 2.0], dtype=torch.float32))
    assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32
    assert isinstance(log_bessel.log_kv(torch.tensor(2.5), x), torch.Tensor)
    ints = log_bessel.log_kv(np.arange(3), np.arange(1, 4))
    assert ints.shape == (3,)
    backwards = log_bessel.log_iv(1.0, x[::-1])
    assert np.array_equal(backwards[::-1], log_bessel.log_iv(1.0, x))


def test_operators_compile_and_trace():
    v, x = torch.tensor(3.25, dtype=torch.float64), torch.tensor([0.5, 29.0], dtype=torch.float64)
    for name in ("log_iv", "log_kv", "log_ive", "log_kve", "iv_ratio", "iv_ratio_c", "kv_ratio"):
        operator = getattr(torch.ops.einkorn, name).default
        torch.library.opcheck(operator, (v, x))
        torch.library.opcheck(operator, (v.clone().requires_grad_(), x.clone().requires_grad_()))
    with pytest.raises(ValueError, match="expected default, paper or gpu3"):
        torch.ops.einkorn.log_iv(v, x, "papers")


@pytest.mark.parametrize(
    "name", ["log_iv", "log_kv", "log_ive", "log_kve", "iv_ratio", "iv_ratio_c", "kv_ratio"]
)
def test_gradients(name):
    function = getattr(torch.ops.einkorn, name)
    v = torch.tensor([[0.3], [2.0], [14.5], [80.0]], dtype=torch.float64)
    x = torch.tensor([0.2, 1.5, 9.0, 60.0], dtype=torch.float64)
    v.requires_grad_()
    x.requires_grad_()
    assert torch.autograd.gradcheck(function, (v, x), rtol=1e-5)
    assert torch.autograd.gradgradcheck(lambda x: function(v.detach(), x), (x,), rtol=1e-5)


def test_gradients_of_the_inverse_and_at_zero():
    v = torch.tensor([0.5, 20.0], dtype=torch.float64, requires_grad=True)
    ratio = torch.tensor([0.3, 0.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(torch.ops.einkorn.iv_ratio_inv, (v, ratio), rtol=1e-5)
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    log_bessel.log_iv(torch.zeros(1, dtype=torch.float64), x).backward()
    assert x.grad.item() == 0
    with pytest.raises(RuntimeError, match="not implemented|does not support"):
        value = torch.ops.einkorn.log_iv_dv(v, torch.ones(2, dtype=torch.float64)).sum()
        value.backward()


def test_bad_input():
    with pytest.raises(ValueError, match="do not broadcast"):
        log_bessel.log_iv(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="expected dtype"):
        log_bessel.log_iv(np.ones(3, np.complex128), np.ones(3))
    with pytest.raises(ValueError, match=r"out: expected shape \[3\]"):
        log_bessel.log_iv(np.ones(3), np.ones(3), out=np.ones(4))
    assert np.isnan(log_bessel.log_iv(np.array([-0.5, np.nan]), np.array([1.0, 1.0]))).all()


def test_derivatives_and_inverse():
    assert log_bessel.log_iv_dv(0.0, 2.0) == pytest.approx(
        -np.exp(log_bessel.log_kv(0, 2.0) - log_bessel.log_iv(0, 2.0)), rel=1e-13
    )
    x = np.array([0.01, 3.0, 4000.0])
    assert np.allclose(log_bessel.iv_ratio_inv(7.0, log_bessel.iv_ratio(7.0, x)), x, rtol=1e-12)
    step = 1e-4 * x
    difference = log_bessel.iv_ratio(7.0, x + step) - log_bessel.iv_ratio(7.0, x - step)
    assert np.allclose(log_bessel.iv_ratio_dx(7.0, x), difference / (2 * step), rtol=1e-6)


# ---- von Mises-Fisher --------------------------------------------------------------------------


def test_distribution_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    direction = rng.normal(size=5)
    direction /= np.linalg.norm(direction)
    theirs = stats.vonmises_fisher(direction, 7.5)
    points = log_bessel.sample(direction, 7.5, 200, seed=3)
    assert np.allclose(
        log_bessel.log_density(points, direction, 7.5), theirs.logpdf(points), atol=1e-12
    )
    assert log_bessel.entropy(5, 7.5) == pytest.approx(theirs.entropy(), abs=1e-12)
    found = log_bessel.fit(points)
    their_direction, their_kappa = stats.vonmises_fisher.fit(points)
    assert np.allclose(found.mean_direction, their_direction)
    assert found.concentration == pytest.approx(their_kappa, rel=1e-6)


def test_estimators():
    axis = np.eye(6)
    points = np.concatenate([log_bessel.sample(axis[i], 60, 150, seed=i) for i in range(3)])
    labels = np.repeat(np.arange(3), 150)
    mixture = log_bessel.VonMisesFisherMixture(3, seed=2).fit(points)
    assert mixture.converged_
    for i in range(3):
        assert len(set(mixture.labels_[labels == i])) == 1
    assert np.array_equal(mixture.predict(points), mixture.labels_)
    assert mixture.score_samples(points).mean() == pytest.approx(
        mixture.mixture_.mean_log_likelihood, rel=1e-12
    )
    one = log_bessel.VonMisesFisher().fit(points[:150])
    assert one.concentration_ == pytest.approx(60, rel=0.2)
    assert one.score(points[:150]) * 150 == pytest.approx(one.log_likelihood_)
    assert one.sample(4, seed=1).shape == (4, 6)
    with pytest.raises(ValueError, match="row 0 has length 2"):
        log_bessel.fit(2 * points)


def test_normalizer_is_differentiable():
    kappa = torch.tensor([0.5, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: log_bessel.log_normalizer(10, k), (kappa,))
    assert torch.autograd.gradgradcheck(lambda k: log_bessel.log_normalizer(10, k), (kappa,))
    assert log_bessel.log_normalizer(3, 0.0) == pytest.approx(-np.log(4 * np.pi))


# ---- the command -------------------------------------------------------------------------------


def run(*words: str) -> dict:
    return json.loads(subprocess.check_output([COMMAND, "log-bessel", *words, "--json"]))["result"]


def test_command_evaluates_points_and_arrays(tmp_path):
    assert run("eval", "--kind", "i", "--order", "1023", "--x", "2500")["value"] == (
        log_bessel.log_iv(1023, 2500)
    )
    job = einkorn.jobs.log_bessel.eval(kind="ratio", order=0.5, x=50.0)
    assert job["result"]["value"] == pytest.approx(0.98, abs=1e-15)
    x = np.logspace(-3, 5, 50).reshape(5, 10)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.npy"
    found = run("eval", "--kind", "ke", "--order", "2.5", "--x-file", str(tmp_path / "x.npy"),
                "--out", str(out))  # fmt: skip
    assert found["count"] == 50
    assert np.array_equal(np.load(out), log_bessel.log_kve(2.5, x))
    np.save(tmp_path / "v.npy", np.arange(5, dtype=np.float32)[:, None])
    np.save(tmp_path / "x32.npy", x.astype(np.float32))
    run("eval", "--order-file", str(tmp_path / "v.npy"), "--x-file", str(tmp_path / "x32.npy"),
        "--out", str(out), "--force")  # fmt: skip
    assert np.load(out).dtype == np.float32


@pytest.mark.parametrize(
    "words, message",
    [
        (["eval", "--order", "1"], "exactly one of them"),
        (["eval", "--order", "1", "--x", "2", "--out", "x.npy"], "only for arrays"),
        (["eval", "--order", "1", "--x-file", "missing.npy"], "missing.npy"),
        (["eval", "--kind", "j", "--order", "1", "--x", "2"], "kind"),
        (["vmf-sample", "--kappa", "1", "--out", "y.npy"], "exactly one of them"),
    ],
)
def test_command_refuses(words, message, tmp_path):
    done = subprocess.run(
        [COMMAND, "log-bessel", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_command_samples_fits_and_clusters(tmp_path):
    points = tmp_path / "points.npy"
    made = run("vmf-sample", "--dimension", "2048", "--kappa", "4549", "--count", "1000",
               "--seed", "1", "--out", str(points))  # fmt: skip
    assert made["rows"] == 1000
    found = run("vmf-fit", str(points))
    assert found["kappa"] == pytest.approx(4549, rel=0.01)
    assert len(found["mean_direction"]) == 2048
    same = log_bessel.fit(np.load(points))
    assert found["kappa"] == same.concentration
    assert found["log_likelihood"] == same.log_likelihood
    for method in ("newton", "sra", "tanabe", "banerjee"):
        other = run("vmf-fit", str(points), "--method", method)
        assert other["kappa"] == pytest.approx(found["kappa"], rel=1e-3)

    scaled = np.load(points)[:100] * np.linspace(1, 3, 100)[:, None]
    np.save(tmp_path / "scaled.npy", scaled)
    refused = subprocess.run(
        [COMMAND, "log-bessel", "vmf-fit", tmp_path / "scaled.npy"], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "row 1 has length 1.0202" in refused.stderr and "normalize" in refused.stderr
    assert run("vmf-fit", str(tmp_path / "scaled.npy"), "--normalize")["rows"] == 100

    eye = np.eye(4)
    mixed = np.concatenate([log_bessel.sample(eye[i], 40, 80, seed=i) for i in range(2)])
    np.save(tmp_path / "mixed.npy", mixed)
    labels = tmp_path / "labels.npy"
    clustered = run("vmf-mixture", str(tmp_path / "mixed.npy"), "--components", "2",
                    "--out-assignments", str(labels))  # fmt: skip
    assert clustered["converged"]
    assert sorted(clustered["weights"]) == pytest.approx([0.5, 0.5], abs=0.02)
    assert len(set(np.load(labels)[:80])) == 1
