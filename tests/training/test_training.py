"""The training code on a few made-up texts: seconds, offline."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("better_profanity", reason="training has its own requirements")
pytest.importorskip("vaderSentiment", reason="training has its own requirements")

from training.compose import HEADER_SHARE, STRAY_SHARE, Composer, Piece
from training.export import export, load_checkpoint, load_exported, read_config
from training.filtering import is_abusive
from training.headers import Wording
from training.model import ModelShape, StoryModel, causal_attention, local_attention
from training.prepare import main as prepare_main
from training.readers import read_corpora
from training.slips import LONGEST_OPENING, OPENING_SHARE, SLIP_SHARE, with_slips
from training.tokenizer import load_tokenizer, missing_words
from training.train import Progress, Run, parse_arguments, run_from

SUBJECTS = ["fox", "hen", "girl", "king", "baker", "sailor", "teacher", "farmer"]
PLACES = ["garden", "forest", "kitchen", "castle", "harbour", "meadow"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    pairs = [(subject, place) for subject in SUBJECTS for place in PLACES] * 3
    stories = [
        f"A {subject} lived in the {place}.\nHe loved the {place}. One day number {n} it rained, and he was sad."
        for n, (subject, place) in enumerate(pairs)
    ]
    (folder / "stories.txt").write_text("\n\n".join(stories))
    (folder / "lines.txt").write_text(
        "\n".join(f"I saw {n} of them in the {place}." for n, (_, place) in enumerate(pairs))
    )
    (folder / "chat.txt").write_text(
        "\n\n".join(f"A: Hello {n}!\nB: I like the {p}." for n, (_, p) in enumerate(pairs))
    )
    (folder / "tales.csv").write_text("document_id,text\n" + "\n".join(f"t{n // 3},It was day {n}." for n in range(60)))
    (folder / "comments.tsv").write_text("\n".join(f"joy\tI am so happy, number {n}, [NAME]!" for n in range(60)))
    (folder / "secret.txt").write_text("This must never be read.")
    return folder


@pytest.fixture(scope="module")
def data(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        words = [
            "prepare",
            "--corpora",
            str(corpora),
            "--leave-out",
            "secret*",
            "--out",
            str(out),
            "--held-out",
            "0.05",
        ]
        patch.setattr("sys.argv", [*words, "--vocab-size", "1536"])
        prepare_main()
    return out


def train(data: Path, run: Path, tokens: int) -> dict[str, torch.Tensor]:
    words = f"--data {data} --run {run} --tokens {tokens} --decay-share 0.34 --warm-up 2 --batch 4"
    words += " --layers 4 --d-model 32 --heads 2 --context 64 --no-compile --device cpu --threads 1"
    run_from(parse_arguments(words.split()))
    weights: dict[str, torch.Tensor] = torch.load(run / "checkpoint.pt")["model"]
    return weights


def test_every_form_of_file_is_read_as_what_it_is(corpora: Path) -> None:
    kinds = {document.source: document.kind for document in read_corpora([corpora], ["secret*"])}
    assert kinds == {
        "stories": "document",
        "lines": "sentence",
        "chat": "dialogue",
        "tales": "document",
        "comments": "comment",
    }


def test_abuse_is_found_and_ordinary_words_stay() -> None:
    assert is_abusive("You f**king idiot")
    assert is_abusive("what a BITCH.")
    assert not is_abusive("The cock crowed, the ass brayed, and the stupid fat king was drunk, damn it.")


def test_prepared_text_holds_out_documents_and_names_no_one(data: Path) -> None:
    train_text, held_out = ((data / f"{name}.jsonl").read_text() for name in ("train", "heldout"))
    assert held_out
    assert not set(held_out.splitlines()) & set(train_text.splitlines())
    assert "[NAME]" not in train_text
    assert "never be read" not in train_text + held_out


def test_tokenizer_round_trips_and_keeps_steering_words_whole(data: Path) -> None:
    tokenizer = load_tokenizer(data)
    text = 'Zoë said: "I hate\n weddings", 3 times…'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert missing_words(tokenizer) == []


def test_epochs_differ_repeat_by_seed_and_start_every_window_at_a_text(data: Path) -> None:
    composer, again = (Composer(data, context=64, seed=3, shares={"stories": 0.5}) for _ in range(2))
    first, second = composer.epoch(0), composer.epoch(1)
    assert np.array_equal(first, again.epoch(0))
    assert not np.array_equal(first[: len(second)], second[: len(first)])
    assert (first[:, 0] == composer.tokenizer.token_to_id("<|endoftext|>")).all()


def test_half_a_share_takes_turns(data: Path) -> None:
    composer = Composer(data, context=64, seed=0, shares={"stories": 0.5})
    halves = [{id(r) for r in composer.drawn(epoch) if r["source"] == "stories"} for epoch in (0, 1)]
    assert not halves[0] & halves[1]
    assert len(halves[0] | halves[1]) == sum(r["source"] == "stories" for r in composer.records)


def test_attention_written_for_speed_equals_masked_attention() -> None:
    query, key, value = torch.randn(3, 2, 3, 16, 8).unbind(0)
    scores = query @ key.mT * 0.3
    back = torch.arange(16)[:, None] - torch.arange(16)[None, :]
    for mixed, seen in (
        (causal_attention(query, key, value, 0.3), back >= 0),
        (local_attention(query, key, value, 4, 0.3), (back >= 0) & (back < 4)),
    ):
        expected = scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(data, tmp_path / "whole", 3 * 4 * 64)

    step = 4 * 64
    run = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr("training.train.start_decay_when_due", stop_after(run, step))
        with pytest.raises(KeyboardInterrupt):
            train(data, run, 3 * step)
    resumed = train(data, run, 3 * step)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def stop_after(run: Path, tokens: int) -> object:
    """Stands in for the decay's start: saves and stops once the tokens are reached."""
    runs: list[Run] = []
    original = Run.step

    def remember(self: Run, windows: np.ndarray, seen: np.ndarray) -> float:
        runs[:] = [self]
        return original(self, windows, seen)

    Run.step = remember  # type: ignore[method-assign]  # watched

    def stop(progress: Progress, _: object) -> None:
        if progress.tokens >= tokens:
            Run.step = original  # type: ignore[method-assign]  # put back
            runs[0].save(run / "checkpoint.pt")
            raise KeyboardInterrupt

    return stop


def test_the_export_computes_what_was_trained(data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train(data, tmp_path, 3 * 4 * 64)
    model, trained_tokens = load_checkpoint(tmp_path / "checkpoint.pt")
    export(model, trained_tokens, data, tmp_path / "model")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer("<|endoftext|>I love the garden.", return_tensors="pt")["input_ids"]
    assert ids[0].tolist().count(exported.config.bos_token_id) == 1
    with torch.no_grad():
        torch.testing.assert_close(model(ids), exported(ids).logits, atol=5e-3, rtol=0)
    config = read_config(tmp_path / "model")
    assert config["attention_layers"][:3] == ["local"] * 3
    assert config["trained_tokens"] == trained_tokens >= 3 * 4 * 64

    again = load_exported(tmp_path / "model").state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(again[name], weight, atol=1e-3, rtol=1e-3)


def test_a_run_starts_from_exported_weights_and_counts_what_they_have_seen(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "first", 3 * 4 * 64)
    model, seen = load_checkpoint(tmp_path / "first" / "checkpoint.pt")
    export(model, seen, data, tmp_path / "model")
    words = f"--data {data} --run {tmp_path / 'second'} --start {tmp_path / 'model'} --device cpu"
    words += " --layers 4 --d-model 32 --heads 2 --context 64 --no-compile"
    arguments = parse_arguments(words.split())
    run = Run(load_exported(tmp_path / "model").shape, arguments)
    run.start_from(tmp_path / "model")
    assert run.progress == Progress(tokens=seen)
    embeddings = load_exported(tmp_path / "model").embed.weight
    assert torch.equal(run.model.embed.weight, embeddings)
    assert torch.equal(run.average["embed.weight"], embeddings)


def test_most_headers_are_true_of_their_text_and_some_belong_to_another(data: Path) -> None:
    composer = Composer(data, context=64, seed=0, shares={})
    garden, castle = Piece("He went to the garden.", key="garden"), Piece("She lived in the castle.", key="castle")
    rng = random.Random(0)
    openings = [composer.opening(rng, garden, [castle]).lower() for _ in range(4000)]
    headers = [opening for opening in openings if opening]
    strays = sum("castle" in header for header in headers) / len(headers)
    assert len(headers) / len(openings) == pytest.approx(HEADER_SHARE, abs=0.03)
    assert strays == pytest.approx(STRAY_SHARE, abs=0.03)


def test_a_header_names_what_a_text_says_again_and_again() -> None:
    wording = Wording({"kite": 10, "hill": 10, "rope": 10, "cloud": 10}, 1000)
    text = "The kite rose. A cloud came, the kite sank to the hill, and the rope held the kite."
    named = Counter(wording.pick(random.Random(seed), text, 1)[0] for seed in range(1200))
    assert named["kite"] / 1200 == pytest.approx(9 / 12, abs=0.04)
    assert named["hill"] / 1200 == pytest.approx(1 / 12, abs=0.03)


def test_slips_replace_a_few_tokens_some_openings_and_never_the_start_of_a_text() -> None:
    rng = np.random.default_rng(0)
    start, context, length = 7, 240, 24
    windows = rng.integers(100, 8000, (400, context)).astype(np.uint16)
    windows[:, ::length] = start
    before = windows.copy()
    slipped = (seen := with_slips(rng, windows, start)) != windows
    texts = slipped.reshape(-1, length)
    assert (windows == before).all()
    assert not texts[:, 0].any()
    assert ((seen == start) == (windows == start)).all()
    assert texts[:, LONGEST_OPENING + 1 :].mean() == pytest.approx(SLIP_SHARE, abs=0.004)
    for place in range(1, LONGEST_OPENING + 1):
        in_opening = OPENING_SHARE * (LONGEST_OPENING + 1 - place) / LONGEST_OPENING
        expected = in_opening + (1 - in_opening) * SLIP_SHARE
        assert texts[:, place].mean() == pytest.approx(expected, abs=0.02)


def test_loss_is_of_what_was_there_not_of_what_was_seen() -> None:
    model = StoryModel(ModelShape(vocab_size=500, n_layers=2, d_model=32, n_heads=2, context=32))
    ids, seen = torch.randint(0, 500, (2, 4, 32))
    logits = model(seen)[:, :-1].flatten(0, 1)
    wanted = -logits.log_softmax(-1)[torch.arange(len(logits)), ids[:, 1:].flatten()]
    assert torch.allclose(model.losses(ids, seen), wanted, atol=1e-5)


def test_loss_starts_at_that_of_a_uniform_guess() -> None:
    model = StoryModel(ModelShape(vocab_size=500, n_layers=2, d_model=32, n_heads=2, context=32))
    ids = torch.randint(0, 500, (4, 32))
    loss = model.losses(ids, ids).mean().item()
    assert loss == pytest.approx(np.log(500), abs=0.2)
