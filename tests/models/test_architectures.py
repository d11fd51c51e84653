"""Tiny random models of many shapes: what loads is the Hugging Face model, and is steered and read as that says."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import actadd_lens as al
from actadd_lens.analysis.lens import logit_lens
from actadd_lens.experiments.checking import ModelCheck, _Checks, check_model, families_here
from actadd_lens.experiments.huggingface import Source
from actadd_lens.models import backend_of
from actadd_lens.models.loading import source_model
from benchmarks.architectures import SHAPES, build, random_model
from docs.models_table import MEASURED, PAGE, cell, loading_table, table
from tests.conftest import HAS_HOOKED

QUICK = (
    "gpt2", "opt, 350m", "mpt", "falcon, alibi", "llama, llama3", "qwen2, window", "gemma2", "phi3, longrope", "olmo3",
    "granite", "mamba", "bert", "t5",
)  # fmt: skip
"""One of each kind; the others carry a mark."""

ROOT = Path(__file__).parents[2]

CHECKS = ("loads", "whole", "cached", "padded", "lens", "trace")


@pytest.fixture(scope="session")
def shape_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds a shape once a session."""
    built: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in built:
            parent = tmp_path_factory.mktemp("shapes")
            built[name] = build(name, parent / re.sub(r"\W+", "_", name))
        return built[name]

    return get


def row_of(found: ModelCheck) -> dict[str, Any]:
    return {**found.to_json(), "right": {name: finding.holds for name, finding in found.findings.items()}}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SHAPES]
)
def test_what_loads_agrees_with_transformers_and_the_page_says_what_does(name: str, shape_folder: Any) -> None:
    told = json.loads(MEASURED.read_text()).get(version("transformer-lens"), {})
    for family in families_here():
        found = check_model(str(shape_folder(name)), family=family)
        assert found.holds, found
        assert all(finding.broke is None for finding in found.findings.values())
        if told:
            assert cell(row_of(found)) == told[name][family]


def test_the_page_shows_what_was_measured() -> None:
    kept = json.loads(MEASURED.read_text())
    assert table(kept) in PAGE.read_text()
    assert loading_table(kept.pop("loading")) in PAGE.read_text()
    assert all(set(rows) == set(SHAPES) for rows in kept.values())
    assert not [cell for rows in kept.values() for row in rows.values() for cell in row.values() if "wrong" in cell]


# -- what the checks themselves can see ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("actadd_lens.models.readout._logit_scale", "lens"),
        ("actadd_lens.models.components._write_scale", "trace"),
    ],
)
def test_a_check_fails_where_a_scale_is_forgotten(
    broken: str, check: str, shape_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken, lambda model: 1.0)
    monkeypatch.setattr("actadd_lens.models.readout.check_readout", lambda *told: None)
    monkeypatch.setattr("actadd_lens.models.agreement.check_readout", lambda *told: None)
    monkeypatch.setattr("actadd_lens.analysis.trace.tracing.Tracer._check_explained", lambda *told: None)
    found = check_model(str(shape_folder("granite")), family="bridge")
    assert not found.findings[check].holds
    assert not found.holds


def test_a_check_fails_where_steering_lands_elsewhere(shape_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actadd_lens.prompts.positions.start_of", lambda position, *, length, rows: 0)
    found = check_model(str(shape_folder("gpt2")), family="bridge")
    assert [name for name in CHECKS if not found.findings[name].holds][:3] == ["whole", "cached", "padded"]


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "glm4"])
def test_a_large_injection_hides_no_wrong_trace(name: str, shape_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(al.load_model(shape_folder(name), family="bridge"))
    checks = _Checks(backend, Source(source_model(str(shape_folder(name)))[0], backend.n_layers))
    checks.__dict__["rows"] = 64 * checks.rows
    assert checks.trace() < 1e-3
    monkeypatch.setattr("actadd_lens.models.components._norm_behind_attention", lambda block: None)
    with pytest.raises(al.ModelError, match=r"is not the sum of what its heads and MLPs write: [\d.]+% of the change"):
        checks.trace()


def test_each_head_has_its_part_of_what_a_norm_behind_attention_scales(shape_folder: Any) -> None:
    """By hand: a head's output in both conditions, times the norm's gain, over the size of all heads' outputs there."""
    model = al.load_model(shape_folder("gemma2"), family="bridge")
    hf_model, known = source_model(str(shape_folder("gemma2")))
    assert known == "gemma2"
    layer = hf_model.model.layers[2]
    rows = 10 * torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    vector = al.SteeringVector.from_tensor(rows, layer=1, source="test")
    found = al.trace_injection(model, "The girl", vector, metric=al.metrics.next_token_logit(5), position=1)
    mixed: list[Tensor] = []
    layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: mixed.append(args[0][0].view(-1, 4, 8)))
    tokens, source = model.to_tokens("The girl"), Source(hf_model, 3)
    with torch.no_grad():
        source.logits(tokens)
        with source.adding(1, torch.cat([0 * rows, rows])):
            source.logits(tokens)
        weight = layer.self_attn.o_proj.weight.T.view(4, 8, 32)
        written = [torch.einsum("phd,hdm->phm", condition, weight) for condition in mixed]
        sizes = [(condition.sum(dim=1).square().mean(dim=-1) + 1e-6).sqrt()[:, None, None] for condition in written]
        gain = 1 + layer.post_attention_layernorm.weight
        plain, steered = (condition / size * gain for condition, size in zip(written, sizes, strict=True))
    norms = (steered - plain).norm(dim=-1).T
    assert torch.allclose(torch.as_tensor(found.head_change[2]), norms, atol=1e-4, rtol=1e-4)


# -- loading ---------------------------------------------------------------------------------------------------


def test_a_readout_that_does_not_give_the_logits_is_noticed_on_loading(
    shape_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actadd_lens.models.readout._logit_scale", lambda model: 1.0)
    model = al.load_model(shape_folder("granite"), family="bridge")
    vector = al.SteeringVector.from_tensor(torch.ones(1, 32), layer=1, source="test")
    with pytest.raises(al.ModelError, match="final norm and unembedding alone do not give its logits"):
        logit_lens(model, vector)
    assert al.complete(model, "The girl", vector, max_new_tokens=2).steered


@pytest.mark.parametrize("family", families_here())
@pytest.mark.parametrize(
    ("name", "match"), [("bert", "bert.*looks at tokens that follow"), ("t5", "t5.*does not predict next tokens")]
)
def test_what_does_not_predict_from_left_to_right_is_refused(
    name: str, match: str, family: Any, shape_folder: Any
) -> None:
    with pytest.raises(al.ModelError, match=match):
        al.load_model(shape_folder(name), family=family)


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("llama, yarn", r"llama with yarn rotary scaling.*differ by [\d.]+.*family='bridge'"),
        ("llama, all biases", r"with attention biases, MLP biases.*family='bridge'"),
        ("gpt_neox, other base", r"partial rotary positions \(0.5\), rotary base 500.*family='bridge'"),
        ("qwen2, window", r"sliding window of 8.*over 24 tokens"),
        ("gpt2, n_inner", r"n_inner 40.*family='bridge'"),
        ("phi", r"partial rotary.*AttributeError.*family='bridge'"),
        ("opt, 350m", r"embeddings of width 16.*family='bridge'"),
    ],
)
def test_a_wrong_conversion_names_the_shape_and_the_way_out(name: str, match: str, shape_folder: Any) -> None:
    with pytest.raises(al.ModelError, match=match):
        al.load_model(shape_folder(name), family="hooked")


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
def test_a_wrong_conversion_is_seen_in_half_precision_and_a_right_one_let_through(shape_folder: Any) -> None:
    with pytest.raises(al.ModelError, match="log-probs differ"):
        al.load_model(shape_folder("llama, yarn"), family="hooked", dtype="bfloat16")
    assert al.load_model(shape_folder("llama, llama3"), family="hooked", dtype="bfloat16").cfg.n_layers == 3


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
def test_a_window_that_no_pass_reaches_must_be_known_or_lie_behind_the_context(
    shape_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actadd_lens.models.agreement._FARTHEST", 0)
    monkeypatch.setattr("actadd_lens.models.agreement._LENGTHS", (4, 8))
    folder = shape_folder("qwen2, window")
    with pytest.raises(al.ModelError, match=r"beyond 8 tokens its sliding window matters.*n_ctx=8"):
        al.load_model(folder, family="hooked")
    assert al.load_model(folder, family="hooked", n_ctx=8).cfg.n_ctx == 8
    assert al.load_model(shape_folder("mistral, window"), family="hooked").cfg.window_size == 8


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
def test_post_norm_models_are_neither_folded_nor_centred(shape_folder: Any) -> None:
    model = al.load_model(shape_folder("olmo3"), family="hooked")
    assert backend_of(model).weight_processing == "norms not folded, writing weights not centred"


def test_loading_keeps_no_hook_and_asks_only_once(shape_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2LMHeadModel

    passes, forward = [], GPT2LMHeadModel.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(GPT2LMHeadModel, "forward", counted)
    model = al.load_model(shape_folder("gpt2"), family=families_here()[0])
    assert len(passes) == (2 if HAS_HOOKED else 4)  # two lengths; a bridge runs the same model again
    assert not backend_of(model).hooked_names()


# -- masks and caches ------------------------------------------------------------------------------------------


def tokens_and_mask() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, 257, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    return tokens, mask


def contexts(model: Any, *passes: dict[str, Any]) -> list[Any]:
    """What block 1 says of each pass."""
    backend, found = backend_of(model), []
    handle = model.blocks[1].register_forward_pre_hook(
        lambda module, args, kwargs: found.append(backend.context(1, args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        for options in passes:
            model(options.pop("tokens"), **options)
    handle.remove()
    return found


@pytest.mark.parametrize("name", ["mpt", "falcon, alibi", "gemma2", "openai-gpt", "gpt2"])
def test_padding_is_read_off_any_mask(name: str, shape_folder: Any) -> None:
    model = al.load_model(shape_folder(name), family="bridge")
    tokens, mask = tokens_and_mask()
    (found,) = contexts(model, {"tokens": tokens, "attention_mask": mask, "use_cache": False})
    assert found.past == 0
    assert torch.equal(found.real, mask.bool())


def test_a_cache_of_fixed_size_has_columns_that_are_still_empty(shape_folder: Any) -> None:
    from transformers import StaticCache

    model = al.load_model(shape_folder("llama"), family="bridge")
    tokens, mask = tokens_and_mask()
    cache = StaticCache(model.original_model.config, max_cache_len=30)
    wider = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    first, then = contexts(
        model,
        {"tokens": tokens, "attention_mask": mask, "past_key_values": cache, "use_cache": True},
        {"tokens": tokens[:, :1], "attention_mask": wider, "past_key_values": cache, "use_cache": True},
    )
    assert (first.past, then.past) == (0, 12)
    assert torch.equal(first.real, mask.bool())
    assert torch.equal(then.real, wider.bool())


@pytest.mark.parametrize("name", ["mpt", "falcon, alibi", "openai-gpt"])
def test_a_cache_that_stays_empty_is_an_error_and_no_wrong_text(name: str, shape_folder: Any) -> None:
    model = al.load_model(shape_folder(name), family="bridge")
    vector = al.SteeringVector.from_tensor(20 * torch.ones(1, 32), layer=1, source="test")
    plain = al.complete(model, "The girl", vector, max_new_tokens=4, temperature=0, use_past_kv_cache=False)
    if name != "openai-gpt" and version("transformer-lens").startswith("4."):
        cached = al.complete(model, "The girl", vector, max_new_tokens=4, temperature=0)
        assert cached.steered == plain.steered
        return
    with pytest.raises(al.ModelError, match=r"keeps no keys and values.*use_past_kv_cache=False"):
        al.complete(model, "The girl", vector, max_new_tokens=4)


def test_rows_on_either_side_of_a_changing_rotary_embedding_do_not_share_a_batch(shape_folder: Any) -> None:
    model = al.load_model(shape_folder("phi3, longrope"), family="bridge")
    vector = al.SteeringVector.from_tensor(torch.ones(1, 32), layer=1, source="test")
    short, long = "The girl", "The girl looked at the dog."
    with pytest.raises(al.ModelError, match=r"changes from 17 tokens on, so a row of 9 tokens"):
        al.complete(model, [short, long], vector, max_new_tokens=2)
    with pytest.raises(al.ModelError, match=r"changes from 17 tokens on, so the keys"):
        al.complete(model, short, vector, max_new_tokens=12)
    assert al.complete(model, [long, long + " She"], vector, max_new_tokens=2).steered


# -- vectors between families ----------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
def test_a_gemma_vector_moves_between_families(shape_folder: Any) -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gemma_weights

    bridge = al.load_model(shape_folder("gemma"), family="bridge")
    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=64, d_head=8, n_heads=4, n_key_value_heads=2, d_mlp=48, d_vocab=257,
        act_fn="gelu_pytorch_tanh", normalization_type="RMS", eps=1e-6, positional_embedding_type="rotary",
        rotary_dim=8, rotary_base=10000, gated_mlp=True, final_rms=True, original_architecture="GemmaForCausalLM",
    )  # fmt: skip
    hooked = HookedTransformer(config, tokenizer=bridge.tokenizer, move_to_device=False)
    hooked.load_and_process_state_dict(convert_gemma_weights(random_model("gemma"), config))
    tokens = bridge.to_tokens("The girl")
    for one, other in ((bridge, hooked), (hooked, bridge)):
        vector = 3 * al.compute_steering_vector(one, ("Love", "Hate"), layer=1)
        with torch.no_grad(), al.steer(other, vector):
            steered = other(tokens).log_softmax(dim=-1)
        with torch.no_grad(), al.steer(one, vector):
            assert (one(tokens).log_softmax(dim=-1) - steered).abs().max() < 1e-3


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
@pytest.mark.parametrize(
    "name", ["gpt_neo", "bloom", "llama", "qwen2", "qwen3, tied", "mixtral", "phi3", "olmo3", "opt"]
)
def test_vectors_of_other_shapes_move_too(name: str, shape_folder: Any) -> None:
    models = [al.load_model(shape_folder(name), family=family) for family in families_here()]
    for one, other in (models, models[::-1]):
        vector = al.compute_steering_vector(one, ("Love", "Hate"), layer=1)
        with al.steer(other, vector):
            pass


# -- names of the hub ------------------------------------------------------------------------------------------


def in_cache(folder: Path, home: Path, repository: str) -> None:
    """Put a folder where transformers looks for what it has fetched."""
    place = home / "hub" / ("models--" + repository.replace("/", "--"))
    shutil.copytree(folder, place / "snapshots" / "0")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0")
    config = json.loads((place / "snapshots" / "0" / "config.json").read_text())
    if config["model_type"] == "gpt2":  # those of the hub say it, which today's transformers no longer writes
        (place / "snapshots" / "0" / "config.json").write_text(json.dumps({**config, "n_ctx": config["n_positions"]}))


@pytest.mark.slow
def test_names_are_compared_as_folders_are(shape_folder: Any, tmp_path: Path) -> None:
    named = {"gpt2": "gpt2", "Qwen/Qwen2-0.5B": "qwen2, yarn", "google-bert/bert-base-cased": "bert",
             "google-t5/t5-small": "t5", "microsoft/phi-2": "phi", "someone/new": "granite"}  # fmt: skip
    for repository, name in named.items():
        in_cache(shape_folder(name), tmp_path, repository)
    code = f"""
import json, logging, warnings
warnings.simplefilter("ignore"); logging.disable(logging.WARNING)
import actadd_lens as al
from actadd_lens.experiments.checking import check_model, families_here
said = {{}}
for name in {list(named)!r}:
    for family in families_here():
        try:
            said[f"{{name}} {{family}}"] = type(al.load_model(name, family=family)).__name__
        except al.ModelError as error:
            said[f"{{name}} {{family}}"] = str(error)
said["check"] = [check_model("gpt2", family=family).holds for family in families_here()]
print(json.dumps(said))
"""
    surroundings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=surroundings, cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    for family in families_here():
        assert said[f"gpt2 {family}"] == ("HookedTransformer" if family == "hooked" else "TransformerBridge")
        assert "looks at tokens that follow" in said[f"google-bert/bert-base-cased {family}"]
        assert "does not predict next tokens" in said[f"google-t5/t5-small {family}"]
    for name in ("Qwen/Qwen2-0.5B", "microsoft/phi-2", "someone/new"):
        assert said[f"{name} bridge"] == "TransformerBridge"
    if HAS_HOOKED:
        assert "yarn rotary scaling" in said["Qwen/Qwen2-0.5B hooked"]
        assert said["microsoft/phi-2 hooked"].startswith("TransformerLens cannot load microsoft/phi-2: AttributeError")
    assert all(said["check"])
