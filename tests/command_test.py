"""The command as users type it: JSON shapes, exit codes, one-line errors, nothing half-written."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

BUILD = os.environ["EINKORN_BUILD"]
COMMAND = os.path.join(BUILD, "einkorn")


def run(*words, **options):
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [COMMAND, *words], capture_output=True, text=True, env=environment, **options
    )


def systems():
    return json.loads(run("list", "--json").stdout)


def test_no_words_give_a_short_help():
    result = run()
    assert result.returncode == 0
    assert "einkorn reproduce" in result.stdout
    assert len(result.stdout.splitlines()) < 15


def test_list_json_has_the_promised_shape():
    found = systems()
    assert found
    for system in found:
        assert set(system) == {"name", "wing", "summary", "paper", "jobs", "devices"}
        assert system["jobs"]
        assert "cpu" in system["devices"]


def test_show_tells_options_and_examples():
    shown = json.loads(run("show", "step-law", "--json").stdout)
    suggest = next(job for job in shown["jobs"] if job["name"] == "suggest")
    params = next(option for option in suggest["options"] if option["name"] == "params")
    assert params["required"] and params["admissible"] == "a number > 0"
    assert "suggest" in run("show", "step-law").stdout


def test_info_names_the_instruction_set():
    info = json.loads(run("info", "--json", env={"EINKORN_ISA": "scalar"}).stdout)
    assert info["isa"] == "scalar"
    assert info["machine"]["cpu"]["bandwidth_bytes_per_s"] > 0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["reprodcue"], "did you mean 'reproduce'?"),
        (["step-lw"], "did you mean 'step-law'?"),
        (["show", "step-lw"], "did you mean 'step-law'?"),
        (["step-law", "sugest"], "did you mean 'suggest'?"),
        (["step-law", "suggest", "--parms", "1"], "did you mean '--params'?"),
        (["reproduce", "--jsn"], "did you mean '--json'?"),
        (["completion", "bsh"], "did you mean 'bash'?"),
        (["step-law", "suggest", "--params", "0", "--tokens", "1"], "a number > 0"),
        (["step-law", "suggest", "--params", "1e9"], "--tokens is missing"),
        (["step-law", "suggest", "--params", "x", "--tokens", "1"], "got 'x'"),
        (["step-law", "fit"], "table is missing"),
        (["step-law", "fit", "/no/such/file.csv"], "no such file"),
        (["step-law", "fit", "/"], "is a folder"),
        (["reproduce", "no-such-system"], "no system 'no-such-system'"),
        (["reproduce", "--device", "gpu"], "expected cpu or cuda"),
        (["bench", "--seconds", "0"], "--seconds"),
        (["bench", "--case", "no such case"], "no benchmark matches"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(words, hint):
    result = run(*words)
    assert result.returncode == 2
    assert hint in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_unknown_isa_is_refused():
    result = run("info", env={"EINKORN_ISA": "avx3"})
    assert result.returncode == 2
    assert "expected one of scalar, avx2, avx512" in result.stderr


def test_missing_device_is_named():
    info = json.loads(run("info", "--json").stdout)
    if "cuda" in info["machine"]:
        pytest.skip("this machine has a CUDA device")
    result = run("reproduce", "--device", "cuda")
    assert result.returncode == 2
    assert "cuda" in result.stderr


def test_no_colours_where_nobody_looks():
    assert "\x1b" not in run("list").stdout


def terminal_output(words, environment):
    """What the command writes when its output is a terminal."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(environment)
        os.execv(COMMAND, [COMMAND, *words])
    output = b""
    while True:
        try:
            chunk = os.read(fd, 4096)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    os.waitpid(pid, 0)
    os.close(fd)
    return output.decode()


def test_colours_on_a_terminal_unless_no_color():
    assert "\x1b[1m" in terminal_output(["list"], {"TERM": "xterm"})
    assert "\x1b[" not in terminal_output(["list"], {"TERM": "xterm", "NO_COLOR": "1"})


def test_reproduce_json_and_html(tmp_path):
    page = tmp_path / "report.html"
    result = run("reproduce", "step-law", "--json", "--html", str(page))
    (row,) = json.loads(result.stdout)
    assert set(row) >= {"system", "claim", "device", "seconds", "pass", "metrics"}
    for metric in row["metrics"]:
        assert set(metric) == {
            "name",
            "measured",
            "expected",
            "relation",
            "tolerance",
            "unit",
            "pass",
        }
    assert result.returncode == (0 if row["pass"] else 1)
    html = page.read_text()
    assert html.startswith("<!doctype html>")
    assert not re.search(r'(src|href)="https?:', html), "the page fetches nothing"
    again = run("reproduce", "step-law", "--html", str(page))
    assert again.returncode == 2
    assert "--force replaces it" in again.stderr
    assert page.read_text() == html


def test_reproduce_without_gnuplot_says_so(tmp_path):
    page = tmp_path / "report.html"
    run("reproduce", "step-law", "--html", str(page), env={"PATH": "/nowhere"})
    assert "need gnuplot" in page.read_text()


def test_bench_json_has_the_promised_shape():
    result = run("bench", "step-law", "--json", "--seconds", "0.1")
    found = json.loads(result.stdout)
    assert set(found) == {"machine", "rows"}
    for row in found["rows"]:
        assert set(row) >= {
            "system",
            "case",
            "device",
            "ours_s",
            "peer",
            "peer_s",
            "ratio",
            "bound",
            "fraction_of_ceiling",
        }


def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("loss\n1\n2\n")
    result = run("step-law", "smooth", str(log), "--out", str(tmp_path / "no/such/folder/x.npy"))
    assert result.returncode == 2
    assert "its folder does not exist" in result.stderr


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    table = tmp_path / "runs.csv"
    rows = [
        f"{n},{d},0.001,64,2.5"
        for n in (1e8, 2e8, 5e8, 1e9)
        for d in (1e9, 3e9, 1e10)
        for _ in "123"
    ]
    table.write_text("N,D,lr,bs,smooth loss\n" + "\n".join(rows) + "\n")
    page = tmp_path / "fit.html"
    words = ["step-law", "fit", str(table), "--resamples", "30000000", "--html", str(page)]
    process = subprocess.Popen([COMMAND, *words], stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.csv"]


def test_completion_and_man_page_know_every_job():
    for shell in ("bash", "zsh", "fish"):
        script = run("completion", shell).stdout
        for system in systems():
            assert system["name"] in script
            for job in system["jobs"]:
                assert job in script
    page = run("man").stdout
    assert page.startswith(".TH EINKORN 1")
    assert "suggest" in page


def test_bash_completion_completes(tmp_path):
    script = tmp_path / "einkorn.bash"
    script.write_text(run("completion", "bash").stdout)

    def complete(*words):
        line = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        line += "_einkorn; echo ${COMPREPLY[@]}"
        return subprocess.check_output(["bash", "-c", line], text=True).split()

    assert complete("einkorn", "repr") == ["reproduce"]
    assert complete("einkorn", "step-law", "sug") == ["suggest"]
    assert complete("einkorn", "step-law", "suggest", "--para") == ["--params"]
    assert "deepseek" in complete("einkorn", "step-law", "suggest", "--law", "''")


def test_python_module_is_the_same_command():
    words = ["step-law", "suggest", "--params", "1e9", "--tokens", "1e11", "--json"]
    module = json.loads(subprocess.check_output([sys.executable, "-m", "einkorn", *words]))
    command = json.loads(run(*words).stdout)
    assert module["result"] == command["result"]
    bad = subprocess.run([sys.executable, "-m", "einkorn", "lst"], capture_output=True, text=True)
    assert bad.returncode == 2
