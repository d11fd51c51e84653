"""The benchmarks run and say what they found; whether a bar holds is theirs to print and not a test's to judge."""

import json
import math
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.cases import CASES
from benchmarks.gpu import main as gpu_main
from benchmarks.models import TINY, byte_level_tokenizer
from benchmarks.scale import LLAMA_7B, Work, plan_of, seconds
from benchmarks.timing import Condition, Measured, measure

QuickRun = tuple[int, str, dict[str, Any]]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> QuickRun:
    """Exit code, printed text and JSON of a quick run."""
    file = tmp_path_factory.mktemp("bench") / "ratios.json"
    printed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        code = main(["--quick", "--repeats", "2", "--threads", "1", "--json", str(file)])
    return code, "\n".join(printed), json.loads(file.read_text())


@pytest.mark.slow
def test_a_quick_run_prints_every_ratio_with_its_interval_and_bar(quick: QuickRun) -> None:
    code, printed, record = quick
    assert code == 0
    for case in record["cases"]:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{case['name']} ")]
        low, high = case["interval_95"]
        assert f"{case['ratio']:.3f}" in line
        assert f"{low:.3f} to {high:.3f}" in line
        assert f"{case['bar']:.2f}" in line
        assert ("NO" in line) == (case["ratio"] > case["bar"])


@pytest.mark.slow
def test_the_json_holds_every_case_once_and_finite(quick: QuickRun) -> None:
    cases = quick[2]["cases"]
    assert [case["name"] for case in cases] == [case.name for case in CASES]
    for case in cases:
        assert math.isfinite(case["ratio"])
        assert case["ratio"] > 0
        assert case["interval_95"][0] <= case["ratio"] <= case["interval_95"][1]


@pytest.mark.slow
def test_the_json_says_what_it_ran_on(quick: QuickRun) -> None:
    record = quick[2]
    assert record["threads"] == 1
    assert record["repeats"] == 2
    assert record["model"]["n_layers"] == TINY.n_layers
    assert record["model"]["d_vocab"] == TINY.d_vocab
    assert set(record["versions"]) >= {"python", "torch", "transformer-lens", "actadd-lens"}


@pytest.mark.slow
def test_the_summary_counts_the_bars_that_hold(quick: QuickRun) -> None:
    _, printed, record = quick
    held = sum(case["holds"] for case in record["cases"])
    last = printed.strip().splitlines()[-1]
    assert last.startswith("All" if held == len(CASES) else f"{held} of {len(CASES)} bars hold")


def test_the_ratio_is_the_median_of_the_repeats_ratios() -> None:
    measured = Measured(seconds=(1.0, 4.0, 9.0), reference_seconds=(1.0, 2.0, 3.0))
    assert measured.ratio == 2.0
    assert measured.milliseconds == 4000.0


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        reference = random.lognormal(sigma=0.1, size=40)
        judged = 1.5 * reference * random.lognormal(sigma=0.1, size=40)
        low, high = Measured(tuple(judged), tuple(reference)).interval(seed=seed)
        hits += low <= 1.5 <= high
    assert 85 <= hits <= 100


def test_conditions_run_in_turns_and_what_stands_around_them_is_not_timed() -> None:
    order: list[str] = []

    class Slow:
        def __enter__(self) -> None:
            time.sleep(0.02)

        def __exit__(self, *_: object) -> None:
            order.append("closed")

    measured = measure(
        Condition(lambda: order.append("a"), around=Slow), Condition(lambda: order.append("b")), repeats=2, warmup=0
    )
    assert order == ["b", "a", "closed", "a", "closed", "b"]
    assert max(measured.seconds) < 0.02


def test_the_tokenizer_has_the_size_it_was_asked_for_and_reads_any_text_back() -> None:
    tokenizer = byte_level_tokenizer(600)
    assert len(tokenizer) == 600
    assert len(tokenizer("Love", add_special_tokens=False)["input_ids"]) == 1
    text = "Naïve: 1 + 1 = 2\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_gpu_script_prints_its_table_on_tiny_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_main(["--tiny", "--repeats", "1", "llama-3-8b"]) == 0
    printed = capsys.readouterr().out
    assert "CPU, tiny shapes: no measurement" in printed
    assert printed.count("| llama-3-8b |") == 4


def test_the_arithmetic_of_scale_counts_what_plans_count(embedded: Any) -> None:
    for work in (Work(pairs=1, prompts=8, nulls=15), Work(pairs=1, prompts=20, nulls=7)):
        cost = plan_of(embedded, work).cost
        assert (work.rows(8), work.passes(8, 64)) == (cost.rows, cost.passes)
    assert seconds(LLAMA_7B, Work(), 64)["tasks"] < seconds(LLAMA_7B, Work(), 8)["tasks"]
