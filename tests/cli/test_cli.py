"""The command line: what it prints, where errors go, and what it exits with."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import actadd_lens as al
from actadd_lens.cli import main
from actadd_lens.experiments.checking import families_here
from benchmarks.architectures import build

PROMPT = "The girl looked at the dog. She felt"
QUICK = ["--max-new-tokens", "4", "--layer", "3"]


def test_steer_prints_both_conditions(capsys: pytest.CaptureFixture[str], embedded: Any) -> None:
    assert main(["steer", PROMPT, "--pair", " happy", " sad", "--coefficient", "4", "--n", "2", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    vector = 4 * al.compute_steering_vector(embedded, (" happy", " sad"), layer=3)
    assert "\n".join(lines) == str(al.complete(embedded, PROMPT, vector, n=2, max_new_tokens=4))
    assert lines[0] == PROMPT
    assert [line.split("|")[0].strip() for line in lines[1:]] == ["unsteered", "steered"] * 2


def test_steer_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["steer", PROMPT, "It was", "--pair", "Love", "Hate", "--position", "back", "--json", "--n", "2",
                 "--temperature", "0", *QUICK]  # fmt: skip
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["prompt"] for row in told["completions"]] == [PROMPT] * 2 + ["It was"] * 2
    assert told["settings"]["position"] == "back"
    assert told["settings"]["sampling"]["temperature"] == 0
    (vector,) = told["vectors"]
    assert (vector["layer"], vector["coefficient"], vector["provenance"]["positive"]) == (3, 1.0, "Love")


def test_other_interventions_of_a_file_are_shown_and_steer(
    embedded: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    love = al.compute_steering_vector(embedded, ("Love", "Hate"), layer=3).row(-1)
    file = tmp_path / "two.safetensors"
    some = [al.project_out(love).at(position="all"), al.gated(3 * love, al.gate(love, 0.0)).at(position=al.since(2))]
    al.save_interventions(some, file)
    assert main(["show", str(file)]) == 0
    shown = capsys.readouterr().out
    for word in (*(item.label for item in some), "since(2)", "blocks.3.hook_resid_pre"):
        assert word in shown
    assert main(["show", str(file), "--json"]) == 0
    assert [told["layer"] for told in json.loads(capsys.readouterr().out)] == [3, 3]
    assert main(["steer", PROMPT, "--vector", str(file), "--max-new-tokens", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [vector["label"] for vector in told["vectors"]] == [item.label for item in some]
    written = [value for row in told["completions"] for value in row.values()]
    assert al.complete(embedded, PROMPT, some, max_new_tokens=4, progress=False).steered[0][0] in written


def test_a_saved_vector_is_shown_and_steers_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "love.safetensors"
    pair = ["--pair", "Love", "Hate", "--coefficient", "5"]
    assert main(["steer", PROMPT, *pair, "--save", str(file), *QUICK]) == 0
    computed = capsys.readouterr().out
    assert al.SteeringVector.load(file).coefficient == 5
    assert main(["steer", PROMPT, "--vector", str(file), "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == computed
    assert main(["show", str(file)]) == 0
    shown = capsys.readouterr().out
    for word in (
        "Love",
        "Hate",
        "blocks.3.hook_resid_pre",
        "storybook",
        str(al.SteeringVector.load(file).provenance.weight_processing),
        "positive tokens",
        "float32",
        "torch ",
    ):
        assert word in shown
    assert main(["show", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["provenance"]["negative"] == "Hate"
    assert len(told["norms"]) == told["rows"]


def test_a_gated_vector_is_shown_with_its_gate(
    embedded: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "gated.safetensors"
    love = al.compute_steering_vector(embedded, ("Love", "Hate"), layer=3)
    al.gated(4.93 * love, al.gate(love.row(-1), 1.25)).save(file)
    assert main(["show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "4.93" in shown
    assert "layer 3, token -1, opens above 1.25" in shown
    al.set_projection(love.row(-1), 2.5).save(file)
    assert main(["show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["projection"] == [2.5]


def test_several_pairs_each_have_their_layer_and_coefficient(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["steer", PROMPT, "--pair", " happy", " sad", "--pair", " wedding", "", "--layer", "2", "--layer", "4",
                 "--coefficient", "-3", "--coefficient", "2.5", "--max-new-tokens", "2", "--json"]  # fmt: skip
    assert main(arguments) == 0
    vectors = json.loads(capsys.readouterr().out)["vectors"]
    assert [(vector["layer"], vector["coefficient"]) for vector in vectors] == [(2, -3.0), (4, 2.5)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--pair", "Love", "Hate", "--layer", "99"],
            "Layer 99 does not exist: storybook has layers 0 to 7, and 8 for the stream",
        ),
        (["--pair", "Love", "Hate"], "--pair needs --layer."),
        ([], "Nothing to steer with: give --pair"),
        (["--pair", "", "", "--layer", "3"], "Both prompts are empty"),
        (["--layer", "3"], "--layer needs --pair"),
        (["--pair", "a", "b", "--layer", "1", "--layer", "2"], "--layer was given 2 times for 1 pair"),
        (["--vector", "absent.safetensors"], "There is no file absent.safetensors."),
        (["--pair", "Love", "Hate", "--layer", "3", "--coefficient", "nan"], "The coefficient nan is not finite"),
        (["--pair", "Love", "Hate", "--layer", "3", "--position", "end"], "Position 'end' is not known"),
        (["--pair", "Love", "Hate", "--layer", "3", "--position", "77"], "at position 77 does not fit"),
        (["--pair", "Love", "Hate", "--layer", "3", "--position", "-1"], "Position -1 is negative"),
        (["--pair", "Love", "Hate", "--layer", "3", "--n", "0"], "n is 0: expected an integer from 1"),
        (["--pair", "Love", "Hate", "--layer", "3", "--top-p", "7"], "top_p is 7.0"),
        (["--pair", "Love", "Hate", "--layer", "3", "--model", "gpt2-xll"], "Did you mean"),
        (["--pair", "Love", "Hate", "--layer", "3", "--model", "./nowhere"], "There is no folder nowhere"),
        (
            ["--pair", "a", "b", "--pair", "c", "d", "--layer", "3", "--save", "x"],
            "--save writes the vector of one pair",
        ),
        (["--pair", "a", "b", "--layer", "3", "--save", "no/such/folder/x"], "There is no folder no/such/folder"),
        (["--pair", "Love", "Hate", "--layer", "3", "--device", "warp"], "warp"),
    ],
)
def test_wrong_input_exits_with_2_and_tells_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str, unchecked: None
) -> None:
    assert main(["steer", PROMPT, *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("actadd: error: ")
    assert told in err
    assert "Traceback" not in err
    assert not out


@pytest.mark.parametrize(
    "arguments",
    [[], ["walk"], ["steer"], ["steer", PROMPT, "--layer", "x"], ["show"], ["steer", PROMPT, "--pair", "a"]],
)
def test_wrong_usage_exits_with_2_and_the_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: actadd")


def test_a_damaged_file_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "damaged.safetensors"
    file.write_bytes(b"nothing of the kind")
    assert main(["show", str(file)]) == 2
    assert "is truncated, damaged or not a safetensors file" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actadd_lens.vectors.vector.SteeringVector.load", interrupt)
    assert main(["show", "any.safetensors"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "love.safetensors"
    al.SteeringVector.from_tensor(__import__("torch").ones(1, 4), layer=1, source="mine").save(file)
    code = f"import sys; from actadd_lens.cli import main; sys.exit(main(['show', {str(file)!r}]))"
    done = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.stdout is not None
    assert done.stderr is not None
    done.stdout.close()
    told = done.stderr.read().decode()
    done.stderr.close()
    assert (done.wait(), told) == (0, "")


# -- reproduce -------------------------------------------------------------------------------------------------

ESSAY = "The bride smiled. The groom was late.\nThey had a wedding! " * 4


@pytest.fixture
def prompting_takes(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What an experiment that stands in for `prompting` was called with."""
    from actadd_lens.experiments import prompting

    asked: dict[str, object] = {}

    def fails(model: object, pair: object = None, **settings: object) -> None:
        asked.update(settings, pair=pair)
        raise al.SettingError("nothing to see")

    fails.__signature__ = __import__("inspect").signature(prompting)  # type: ignore[attr-defined]
    monkeypatch.setattr("actadd_lens.experiments.registry.Entry.runs", staticmethod(fails))
    return asked


def test_reproduce_reads_data_and_settings_and_exits_with_1_when_an_experiment_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, prompting_takes: dict[str, object]
) -> None:
    (tmp_path / "on.csv").write_text("story,n\nThe bride smiled.,1\nThe groom was late.,2\n")
    arguments = ["prompting", "--data", f"on_topic={tmp_path / 'on.csv'}", "--column", "on_topic.text=story",
                 "--pair", " dog", "", "--nulls", "3", "--layers", "all", "--coefficients=1,2", "--quick",
                 "--set", "prompting.transplant_coefficient=2.5", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(["reproduce", *arguments]) == 1
    assert "prompting    failed: nothing to see" in capsys.readouterr().out
    assert prompting_takes["on_topic"] == ("The bride smiled.", "The groom was late.")
    assert prompting_takes["pair"] == (" dog", "")
    assert list(prompting_takes["layers"]) == list(range(8))  # type: ignore[call-overload]
    assert (prompting_takes["nulls"], prompting_takes["transplant_coefficient"]) == (3, 2.5)
    assert "nothing to see" in (tmp_path / "out" / "report.html").read_text()


def test_reproduce_lists_the_experiments_and_what_they_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    out = capsys.readouterr().out
    assert "prompting    claim 11     Is it just adding tokens?" in out
    assert "--data off_topic=FILE" in out


def test_help_and_wrong_usage_load_no_torch() -> None:
    code = "import sys; from actadd_lens.cli import main\ntry: main(['reproduce', '--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert "--data ROLE=FILE" in done.stdout


def test_the_experiments_load_without_transformer_lens() -> None:
    code = "import sys, actadd_lens as al; al.experiments.sentiment; print('transformer_lens' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_running_text_is_cut_into_sentences_for_perplexity(tmp_path: Path) -> None:
    from actadd_lens.experiments.inputs import read_roles
    from actadd_lens.experiments.registry import entry

    (tmp_path / "essay.txt").write_text(ESSAY)
    found = read_roles({"perplexity": entry("perplexity").data}, [f"on_topic={tmp_path / 'essay.txt'}"])
    assert found["perplexity"]["on_topic"]["essay"][:3] == (
        "The bride smiled.",
        "The groom was late.",
        "They had a wedding!",
    )
    assert len(found["perplexity"]["on_topic"]["essay"]) == 12


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["promptin"], "There is no experiment 'promptin'. Did you mean 'prompting'"),
        (["prompting", "--data", "on_topic=absent.txt"], "There is no file absent.txt"),
        (["prompting", "--data", "facts=absent.txt"], "There is no 'facts' to give a file to"),
        (["prompting", "--data", "facts"], "'facts' is not ROLE=FILE"),
        (["prompting", "--set", "prompting.colour=1"], "prompting takes no 'colour'"),
        (["prompting", "--set", "colour=1"], "is not EXPERIMENT.SETTING=VALUE"),
        (["--pair", "Love", "Hate"], "--pair needs experiments that it suits"),
        (["prompting", "--model", "./nowhere"], "There is no folder nowhere"),
    ],
)
def test_wrong_input_to_reproduce_is_told_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], told: str
) -> None:
    out = tmp_path / "out"
    assert main(["reproduce", *arguments, "--out", str(out)]) == 2
    assert told in capsys.readouterr().err
    assert not out.exists()


# -- check -----------------------------------------------------------------------------------------------------


def test_check_prints_a_row_for_each_family(capsys: pytest.CaptureFixture[str], gpt2_folder: Path) -> None:
    assert main(["check", str(gpt2_folder)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["family", "loads", "whole", "cached", "padded", "lens", "trace"]
    assert [row.split()[0] for row in rows[:-1]] == list(families_here())
    assert all(float(cell) < 1e-3 for row in rows[:-1] for cell in row.split()[1:])


def test_check_says_why_something_is_refused_and_prints_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = str(build("openai-gpt", tmp_path / "first-gpt"))
    capsys.readouterr()
    assert main(["check", folder, "--family", "bridge"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"bridge +\S+ +\S+ +refused +refused", said)
    assert "cached: TransformerLens keeps no keys and values of first-gpt" in said
    assert main(["check", folder, "--family", "bridge", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["model_type"], row["holds"], row["whole"]["refused"]) == ("openai-gpt", True, None)
    assert "use_past_kv_cache=False" in row["cached"]["refused"]


def test_check_exits_with_1_where_nothing_loads_and_2_where_nothing_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["check", str(build("bert", tmp_path / "encoder"))]) == 1
    assert "looks at tokens that follow" in capsys.readouterr().out
    assert main(["check", str(build("t5", tmp_path / "both"))]) == 2
    assert "both (t5) does not predict next tokens" in capsys.readouterr().err
    assert main(["check", "no-such-model"]) == 2
    assert "neither a model that TransformerLens knows" in capsys.readouterr().err
