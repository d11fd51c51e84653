"""Knowledge belongs to a sequence: turns, chunks, holes, streams, threads, copies and interruptions."""

import copy
import gc
import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import hook_points

import actadd_lens as al
from actadd_lens.errors import NonFiniteError, SteeringError
from actadd_lens.models import backend_of
from benchmarks.architectures import build
from tests.support import PAIRS, cached, close, hook_state, plain_hooks, tokens_of, vector_of

LONG = "The girl looked at the dog. She felt"
SHORT = "A boy was in"


@pytest.fixture
def row(model: Any) -> al.SteeringVector:
    """One row, which fits anywhere."""
    return 5 * vector_of(model, PAIRS[0], 2).row(-1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A random Qwen2 whose upper layers see a window of 8 tokens."""
    return al.load_model(build("qwen2, window", tmp_path_factory.mktemp("shapes") / "windows"), family="bridge")


def by_hand(model: Any, tokens: Tensor, vector: al.SteeringVector, column: int) -> Tensor:
    """Logits of a whole pass with the rows added from a column on."""
    return model.run_with_hooks(tokens, fwd_hooks=plain_hooks(vector, column)).detach()


def added_at(vector: al.SteeringVector, columns: Any) -> Any:
    """A hook that adds the vector's one row at columns."""

    def add(stream: Tensor, hook: Any) -> Tensor:
        steered = stream.clone()
        steered[:, columns] += vector.injection[0]
        return steered

    return add


@torch.no_grad()
@pytest.mark.parametrize("position", ["front", "mid", "back", 2, "last"])
def test_two_generations_may_take_turns(model: Any, row: Any, position: Any) -> None:
    texts = [tokens_of(model, LONG), tokens_of(model, SHORT)]
    whole = [torch.cat([prompt, torch.tensor([[7, 9, 11]])], dim=1) for prompt in texts]
    starts = {"front": lambda n: 0, "mid": lambda n: n // 2, "back": lambda n: n - 1, 2: lambda n: 2}
    expected = []
    for prompt, tokens in zip(texts, whole, strict=True):
        if position == "last":
            columns = slice(prompt.shape[1] - 1, None)
            hooks = [(row.hook_name, added_at(row, columns))]
            expected.append(model.run_with_hooks(tokens, fwd_hooks=hooks))
        else:
            expected.append(by_hand(model, tokens, row, starts[position](prompt.shape[1])))
    caches: list[Any] = [None, None]
    with al.steer(model, row, position=position):
        for step in range(4):
            for turn, (prompt, tokens) in enumerate(zip(texts, whole, strict=True)):
                end = prompt.shape[1] + step
                new = prompt if step == 0 else tokens[:, end - 1 : end]
                logits, caches[turn] = cached(model, new, caches[turn])
                assert close(logits[:, -1], expected[turn][:, end - 1]), (step, turn)


@torch.no_grad()
@pytest.mark.parametrize("position", ["front", "mid", "back", 2])
@pytest.mark.parametrize("way", ["guidance with a negative prompt", "a static cache", "beams"])
def test_generate_of_transformers_is_steered_as_by_hooks_by_hand(
    load: Any, gpt2_folder: Path, way: str, position: Any
) -> None:
    from transformers import AutoModelForCausalLM

    model = load("gpt2", "bridge")
    theirs = AutoModelForCausalLM.from_pretrained(gpt2_folder, attn_implementation="eager").eval()
    vector = 20 * vector_of(model, PAIRS[0], 2)
    ways: dict[str, dict[str, Any]] = {
        "guidance with a negative prompt": {"guidance_scale": 1.5, "negative_prompt_ids": tokens_of(model, SHORT)},
        "a static cache": {"cache_implementation": "static"},
        "beams": {"num_beams": 3},
    }
    options = ways[way]

    def by_hand(module: Any, args: Any, kwargs: Any) -> Any:
        length = args[0].shape[1]
        if length == 1:  # a token that was written
            return None
        column = {"front": 0, "mid": length // 2 - vector.rows // 2, "back": length - vector.rows}.get(
            position, position
        )
        stream = args[0].clone()
        stream[:, column : column + vector.rows] += vector.injection
        return (stream, *args[1:]), kwargs

    def write(found: Any) -> list[int]:
        tokens = tokens_of(model, LONG)
        return found.generate(tokens, max_new_tokens=6, do_sample=False, **options)[0, tokens.shape[1] :].tolist()

    unsteered = write(theirs)
    assert write(model.original_model) == unsteered
    handle = theirs.transformer.h[2].register_forward_pre_hook(by_hand, with_kwargs=True)
    expected = write(theirs)
    handle.remove()
    with al.steer(model, vector, position=position):
        assert write(model.original_model) == expected
    assert expected != unsteered


@torch.no_grad()
def test_a_left_padded_pass_in_between_moves_nothing(model: Any) -> None:
    vector, tokens = 5 * vector_of(model, PAIRS[0], 2), tokens_of(model, LONG)
    pad = backend_of(model).pad_token_id
    padded = torch.cat([torch.full((1, 3), 0 if pad is None else pad), tokens_of(model, SHORT)], dim=1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0
    following = torch.tensor([[5]])
    expected = by_hand(model, torch.cat([tokens, following], dim=1), vector, 0)
    with al.steer(model, vector):
        _, cache = cached(model, tokens, None)
        model(padded, attention_mask=mask)
        logits, _ = cached(model, following, cache)
    assert close(logits[:, -1], expected[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("position", ["front", "mid", "back", 6])
def test_a_prompt_in_chunks_is_steered_as_a_whole_once_its_length_is_told(model: Any, position: Any) -> None:
    vector, tokens = 5 * vector_of(model, PAIRS[0], 2), tokens_of(model, LONG)
    length = tokens.shape[1]
    column = {"front": 0, "mid": length // 2 - vector.rows // 2, "back": length - vector.rows}.get(position, position)
    expected = by_hand(model, tokens, vector, column)
    for told in ([length], torch.tensor([length])):
        with al.steer(model, vector, position=position, prompt_lengths=told):
            _, cache = cached(model, tokens[:, :4], None)
            _, cache = cached(model, tokens[:, 4:7], cache)
            logits, _ = cached(model, tokens[:, 7:], cache)
        assert close(logits[:, -1], expected[:, -1])


@pytest.mark.parametrize("position", ["mid", "back", "generated", "prompt", "last"])
def test_a_prompt_in_chunks_without_its_length_is_refused(model: Any, row: Any, position: str) -> None:
    tokens = tokens_of(model, LONG)
    with al.steer(model, row, position=position), torch.no_grad():
        _, cache = cached(model, tokens[:, :4], None)
        with pytest.raises(al.AmbiguousPositionError, match=r"goes on with 3 more at once.*prompt_lengths="):
            cached(model, tokens[:, 4:7], cache)


@torch.no_grad()
def test_a_prefix_whose_copies_go_on_needs_not_come_to_the_told_length_itself(model: Any, row: Any) -> None:
    tokens = tokens_of(model, LONG)
    length, ends = tokens.shape[1], [tokens[:, 4:], torch.arange(5, 5 + tokens.shape[1] - 4)[None]]
    with al.steer(model, row, position="back", prompt_lengths=[length]):
        _, prefix = cached(model, tokens[:, :4], None)
        found = [cached(model, end, copy.deepcopy(prefix))[0] for end in ends]
    for end, logits in zip(ends, found, strict=True):
        expected = by_hand(model, torch.cat([tokens[:, :4], end], dim=1), row, length - 1)
        assert close(logits, expected[:, 4:])


def test_a_told_length_that_never_comes_is_told(model: Any, row: Any) -> None:
    tokens = tokens_of(model, LONG)
    match = "does not match"
    with pytest.raises(al.PositionError, match=match), al.steer(model, row, prompt_lengths=[99]), torch.no_grad():
        cached(model, tokens, None)


@torch.no_grad()
@pytest.mark.parametrize("position", ["front", "all", "all+bos", al.first(2), al.since([2, 3]), "back", "last"])
@pytest.mark.parametrize("cut", ["the first column", "before the end", "at the end", "after the end"])
def test_a_row_may_begin_behind_padding_that_filled_the_first_chunk(
    model: Any, row: Any, position: Any, cut: str
) -> None:
    long, short = tokens_of(model, LONG), tokens_of(model, SHORT)
    length, gap = long.shape[1], long.shape[1] - short.shape[1]
    edge = {"the first column": 1, "before the end": gap - 1, "at the end": gap, "after the end": gap + 1}[cut]
    padding = torch.full((1, gap), backend_of(model).pad_token_id or 0)
    batch = torch.cat([long, torch.cat([padding, short], dim=1)])
    mask = torch.ones_like(batch)
    mask[1, :gap] = 0
    last, every = slice(-1, None), slice(None)
    meant = {"front": slice(1), "all": slice(1, None), "all+bos": every, al.first(2): slice(2), "back": last}

    def by_hand(stream: Tensor, hook: Any) -> Tensor:
        steered = stream.clone()
        for number, first in enumerate((0, gap)):
            where = slice(2 + number, None) if position == al.since([2, 3]) else meant.get(position, last)
            columns = range(first, length)[where]
            here = [column - place[0] for column in columns if 0 <= column - place[0] < stream.shape[1]]
            steered[number, here] += row.injection[0]
        return steered

    def run() -> Tensor:
        found, cache = [], None
        for start, stop in ((0, edge), (edge, length)):
            place[0] = start
            told = mask[:, :stop] if backend_of(model).family == "bridge" else mask[:, start:stop]
            logits, cache = cached(model, batch[:, start:stop], cache, told)
            found.append(logits)
        return torch.cat(found, dim=1)

    place = [0]
    with model.hooks(fwd_hooks=[(row.hook_name, by_hand)]):
        expected = run()
    needs_length = position in ("back", "last")
    with al.steer(model, row, position=position, prompt_lengths=[length, length - gap] if needs_length else None):
        found = run()
    assert close(found[0], expected[0])
    assert close(found[1, gap:], expected[1, gap:])


@torch.no_grad()
def test_what_a_row_of_padding_begins_with_is_seen_when_it_begins(model: Any, row: Any) -> None:
    long = tokens_of(model, LONG)
    tokens, mask = torch.cat([long, torch.zeros_like(long)]), torch.ones(2, long.shape[1], dtype=torch.long)
    tokens[1, -1], mask[1, :-1], cut = 9, 0, long.shape[1] - 1
    with al.steer(model, 5 * vector_of(model, PAIRS[0], 2)):
        _, cache = cached(model, tokens[:, :cut], None, mask[:, :cut])
        with pytest.raises(al.AmbiguousPositionError, match="one token off"):
            cached(model, tokens[:, cut:], cache, mask if backend_of(model).family == "bridge" else mask[:, cut:])
    with al.steer(model, row, position="last"), pytest.raises(al.AmbiguousPositionError, match="nothing but padding"):
        cached(model, tokens[:, :cut], None, mask[:, :cut])


@torch.no_grad()
@pytest.mark.parametrize("position", ["front", "mid", "back", 4, "all", "last"])
def test_holes_in_a_mask_are_no_tokens(model: Any, row: Any, position: Any) -> None:
    tokens = tokens_of(model, LONG)
    mask = torch.ones_like(tokens)
    mask[:, 2:4] = 0
    real = mask[0].nonzero().flatten().tolist()
    count = len(real)
    where = {
        "front": [0],
        "mid": [count // 2],
        "back": [count - 1],
        4: [4],
        "all": range(1, count),
        "last": [count - 1],
    }
    columns = [real[token] for token in where[position]]

    with model.hooks(fwd_hooks=[(row.hook_name, added_at(row, columns))]):
        expected = model(tokens, attention_mask=mask)
    with al.steer(model, row, position=position):
        logits = model(tokens, attention_mask=mask)
    assert close(logits[:, real], expected[:, real])


@torch.no_grad()
def test_nothing_is_read_of_a_prompt_with_holes(model: Any, row: Any) -> None:
    tokens = tokens_of(model, LONG)
    mask = torch.ones_like(tokens)
    mask[:, 2:4] = 0
    for intervention in (al.replace("clean", layer=2), al.gated(row, al.gate(row, 0.0))):
        with (
            al.steer(model, intervention, position="all+bos"),
            pytest.raises(al.AmbiguousPositionError, match=r"masks of rows \[0\] have holes"),
        ):
            model(tokens, attention_mask=mask)
    mask = torch.ones_like(tokens).repeat(2, 1)
    mask[0, :2], mask[1, -2:] = 0, 0
    expected = model(tokens.repeat(2, 1), attention_mask=mask)
    with al.steer(model, al.replace("clean", layer=2), position="all+bos"):
        found = model(tokens.repeat(2, 1), attention_mask=mask)
    assert close(found[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def test_nothing_is_read_of_a_prompt_with_positions_of_its_own(load: Any) -> None:
    model = load("gpt2", "bridge")
    tokens = tokens_of(model, LONG)
    usual, row = torch.arange(tokens.shape[1])[None], 5 * vector_of(model, PAIRS[0], 2).row(-1)
    expected = model.original_model(tokens).logits
    for intervention in (al.replace("clean", layer=2), al.gated(0 * row, al.gate(row, 0.0))):
        with al.steer(model, intervention, position="all+bos"):
            assert close(model.original_model(tokens, position_ids=usual).logits, expected)
            with pytest.raises(al.AmbiguousPositionError, match="other position_ids"):
                model.original_model(tokens, position_ids=usual + 3)
    with al.steer(model, row, position="all+bos"):  # reads nothing, so positions are the caller's own
        assert not close(model.original_model(tokens, position_ids=usual + 3).logits, expected)


@torch.no_grad()
def test_a_pass_from_a_stream_has_no_tokens_of_another_pass(hooked: Any) -> None:
    row = 5 * vector_of(hooked, PAIRS[0], 2).row(-1)
    first = tokens_of(hooked, "The girl")
    second = torch.arange(3, 3 + first.shape[1])[None]
    stream = hooked(second, stop_at_layer=0)
    with al.steer(hooked, row, position="all"):
        hooked(first)
        with pytest.raises(al.AmbiguousPositionError, match="began from a residual stream"):
            hooked(stream, start_at_layer=0)
        hooked(first, stop_at_layer=0)
        with pytest.raises(al.AmbiguousPositionError, match="began from a residual stream"):
            hooked(stream, start_at_layer=0)


@torch.no_grad()
def test_a_pass_from_embeddings_has_no_tokens_of_another_pass(load: Any) -> None:
    model = load("gpt2", "bridge")
    row = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    first = tokens_of(model, "The girl")
    embeddings = model.original_model.get_input_embeddings()(torch.arange(3, 3 + first.shape[1])[None])
    with al.steer(model, row, position="all"):
        model(first)
        with pytest.raises(al.AmbiguousPositionError, match="began from a residual stream"):
            model.original_model(inputs_embeds=embeddings)


@torch.no_grad()
@pytest.mark.parametrize("position", ["all", al.after([7])])
def test_tokens_whose_embeddings_were_only_looked_up_are_not_those_of_a_pass(load: Any, position: Any) -> None:
    model = load("gpt2", "bridge")
    row = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    theirs, tokens = model.original_model, torch.tensor([[0, 5, 7, 9]])
    look_up = theirs.get_input_embeddings()
    for inner in (theirs, theirs.base_model):
        with al.steer(model, row, position=position):
            embeddings = look_up(tokens + 1)
            look_up(tokens)
            with pytest.raises(al.AmbiguousPositionError, match="tokens were not seen|not all were seen"):
                inner(inputs_embeds=embeddings)
            model(tokens)


@torch.no_grad()
@pytest.mark.parametrize("left", [0, 3])
@pytest.mark.parametrize("cuts", [(18, 24), (18, 19, 20, 21, 22, 23, 24)])
@pytest.mark.parametrize("drops", [True, False])
def test_a_copied_prefix_counts_the_tokens_that_a_sliding_window_no_longer_shows(
    windows: Any, left: int, cuts: tuple[int, ...], drops: bool
) -> None:
    from transformers import DynamicCache

    theirs = windows.original_model
    row = al.SteeringVector.from_tensor(torch.ones(windows.cfg.d_model), layer=1, source="ones")
    tokens, mask = torch.arange(5, 5 + 2 * cuts[-1]).reshape(2, -1), torch.ones(2, cuts[-1], dtype=torch.long)
    mask[1, :left] = 0
    options = {"attention_mask": mask} if left else {}

    def run(cache: Any, start: int, stop: int) -> Tensor:
        told = {name: value[:, :stop] for name, value in options.items()}
        return theirs(tokens[:, start:stop], past_key_values=cache, use_cache=True, **told).logits

    def by_hand(module: Any, args: Any) -> Any:
        stream = args[0].clone()
        for number, first in enumerate((0, left)):
            stream[number, max(0, first + 20 - place[0]) :] += 1
        return (stream, *args[1:])

    prefix = DynamicCache(config=theirs.config) if drops else DynamicCache()
    with al.steer(windows, row, position=al.since(20)):
        run(prefix, 0, cuts[0])
        cache, ours = copy.deepcopy(prefix), []
        for start, stop in itertools.pairwise(cuts):
            ours.append(run(cache, start, stop))
    handle, expected, place = theirs.model.layers[1].register_forward_pre_hook(by_hand), [], [0]
    for start, stop in itertools.pairwise(cuts):
        place[0] = start
        expected.append(run(prefix, start, stop))
    handle.remove()
    assert close(torch.cat(ours, dim=1), torch.cat(expected, dim=1))


def test_one_left_padded_row_without_a_mask_is_refused(model: Any, row: Any) -> None:
    backend: Any = backend_of(model)
    tokens = torch.cat([torch.full((1, 2), backend.pad_token_id), tokens_of(model, SHORT)], dim=1)
    with al.steer(model, row), pytest.raises(al.AmbiguousPositionError, match="padded on the left"):
        model(tokens)
    if backend.family == "hooked":
        with al.steer(model, row), pytest.raises(al.AmbiguousPositionError, match="padded on the left"):
            model.generate(tokens, max_new_tokens=2, verbose=False)


def test_a_text_that_says_bos_itself_gets_no_second_one(model: Any) -> None:
    backend = backend_of(model)
    bos, text = backend.tokenizer.bos_token, "The girl"
    assert backend.encode(bos + text) == backend.encode(text)
    row = 5 * vector_of(model, PAIRS[0], 2).row(-1)
    plain, said = (al.complete(model, item, row, temperature=0, max_new_tokens=4) for item in (text, bos + text))
    assert plain.steered_continuations[0][0].tokens == said.steered_continuations[0][0].tokens
    with al.steer(model, row), pytest.raises(al.AmbiguousPositionError, match="BOS"):
        model(backend.model.to_tokens(bos + text, prepend_bos=True))


def test_rows_that_begin_with_bos_are_not_put_in_front_of_a_prompt_without_it(model: Any) -> None:
    vector, tokens = 5 * vector_of(model, PAIRS[0], 2), tokens_of(model, LONG)[:, 1:]
    with al.steer(model, vector), pytest.raises(al.AmbiguousPositionError, match="one token off"):
        model(tokens)
    expected = by_hand(model, tokens, vector, 0)
    with al.steer(model, vector, position=0):
        assert close(model(tokens).detach(), expected)


# -- threads, copies, interruptions, compiled code ---------------------------------------------------------------


def in_threads(*work: Callable[[], Any]) -> list[Any]:
    """What functions return that run side by side, or the error that they raise."""
    found: list[Any] = [None] * len(work)

    def run(place: int) -> None:
        try:
            found[place] = work[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_completions_in_two_threads_do_not_mix(small: Any) -> None:
    vectors = [c * vector_of(small, PAIRS[0], 2) for c in (-20, 20)]

    def write(vector: al.SteeringVector) -> Any:
        return al.complete(small, [LONG, SHORT], vector, n=3, max_new_tokens=8, progress=False).steered

    alone = [write(vector) for vector in vectors]
    assert alone[0] != alone[1]
    for _ in range(4):
        assert in_threads(*(lambda vector=vector: write(vector) for vector in vectors)) == alone


@torch.no_grad()
def test_a_pass_of_another_thread_inside_steer_is_an_error_and_its_tools_are_not(small: Any) -> None:
    vector, tokens = 5 * vector_of(small, PAIRS[0], 2), tokens_of(small, LONG)
    alone = al.complete(small, LONG, vector, max_new_tokens=4, progress=False).steered
    expected = by_hand(small, tokens, vector, 0)
    with al.steer(small, vector):
        (error,) = in_threads(lambda: small(tokens))
        assert isinstance(error, SteeringError)
        assert "another thread" in str(error)
        (texts,) = in_threads(lambda: al.complete(small, LONG, vector, max_new_tokens=4, progress=False).steered)
        assert texts == alone
        assert close(small(tokens), expected)


@torch.no_grad()
def test_a_copy_of_a_model_inside_steer_is_not_steered(small: Any) -> None:
    vector, tokens = 5 * vector_of(small, PAIRS[0], 2), tokens_of(small, LONG)
    unsteered, expected = small(tokens), by_hand(small, tokens, vector, 0)
    with al.steer(small, vector):
        twin = copy.deepcopy(small)
        assert torch.equal(twin(tokens), unsteered)
        assert close(small(tokens), expected)
    assert torch.equal(twin(tokens), unsteered)


def module_hooks(model: Any) -> int:
    """Module hooks on a model, of whatever kind."""
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while a session is forgotten
@pytest.mark.usefixtures("unchecked")  # the checks at run time keep what they look at
def test_an_interruption_at_any_line_leaves_no_hook_behind(small: Any) -> None:
    vector, tokens = 5 * vector_of(small, PAIRS[0], 2), tokens_of(small, "A cat")
    before, hung, place = hook_state(small), module_hooks(small), 0
    folder = "actadd_lens/steering"

    def run(stop_at: int) -> int:
        """Steer once, and interrupt at the given line of our code; returns the number of lines that ran."""
        count = 0

        def trace(frame: Any, event: str, arg: Any) -> Any:
            nonlocal count
            if folder not in frame.f_code.co_filename.replace("\\", "/"):
                return None
            if event == "line":
                count += 1
                if count == stop_at:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with al.steer(small, vector), torch.no_grad():
                small(tokens)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        return count

    total = run(-1)
    for place in range(1, total, max(1, total // 150)):
        run(place)
        assert (hook_state(small), module_hooks(small)) == (before, hung), f"interrupted at line {place} of {total}"


def test_a_session_forgotten_while_another_hangs_its_hooks_takes_away_its_own(
    small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected whenever Python likes, also while a hook is being added."""
    vector, tokens = 5 * vector_of(small, PAIRS[0], 2), tokens_of(small, "A cat")
    before, handle, found = hook_state(small), hook_points.LensHandle, []
    with al.steer(small, vector), torch.no_grad():
        expected = small(tokens)

    def collecting(*args: Any, **options: Any) -> Any:
        gc.collect()
        return handle(*args, **options)

    def abandon() -> None:
        forgotten = al.steer(small, vector)
        forgotten.__enter__()
        circle: list[Any] = [forgotten]
        circle.append(circle)

    def run() -> None:
        abandon()
        monkeypatch.setattr(hook_points, "LensHandle", collecting)
        with al.steer(small, vector), torch.no_grad():
            found.append(small(tokens))

    gc.collect()
    gc.disable()
    try:
        thread = threading.Thread(target=run, daemon=True)  # which would wait for itself for ever
        thread.start()
        thread.join(60)
    finally:
        gc.enable()
    assert torch.equal(found[0], expected)
    assert hook_state(small) == before


@torch.no_grad()
def test_compiled_models_are_steered_too(small: Any) -> None:
    vector, tokens = 5 * vector_of(small, PAIRS[0], 2), tokens_of(small, LONG)
    expected = by_hand(small, tokens, vector, 0)
    compiled = torch.compile(small, backend="eager")
    compiled(tokens)
    with al.steer(small, vector):
        assert close(compiled(tokens), expected)
    torch.compiler.reset()


def test_a_module_in_place_of_the_hook_point_is_noticed(hooked: Any) -> None:
    vector, tokens = 5 * vector_of(hooked, PAIRS[0], 2), tokens_of(hooked, LONG)
    point = hooked.blocks[2].hook_resid_pre
    try:
        with al.steer(hooked, vector):
            hooked.blocks[2].hook_resid_pre = torch.nn.Identity()
            with pytest.raises(SteeringError, match="was not reached"):
                hooked(tokens)
    finally:
        hooked.blocks[2].hook_resid_pre = point
    assert not point.fwd_hooks


def test_numbers_that_overflow_are_an_error_and_no_text(gpt2_folder: Any) -> None:
    model: Any = al.load_model(gpt2_folder, dtype="float16")
    vector = vector_of(model, PAIRS[0], 1)
    with pytest.raises(al.CoefficientError, match="infinite in torch.float16"):
        al.complete(model, LONG, 1e6 * vector, progress=False)
    most = (4e4 / float(vector.activations.float().abs().max())) * vector
    for run in (
        lambda: al.complete(model, LONG, [most, most], progress=False),
        lambda: al.measure(model, LONG, [most, most], al.metrics.entropy(), progress=False),
        lambda: al.sweep(
            model, most, layers=1, coefficients=1.9, prompts=LONG, metric=al.metrics.entropy(), progress=False
        ),
    ):
        with pytest.raises((NonFiniteError, al.CoefficientError), match="float16"):
            run()
    wide: Any = al.load_model(gpt2_folder)
    with pytest.raises(al.CoefficientError, match="infinite"):
        al.complete(wide, LONG, 1e39 * vector_of(wide, PAIRS[0], 1), progress=False)
    cold = al.complete(wide, LONG, vector_of(wide, PAIRS[0], 1), temperature=1e-6, max_new_tokens=4, progress=False)
    greedy = al.complete(wide, LONG, vector_of(wide, PAIRS[0], 1), temperature=0, max_new_tokens=4, progress=False)
    assert cold.steered == greedy.steered
    with pytest.raises(al.SettingError, match="use 0"):
        al.complete(wide, LONG, vector_of(wide, PAIRS[0], 1), temperature=1e-40)
