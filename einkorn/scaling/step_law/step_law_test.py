"""The Python face of step-law, and that it agrees with the command."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

import einkorn

COMMAND = os.path.join(os.environ["EINKORN_BUILD"], "einkorn")


def test_reference_values():
    found = einkorn.step_law.suggest(1e9, 1e11)
    assert found.learning_rate == pytest.approx(0.001662379107, rel=1e-9)
    assert found.batch_tokens == pytest.approx(1107466.6195, rel=1e-9)
    assert found.batch_sequences == 544
    assert not found.extrapolated


def test_command_and_job_agree_with_the_function():
    found = einkorn.step_law.suggest(7e9, 1.4e12, constants="paper")
    job = einkorn.jobs.step_law.suggest(params=7e9, tokens=1.4e12, constants="paper")
    words = ["step-law", "suggest", "--params", "7e9", "--tokens", "1.4e12", "--constants", "paper"]
    printed = json.loads(subprocess.check_output([COMMAND, *words, "--json"]))
    for result in (job["result"], printed["result"]):
        assert result["learning_rate"] == found.learning_rate
        assert result["batch_tokens"] == found.batch_tokens
        assert result["batch_sequences"] == found.batch_sequences
    assert set(printed) >= {"system", "job", "options", "result", "tables", "seconds"}


def test_arrays_follow_what_was_given():
    params = np.logspace(7, 10, 5)
    rates = einkorn.step_law.learning_rate(params, 1e11)
    assert isinstance(rates, np.ndarray)
    assert rates[2] == pytest.approx(einkorn.step_law.suggest(params[2], 1e11).learning_rate)
    tensor = einkorn.step_law.batch_tokens(torch.tensor([1e9, -1.0]))
    assert isinstance(tensor, torch.Tensor)
    assert torch.isnan(tensor[1])


def test_fit_recovers_a_known_law():
    rng = np.random.default_rng(0)
    params = np.exp(rng.uniform(18, 21, 60))
    tokens = np.exp(rng.uniform(22, 25, 60))
    rate = np.exp(0.5 - 0.7 * np.log(params) + 0.3 * np.log(tokens))
    batch = np.exp(-0.5 + 0.57 * np.log(tokens)) / 2048
    fitted = einkorn.step_law.fit(params, tokens, rate, batch, np.full(60, 2.5), resamples=200)
    assert fitted.coefficients["lr_params"] == pytest.approx(-0.7, abs=1e-9)
    assert fitted.coefficients["lr_tokens"] == pytest.approx(0.3, abs=1e-9)
    assert fitted.coefficients["batch_tokens"] == pytest.approx(0.57, abs=1e-9)
    assert fitted.kept == 60


def test_smoothing_agrees_with_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    losses = np.random.default_rng(1).normal(3, 0.1, 2345)
    expected = ndimage.gaussian_filter1d(losses, 23.45, mode="reflect", truncate=4)
    np.testing.assert_allclose(einkorn.step_law.smooth_losses(losses), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: einkorn.step_law.suggest(-1, 1e9),
        lambda: einkorn.step_law.suggest(1e9, float("nan")),
        lambda: einkorn.step_law.suggest(1e9, 1e9, law="stepp"),
        lambda: einkorn.step_law.suggest(1e9, 1e9, constants="old"),
        lambda: einkorn.step_law.fit([1.0], [1.0, 2.0], [1.0], [1.0], [1.0]),
        lambda: einkorn.step_law.smooth_losses([]),
        lambda: einkorn.jobs.step_law.suggest(params=1e9, tokens=-5.0),
    ],
)
def test_bad_arguments_are_value_errors(call):
    with pytest.raises(ValueError):
        call()


def test_bad_files_are_os_errors(tmp_path):
    with pytest.raises(OSError, match="no such file"):
        einkorn.jobs.step_law.fit(str(tmp_path / "gone.csv"))
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("N,D,lr,bs,smooth loss\n1,2,3\n")
    with pytest.raises(OSError, match="ragged.csv: line 2"):
        einkorn.jobs.step_law.fit(str(ragged))


def test_smooth_writes_its_output_once(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("loss\n" + "\n".join(str(3 - i / 1000) for i in range(500)) + "\n")
    out = tmp_path / "smooth.npy"
    einkorn.jobs.step_law.smooth(str(log), out=str(out))
    assert np.load(out).shape == (500,)
    with pytest.raises(OSError, match="--force replaces it"):
        einkorn.jobs.step_law.smooth(str(log), out=str(out))
    einkorn.jobs.step_law.smooth(str(log), out=str(out), force=True)
