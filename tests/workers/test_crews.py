"""Executors: the numbers of one process, whoever computes them, and whoever dies meanwhile.

Most tests use an executor that does each task in this process, from bytes, as another process would: it loads its own
model, and can lose tasks, break, or be interrupted at will. Those that start processes are slow, but for one.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import actadd_lens as al
from actadd_lens.identity import model_key, surroundings
from actadd_lens.models import backend_of
from actadd_lens.sweeps.store import ResultStore
from actadd_lens.workers import crews, desks
from actadd_lens.workers.crews import WorkerWarning
from actadd_lens.workers.shipping import packed, unpacked
from tests.support import FAMILIES_HERE

PROMPTS = ["The girl looked", "The dog", "A good day", "She felt that it was"]
VALUES = ("steered", "unsteered", "nulls")


class Elsewhere(Executor):
    """Does each task at once, from bytes; `trouble` is asked before each and may raise."""

    def __init__(self, trouble: Callable[[int], None] = lambda count: None) -> None:
        self.trouble = trouble
        self.count = 0

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        self.count += 1
        found: Future[Any] = Future()
        sent = pickle.loads(pickle.dumps((function, arguments, keywords)))
        try:
            self.trouble(self.count)
            found.set_result(pickle.loads(pickle.dumps(sent[0](*sent[1], **sent[2]))))
        except BaseException as error:
            found.set_exception(error)
        return found


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No desk is left from the test before."""
    monkeypatch.setattr(desks, "_kept", desks._Desks())


def metric_sweep(model: Any, **options: Any) -> al.Sweep:
    metric = [al.metrics.next_token_logprob(5), al.metrics.perplexity(), lambda logits: logits[:, 0] * 2]
    return al.sweep(
        model, ("The dog", "The cat"), layers=range(4), coefficients=[-1, 5.0], prompts=PROMPTS, metric=metric,
        nulls=16, batch_size=64, progress=False, **options,
    )  # fmt: skip


def text_sweep(model: Any, **options: Any) -> al.CompletionSweep:
    return al.sweep_completions(
        model, ("The dog", "The cat"), layers=[1, 3], coefficients=[5.0], prompts=PROMPTS, nulls=2, n=2,
        max_new_tokens=4, batch_size=6, scorers=lambda texts: [float(len(text)) for text in texts], progress=False,
        **options,
    )  # fmt: skip


def are_equal(left: al.Sweep, right: al.Sweep) -> bool:
    """Bit for bit, texts included."""
    same = all(np.array_equal(getattr(left, name), getattr(right, name), equal_nan=True) for name in VALUES)
    if isinstance(left, al.CompletionSweep) and isinstance(right, al.CompletionSweep):
        same = same and np.array_equal(left.texts, right.texts)
        same = same and np.array_equal(left.unsteered_texts, right.unsteered_texts)
    return same


# -- the same numbers ------------------------------------------------------------------------------------------


def test_sweeps_through_an_executor_are_bit_equal(small: Any) -> None:
    assert are_equal(metric_sweep(small, executor=Elsewhere()), metric_sweep(small))
    assert are_equal(text_sweep(small, executor=Elsewhere()), text_sweep(small))


def test_measurements_through_an_executor_are_bit_equal(small: Any) -> None:
    vector = 5 * al.compute_steering_vector(small, ("The dog", "The cat"), layer=2)

    def measured(executor: Any) -> Any:
        found = al.measure(
            small, PROMPTS, vector, al.metrics.entropy(), nulls=3, batch_size=8, executor=executor, progress=False
        )
        texts = al.measure_completions(
            small, PROMPTS, vector, len_scorer, nulls=2, n=2, max_new_tokens=4, batch_size=6, executor=executor,
            progress=False,
        )[0]  # fmt: skip
        return [*(getattr(found, name) for name in VALUES), np.array(texts.completions.steered), texts.effect.nulls]

    for here, there in zip(measured(None), measured(Elsewhere()), strict=True):
        assert np.array_equal(here, there)


def len_scorer(texts: Any) -> list[float]:
    return [float(len(text)) for text in texts]


@pytest.mark.slow
def test_a_function_that_makes_an_executor_will_do(quickest: Any) -> None:
    assert are_equal(text_sweep(quickest, executor=Elsewhere), text_sweep(quickest))


def test_pieces_do_not_hang_on_what_is_stored(quickest: Any, tmp_path: Path) -> None:
    whole = metric_sweep(quickest)
    interrupted = metric_sweep_until(quickest, tmp_path / "store.sqlite", Elsewhere(stop_at(3)))
    assert interrupted == "stopped"
    assert are_equal(metric_sweep(quickest, path=tmp_path / "store.sqlite"), whole)


@pytest.mark.slow
def test_large_briefs_are_sent_to_those_who_lack_them(
    fresh: None, quickest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "_SMALL", 0)
    executor = Elsewhere()
    assert are_equal(metric_sweep(quickest, executor=executor), metric_sweep(quickest))
    metric_sweep(quickest, executor=executor)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] * (name != FAMILIES_HERE[0])) for name in FAMILIES_HERE]
)
def test_a_model_that_was_changed_is_sent_as_it_is(gpt2_folder: Path, family: Any) -> None:
    model = al.load_model(gpt2_folder, family=family)
    next(iter(model.embed.parameters())).data[5:].mul_(1.5)  # which torch does not count
    assert are_equal(text_sweep(model, executor=Elsewhere()), text_sweep(model))


@pytest.mark.slow
def test_a_bridge_that_was_sent_to_another_process_is_the_same_model(gpt2_folder: Path, tmp_path: Path) -> None:
    """Its parts are of classes that TransformerLens makes inside functions, which have other long names there."""
    model = al.load_model(gpt2_folder, family="bridge")
    next(iter(model.embed.parameters())).data[5:].mul_(1.5)
    (tmp_path / "model").write_bytes(packed(model))
    code = """
import sys
from pathlib import Path
from actadd_lens.identity import model_key
from actadd_lens.models import backend_of
from actadd_lens.workers.shipping import unpacked
print(model_key(backend_of(unpacked(Path(sys.argv[1]).read_bytes()))).hex())
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "model")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == model_key(backend_of(model)).hex()


def test_a_worker_in_another_environment_is_refused(
    fresh: None, quickest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(backend: Any) -> dict[str, str]:
        return {**surroundings(backend), "torch": "0.1"}

    monkeypatch.setattr(desks, "surroundings", other)
    monkeypatch.setattr(desks, "model_key", lambda backend: b"another")
    with pytest.raises(al.WorkerError, match=r"would not compute what .* computes in the driver \(torch 0.1 instead"):
        text_sweep(quickest, executor=Elsewhere())


@pytest.mark.slow
def test_workers_of_two_kinds_are_refused(quickest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = iter(["cpu", "cuda"] * 50)
    plain = desks.answer

    def lying(*arguments: Any) -> Any:
        return plain(*arguments)._replace(device=next(kinds))

    monkeypatch.setattr(crews, "answer", lying)

    class Direct(Elsewhere):
        def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
            found: Future[Any] = Future()
            found.set_result(function(*arguments))
            return found

    with pytest.raises(al.WorkerError, match="Some workers compute on c.* and some on c"):
        text_sweep(quickest, executor=Direct())


# -- what is refused -------------------------------------------------------------------------------------------


def test_a_model_that_was_asked_for_hidden_states_can_be_sent(gpt2_folder: Path) -> None:
    """Transformers leaves hooks on it, which hold what no process can send."""
    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2_folder)
    tokens = torch.tensor([[1, 2, 3]])
    expected = model(tokens, output_hidden_states=True).logits
    assert torch.equal(unpacked(packed(model))(tokens).logits, expected)


def test_callers_hooks_are_refused_before_anything_runs(quickest: Any) -> None:
    executor = Elsewhere()
    with quickest.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda stream, hook: stream)]):
        with pytest.raises(al.SettingError, match="hooks of your own on the model .*which workers would not have"):
            metric_sweep(quickest, executor=executor)
        with pytest.raises(al.SettingError, match="hooks of your own"):
            al.measure(quickest, PROMPTS, [], al.metrics.entropy(), executor=executor)
    assert executor.count == 0


@pytest.mark.slow
def test_open_steering_is_left_out_as_in_one_process(quickest: Any) -> None:
    vector = 5 * al.compute_steering_vector(quickest, ("The dog", "The cat"), layer=1)
    with al.steer(quickest, vector):
        steered = text_sweep(quickest, executor=Elsewhere())
    assert are_equal(steered, text_sweep(quickest))


def test_what_is_no_executor_is_refused(quickest: Any) -> None:
    with pytest.raises(al.SettingError, match="executor is 3: expected something with submit"):
        metric_sweep(quickest, executor=3)
    with pytest.raises(al.SettingError, match="made 4: expected something with submit"):
        metric_sweep(quickest, executor=lambda: 4)


def test_errors_in_a_task_come_back_as_they_were(quickest: Any) -> None:
    def broken(logits: Any) -> Any:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        al.sweep(
            quickest, ("The dog", "The cat"), layers=1, coefficients=1, prompts=PROMPTS, metric=broken,
            executor=Elsewhere(), progress=False,
        )  # fmt: skip
    assert "In a worker on" in caught.value.__notes__[0]


def test_what_cannot_be_sent_is_told(quickest: Any) -> None:
    numbers = (number for number in range(3))
    with pytest.raises(al.WorkerError, match="cannot be sent to workers"):
        al.sweep(
            quickest, ("The dog", "The cat"), layers=1, coefficients=1, prompts=PROMPTS,
            metric=lambda logits: logits[:, next(numbers)], executor=Elsewhere(), progress=False,
        )  # fmt: skip


# -- those who die ---------------------------------------------------------------------------------------------


def stop_at(*counts: int, error: Callable[[], BaseException] = KeyboardInterrupt) -> Callable[[int], None]:
    def trouble(count: int) -> None:
        if count in counts:
            raise error()

    return trouble


def metric_sweep_until(model: Any, path: Path, executor: Any) -> str:
    try:
        metric_sweep(model, path=path, executor=executor)
    except KeyboardInterrupt:
        return "stopped"
    return "finished"


def test_a_worker_that_dies_costs_its_task_only(quickest: Any) -> None:
    executor = Elsewhere(stop_at(1, 2, 5, error=lambda: ConnectionError("gone")))
    assert are_equal(text_sweep(quickest, executor=executor), text_sweep(quickest))


@pytest.mark.slow
def test_a_pool_that_breaks_is_made_anew(quickest: Any) -> None:
    made: list[Elsewhere] = []

    def make() -> Elsewhere:
        made.append(Elsewhere(stop_at(1, error=BrokenProcessPool) if len(made) < 3 else lambda count: None))
        return made[-1]

    assert are_equal(metric_sweep(quickest, executor=make), metric_sweep(quickest))
    assert len(made) == 4
    with pytest.raises(al.WorkerError, match="not known how to make another one: pass a function"):
        metric_sweep(quickest, executor=Elsewhere(stop_at(1, error=BrokenProcessPool)))


def test_a_task_that_kills_every_worker_is_an_error(quickest: Any) -> None:
    def always(count: int) -> None:
        raise ConnectionError("gone")

    with pytest.raises(al.WorkerError, match="sent 5 times, and each time its worker was lost"):
        metric_sweep(quickest, executor=Elsewhere(always))


def test_an_interrupted_run_keeps_what_was_finished(quickest: Any, tmp_path: Path) -> None:
    """All tasks are given out before the first is looked at: those that were done are stored, before and after."""
    path = tmp_path / "store.sqlite"
    assert metric_sweep_until(quickest, path, Elsewhere(stop_at(2))) == "stopped"
    assert stored(path) > 0
    left = al.plan_sweep(
        quickest, ("The dog", "The cat"), layers=range(4), coefficients=[-1, 5.0], prompts=PROMPTS, nulls=16,
        metric=[al.metrics.next_token_logprob(5)], batch_size=64, path=path,
    ).cost  # fmt: skip
    assert 0 < left.stored < left.rows


def stored(path: Path) -> int:
    store = ResultStore(path, read_only=True)
    count = store._connection.execute("SELECT count(*) FROM results").fetchone()[0]
    store.close()
    return int(count)


def test_progress_counts_finished_tasks(quickest: Any) -> None:
    plan = al.plan_sweep(
        quickest, ("The dog", "The cat"), layers=range(4), coefficients=[1.0], prompts=PROMPTS, nulls=40,
        metric=al.metrics.entropy(), batch_size=64,
    )  # fmt: skip
    ticks: list[int] = []
    plan._begin(None, Elsewhere()).everything(ticks.append)
    assert len(ticks) == 4
    assert sum(ticks) == plan.cost.rows


@pytest.mark.slow
def test_a_worker_that_trims_its_memory_is_warned_of(quickest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    with pytest.warns(WorkerWarning, match="MALLOC_TRIM_THRESHOLD_.*DASK_SETTINGS"):
        text_sweep(quickest, executor=Elsewhere())
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(2**30))
    text_sweep(quickest, executor=Elsewhere())


# -- where a model came from -----------------------------------------------------------------------------------


def test_a_model_tells_how_it_was_made(gpt2_folder: Path) -> None:
    for family in FAMILIES_HERE:
        model = al.load_model(gpt2_folder, family=family, dtype="bfloat16")
        source = al.model_source(model)
        assert (source.name, source.family, source.device) == (str(gpt2_folder.resolve()), family, None)
        assert (source.dtype, len(source.content_hash)) == ("bfloat16", 64)
        assert str(source) == f"{gpt2_folder.resolve()} ({family}, bfloat16, fast_layout=True)"
        assert torch.equal(source.load().embed.W_E, model.embed.W_E)
        assert al.model_source(source.load()) == source


@pytest.mark.slow
def test_a_model_made_by_hand_tells_nothing(gpt2_folder: Path) -> None:
    model = al.load_model(gpt2_folder)
    del vars(model)["_actadd_source"]
    with pytest.raises(al.ModelError, match="was not made by load_model"):
        al.model_source(model)
    assert are_equal(text_sweep(model, executor=Elsewhere()), text_sweep(model))


# -- real processes --------------------------------------------------------------------------------------------


def test_processes_give_the_same_numbers(quickest: Any) -> None:
    with al.worker_pool(1) as pool:
        assert are_equal(metric_sweep(quickest, executor=pool), metric_sweep(quickest))


@pytest.fixture(params=["standard", "fork", "loky", "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Two processes of each engine."""
    if request.param in ("standard", "fork"):
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(2, get_context("fork" if request.param == "fork" else "spawn")) as pool:
            yield pool
    elif request.param == "loky":
        loky = pytest.importorskip("loky")
        pool = loky.ProcessPoolExecutor(2)
        yield pool
        pool.shutdown()
    else:
        dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")
        with (
            dask.config.set(al.workers.DASK_SETTINGS),
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_engine_gives_the_numbers_of_one_process(load: Any, engine: Any) -> None:
    for family in FAMILIES_HERE:
        model = load("gpt2", family)
        assert are_equal(metric_sweep(model, executor=engine), metric_sweep(model))
        assert are_equal(text_sweep(model, executor=engine), text_sweep(model))


class Deadly:
    """A metric that ends its process three times, each marked by a file, and then is the entropy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        for number in range(3):
            try:
                (self.folder / str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        log_probs = logits.log_softmax(dim=-1)
        return -(log_probs.exp() * log_probs).sum(dim=-1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_killed_three_times_costs_nothing_but_time(quickest: Any, engine: Any, tmp_path: Path) -> None:
    def entropy(executor: Any, folder: Path) -> al.Sweep:
        return al.sweep(
            quickest, ("The dog", "The cat"), layers=range(4), coefficients=[-1, 5.0], prompts=PROMPTS, nulls=16,
            metric=al.metrics.named("deadly", Deadly(folder)), batch_size=64, executor=executor, progress=False,
        )  # fmt: skip

    dead = tmp_path / "dead"
    dead.mkdir()
    for number in range(3):
        (dead / str(number)).touch()
    here = entropy(None, dead)
    assert are_equal(entropy(engine, tmp_path), here)
    assert all((tmp_path / str(number)).exists() for number in range(3))


DRIVER = """
import sys, torch, actadd_lens as al
from pathlib import Path
from tests.workers.test_crews import metric_sweep

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, path = sys.argv[1:]
    with al.worker_pool(1) as pool:
        metric_sweep(al.load_model(Path(folder)), path=path, executor=pool)
"""


@pytest.mark.slow
def test_a_killed_driver_goes_on_where_it_was(gpt2_folder: Path, quickest: Any, tmp_path: Path) -> None:
    script, path = tmp_path / "driver.py", tmp_path / "store.sqlite"
    script.write_text(DRIVER)
    root = Path(__file__).parents[2]
    driver = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(gpt2_folder), str(path)], cwd=root, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    while driver.poll() is None and not (path.exists() and stored(path)):
        time.sleep(0.05)
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert are_equal(metric_sweep(quickest, path=path), metric_sweep(quickest))


def test_the_bare_backend_of_a_sent_model_is_checked(quickest: Any) -> None:
    """A worker compares all that the numbers depend on, and not only the weights' place."""
    order = desks.ModelOrder(b"no such key", "gpt2", None, "cpu", surroundings(backend_of(quickest)))
    from actadd_lens.workers.shipping import packed

    with pytest.raises(al.WorkerError, match="the model itself differs"):
        desks._Desks()._backend(order, packed(quickest))
