from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from efficient_reasoning import config
from efficient_reasoning.config import find_config, parse, recipe_path
from efficient_reasoning.errors import BadInput, run

ROOT = Path(__file__).parents[1]


@dataclass(kw_only=True)
class Shared:
    """What every program has."""

    model: str = field(metadata={"help": "Folder or Hub id."})
    dry_run: bool = field(default=False, metadata={"help": "Stop early."})


@dataclass(kw_only=True)
class Own(Shared):
    """The reward."""

    reward: Literal["kimi", "dast", "no"] = field(default="kimi", metadata={"help": "Which one."})
    alpha_per_token: float = field(default=0.5, metadata={"help": "Penalty of a token."})
    budget_tokens: int | None = field(default=None, metadata={"help": "Limit."})
    budgets: list[int] = field(default_factory=list, metadata={"help": "Limits."})
    parameters: dict = field(default_factory=dict, metadata={"help": "More of them."})
    tasks: str | list[str] = field(default="sums", metadata={"help": "One or more."})
    note: str | None = field(default=None, metadata={"help": "Anything."})


@dataclass
class Trainer:
    """A trainer."""

    learning_rate: float = field(default=1.0, metadata={"help": "Step size."})
    report_to: None | str | list[str] = field(default="none", metadata={"help": "In this order for TrlParser."})  # noqa: RUF036
    generation_kwargs: dict | str | None = field(default=None, metadata={"help": "For generate."})
    rope: object = field(default=None, metadata={"help": "Whatever the trainer understands."})

    def __post_init__(self):
        if self.learning_rate == 0:
            raise ValueError("learning_rate of 0\n  trains nothing")


@dataclass
class Scaled:
    """A trainer that DeepSpeed scales."""

    deepspeed: dict | str | None = None


@dataclass
class OtherTrainer:
    """Another trainer."""

    beta: float = field(default=2.0, metadata={"help": "Scale."})


TRAINER = f"{__name__}:Trainer"
CHOSEN = {"reward": {"kimi": TRAINER, "dast": f"{__name__}:OtherTrainer", "no": TRAINER}}


# A few lines that mean a million values, as lists and as keys.
LAUGHTER = (
    "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10) if n else 'x'}]\n" for n in range(6)) + "note: [*a5, *a5]"
)


def write(folder: Path, text: str, name: str = "some.yaml") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A source tree of its own, seen instead of the real one."""
    monkeypatch.setattr(config, "_PACKAGE", tmp_path / "efficient_reasoning")
    write(tmp_path, "model: a", "configs/rl_length/l1_tiny.yaml")
    write(tmp_path, "model: b", "configs/rl_length/twice.yaml")
    write(tmp_path, "model: c", "configs/sft/twice.yaml")
    write(tmp_path, "{}", "configs/deepspeed/zero2.json")
    write(tmp_path, '"""Length rewards."""', "recipes/rl_length.py")
    write(tmp_path, "", "recipes/__init__.py")
    return tmp_path


# ---- what is understood ----


def test_command_line_wins_over_file_over_default(tmp_path):
    path = write(tmp_path, "model: file\nreward: dast\nlearning_rate: 0.25\n")
    own, trainer = parse(Own, TRAINER, ["--config", path, "--reward=no", "--model", "line"])
    assert (own.model, own.reward, own.alpha_per_token) == ("line", "no", 0.5)
    assert trainer.learning_rate == 0.25


def test_a_field_chooses_the_trainer(tmp_path):
    assert isinstance(parse(Own, CHOSEN, ["--model", "m"])[1], Trainer)  # by its default
    path = write(tmp_path, "model: m\nreward: dast\nbeta: 3\n")
    own, trainer = parse(Own, CHOSEN, ["--config", path])
    assert (own.reward, trainer) == ("dast", OtherTrainer(beta=3.0))
    assert isinstance(parse(Own, CHOSEN, ["--model", "m", "--reward", "kimi"])[1], Trainer)
    with pytest.raises(BadInput, match=r"some\.yaml, line 3: unknown key 'beta'"):  # the command line chose another
        parse(Own, CHOSEN, ["--config", path, "--reward", "no"])
    with pytest.raises(BadInput, match="unknown key 'learning_rate'"):
        parse(Own, CHOSEN, ["--config", path, "--learning_rate", "1"])
    with pytest.raises(BadInput, match="reward must be one of kimi, dast, no, found 'kim'"):
        parse(Own, CHOSEN, ["--model", "m", "--reward", "kim"])


def test_help_all_is_that_of_the_chosen_trainer(capsys, tmp_path):
    path = write(tmp_path, "reward: dast\n")
    for words, has_beta in (([], False), (["--reward", "dast"], True), (["--config", path], True)):
        with pytest.raises(SystemExit):
            parse(Own, CHOSEN, [*words, "--help-all"])
        shown = capsys.readouterr().out
        assert ("--beta" in shown) == has_beta
        assert ("--learning_rate" in shown) != has_beta


def test_without_trainer_the_own_arguments_come_alone():
    assert parse(Own, argv=["--model", "m"]) == Own(model="m")


@pytest.mark.parametrize("written", ["1e-4", '"1e-4"', "0.0001", "+.1E-3", "1.e-4"])
def test_numbers_as_people_write_them(tmp_path, written):
    path = write(tmp_path, f"model: m\nalpha_per_token: {written}\nparameters: {{alpha: 1e-4}}\n")
    own = parse(Own, argv=["--config", path])
    assert own.alpha_per_token == 1e-4
    assert own.parameters == {"alpha": 1e-4}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--budgets", "64", "128"], "budgets", [64, 128]),
        (["--budgets", "64"], "budgets", [64]),
        (["--budgets=[64, 128]"], "budgets", [64, 128]),
        (["--dry-run"], "dry_run", True),
        (["--dry_run", "false"], "dry_run", False),
        (["--budget-tokens", "none"], "budget_tokens", None),
        (["--budget-tokens=7", "--budget-tokens=8"], "budget_tokens", 8),
        (["--alpha_per_token", "-1e-3"], "alpha_per_token", -1e-3),
        (["--parameters", "{alpha: 1e-3, name: kimi}"], "parameters", {"alpha": 1e-3, "name": "kimi"}),
        (["--tasks", "a", "b"], "tasks", ["a", "b"]),
        ([], "tasks", "sums"),
        (["--model", "7"], "model", "7"),
        (["--model", "a # b: {"], "model", "a # b: {"),
        (["--model="], "model", ""),
        (["--note", "none"], "note", "none"),
        (["--reward", "no"], "reward", "no"),
        (["--local_rank=1", "--model", "m"], "model", "m"),
        (["--local-rank", "1", "--model", "m"], "model", "m"),
    ],
)
def test_command_line_spellings(words, name, value):
    assert getattr(parse(Own, argv=["--model", "m", *words]), name) == value


def test_loose_annotations_of_trainers(tmp_path):
    path = write(tmp_path, "model: m\nreport_to: [wandb, trackio]\ngeneration_kwargs: {top_k: 2}\nrope: [1, {a: b}]\n")
    _, trainer = parse(Own, TRAINER, ["--config", path])
    assert (trainer.report_to, trainer.generation_kwargs) == (["wandb", "trackio"], {"top_k": 2})
    assert trainer.rope == [1, {"a": "b"}]
    _, trainer = parse(Own, TRAINER, ["--config", path, "--report_to", "none", "--generation_kwargs", "file.json"])
    assert (trainer.report_to, trainer.generation_kwargs) == ("none", "file.json")


def test_environment_is_set_before_the_trainer_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SEEN_AT_IMPORT", "old")
    write(
        tmp_path,
        """
        import os
        from dataclasses import dataclass

        @dataclass
        class Late:
            seen: str = os.environ["SEEN_AT_IMPORT"]
        """,
        "late_trainer.py",
    )
    path = write(tmp_path, "model: m\nenv: {SEEN_AT_IMPORT: 3}\n")
    _, trainer = parse(Own, "late_trainer:Late", ["--config", path])
    assert trainer.seen == "3" == os.environ["SEEN_AT_IMPORT"]


def test_trl_configs_take_their_own_defaults_and_say_what_they_refuse(tmp_path):
    path = write(
        tmp_path, f"model: m\noutput_dir: {tmp_path}\nbf16: false\nuse_cpu: true\nlr_scheduler_type: cosine\n"
    )
    own, trainer = parse(Own, "trl:SFTConfig", ["--config", path, "--learning_rate", "1e-4", "--report_to", "none"])
    assert own.model == "m"
    assert (trainer.learning_rate, trainer.lr_scheduler_type.value, trainer.report_to) == (1e-4, "cosine", [])
    with pytest.raises(BadInput, match=r"some\.yaml: cosin is not a valid SchedulerType"):
        parse(Own, "trl:SFTConfig", ["--config", path, "--lr_scheduler_type", "cosin"])
    with pytest.raises(BadInput, match=r"max_steps must be int, found '1\.5'"):
        parse(Own, "trl:SFTConfig", ["--config", path, "--max_steps", "1.5"])


# ---- what is refused, and how ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alpha_per_token: abc", 'line 2: alpha_per_token must be float, found "abc".'),
        ("alpha_per_token: true", "alpha_per_token must be float, found true."),
        ("alpha_per_token: null", "found null; leave it out to keep the default."),
        ("alpha_per_token: .nan", "found NaN; numbers must be finite."),
        ("alpha_per_token: -.inf", "found -Infinity; numbers must be finite."),
        ('alpha_per_token: "nan"', 'must be float, found "nan".'),
        ("parameters: {a: [1, .nan]}", "numbers must be finite."),
        ("budget_tokens: 1.0", "budget_tokens must be int or null, found 1.0."),
        ("budget_tokens: true", "budget_tokens must be int or null, found true."),
        ("budgets: 64", "budgets must be list of int, found 64."),
        ("budgets: [64, x]", 'budgets must be list of int, found [64, "x"].'),
        ("reward: kimmi", 'reward must be one of kimi, dast, no, found "kimmi".'),
        ("reward: no", "found false; put text in quotes."),
        ("note: 2024-01-01", "note must be str or null"),
        ("parameters: [a]", "parameters must be dict"),
        ("dry_run: 1", "dry_run must be true or false, found 1."),
        ("alpha_per_tokn: 1", "line 2: unknown key 'alpha_per_tokn', did you mean alpha_per_token?"),
        ("learning-rate: 1", "line 2: unknown key 'learning-rate', did you mean learning_rate?"),
        ("zzz: 1", "unknown key 'zzz'; --help lists the known ones."),
        ("learning_rate: x", 'learning_rate must be float, found "x".'),
        ("learning_rate: 0", "some.yaml: learning_rate of 0 trains nothing"),
        ("env: [A]", "line 2: env must be mapping of str to"),
        ("deepspeed: x", "unknown key 'deepspeed'"),
        ("model: again", "line 2: key 'model' is given twice; correct the line."),
        ("parameters: {a: 1, a: 2}", "line 2: key 'a' is given twice"),
        ("  indented: wrong", "line 2: mapping values are not allowed here; correct the line."),
        ("note: 'open", "correct the line."),
        ("note: !!python/name:os.system x", "line 2: could not determine a constructor"),
        ("note: 2024-99-99", "line 2: '2024-99-99' is no timestamp; correct the line."),
        ("note: !!timestamp x", "line 2: 'x' is no timestamp; correct the line."),
        ("note: 0x_", "line 2: '0x_' is no int; correct the line."),
        ("note: !!bool x", "line 2: 'x' is no bool; correct the line."),
        ("note: !!float x", "line 2: 'x' is no float; correct the line."),
        ("note: !!int ''", "line 2: '' is no int; correct the line."),
        ("note: !!map x", "line 2: expected a mapping node, but found scalar; correct the line."),
        ("note: {? [a] : b}", "line 2: found unhashable key; correct the line."),
        ("note: {2024-01-01: b}", "line 2: note must be str or null, found {datetime.date(2024, 1, 1): 'b'}."),
        (f"note: {'[' * 60}{']' * 60}", "line 2: note is nested too deeply"),
        (f"note: {'[' * 2_000}", "nested too deeply; write one `key: value` a line."),
        ("note: &a [*a]", "line 2: note is nested too deeply, or means too many values"),
        (LAUGHTER, "is nested too deeply, or means too many values"),
        (
            "env: &a {A: b}\nparameters: {<<: *a}",
            "line 3: << merges nothing here, write the keys themselves; correct the line.",
        ),
        (f"budget_tokens: {10**20}", "found 100000000000000000000; whole numbers must be below 2^64."),
        (f"alpha_per_token: {10**400}", "whole numbers must be below 2^64."),
        ("env: {A=B: x}", "line 2: env holds what no environment can"),
        ('env: {A: "\\0"}', "line 2: env holds what no environment can"),
    ],
)
def test_bad_file(tmp_path, text, message):
    path = write(tmp_path, f"model: m\n{text}\n")
    with pytest.raises(BadInput) as caught:
        parse(Own, TRAINER, ["--config", path])
    assert str(caught.value).startswith(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "just words\n", "!!set {a, b}\n"])
def test_file_that_is_no_mapping(tmp_path, text):
    with pytest.raises(BadInput, match=r"some\.yaml: not a YAML mapping"):
        parse(Own, argv=["--config", write(tmp_path, text)])


def test_file_that_is_no_text(tmp_path):
    (tmp_path / "some.yaml").write_bytes(b"model: \xff\xfe")
    with pytest.raises(BadInput, match=r"some\.yaml: not a text file"):
        parse(Own, argv=["--config", str(tmp_path / "some.yaml")])


def test_a_wrong_value_in_the_file_is_told_even_when_overridden(tmp_path):
    path = write(tmp_path, "model: m\nalpha_per_token: abc\n")
    with pytest.raises(BadInput, match="line 2"):
        parse(Own, argv=["--config", path, "--alpha_per_token", "1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config"], "--config needs one value"),
        (["--config="], "--config needs one value"),
        (["--config", "a.yaml", "b.yaml"], "--config needs one value"),
        (["--config", "/nowhere/a.yaml"], "/nowhere/a.yaml: neither a file nor a shipped config"),
        (["some.yaml"], "'some.yaml' stands before any option; write --config some.yaml"),
        ([], "command line: model is missing; set it in the config or with --model."),
        (["--modle", "m"], "command line: unknown key 'modle', did you mean model?"),
        (["--model", "m", "--alpha_per_token"], "alpha_per_token must be float, found no value."),
        (["--model"], "model must be str, found no value."),
        (["--model", "m", "--alpha_per_token", "inf"], "alpha_per_token must be float, found 'inf'."),
        (["--model", "m", "--alpha_per_token", "nan"], "alpha_per_token must be float, found 'nan'"),
        (["--model", "m", "--budgets", "1", "x"], "budgets must be list of int, found '1 x'."),
        (["--model", "m", "--alpha_per_token", "1", "2"], "must be float, found '1 2'."),
        (["--model", "m", "--reward", "kim"], "reward must be one of kimi, dast, no, found 'kim'."),
        (["--model", "m", "--reward", "3"], "reward must be one of kimi, dast, no, found '3'."),
        (["--model", "m", "--dry_run", "maybe"], "dry_run must be true or false, found 'maybe'."),
        (["--model", "m", "--budgets", "[" * 5000], "budgets must be list of int"),
        (["--model", "m", "--budgets", "2024-99-99"], "budgets must be list of int, found '2024-99-99'."),
        (["--config", "a" * 400], "neither a file nor a shipped config"),
    ],
)
def test_bad_command_line(words, message):
    with pytest.raises(BadInput) as caught:
        parse(Own, argv=words)
    assert message in str(caught.value)


# ---- where things are ----


@pytest.mark.parametrize(
    "name",
    ["l1_tiny", "l1_tiny.yaml", "rl_length/l1_tiny", "rl_length/l1_tiny.yaml", "configs/rl_length/l1_tiny.yaml"],
)
@pytest.mark.parametrize("installed", [False, True])
def test_names_of_a_shipped_config(tree, name, installed):
    if installed:  # the folders lie inside the package instead of beside it
        (tree / "efficient_reasoning").mkdir()
        (tree / "configs").rename(tree / "efficient_reasoning" / "configs")
    assert parse(Own, argv=["--config", name]).model == "a"


def test_a_path_comes_before_a_shipped_name(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "model: mine", "l1_tiny.yaml")
    assert parse(Own, argv=["--config", "l1_tiny.yaml"]).model == "mine"


def test_names_that_fit_no_config_or_several(tree):
    with pytest.raises(BadInput, match=r"did you mean l1_tiny\.yaml"):
        find_config("l1_tyni.yaml")
    with pytest.raises(BadInput, match=r"did you mean rl_length/l1_tiny\.yaml"):
        find_config("rl_lenght/l1_tiny.yaml")
    with pytest.raises(BadInput, match=r"write one of rl_length/twice\.yaml, sft/twice\.yaml"):
        find_config("twice")


@pytest.mark.parametrize(("program", "model"), [("recipes/sft.py", "c"), ("data_tools/twice.py", "d")])
def test_of_several_configs_of_one_name_a_program_takes_its_own(tree, monkeypatch, program, model):
    write(tree, "model: d", "configs/data/twice_tiny.yaml")
    write(tree, "model: c", "configs/sft/twice_tiny.yaml")
    monkeypatch.setattr("sys.argv", [str(tree / program)])
    assert parse(Own, argv=["--config", "twice_tiny"]).model == model
    assert parse(Own, argv=["--config", "l1_tiny"]).model == "a"  # another program's, when no other has the name


@pytest.mark.parametrize(
    ("program", "listed"),
    [("recipes/rl_length.py", "l1_tiny, twice"), ("data_tools/twice.py", "twice_tiny"), ("x.py", "none shipped")],
)
def test_help_lists_the_configs_of_the_program(tree, monkeypatch, capsys, program, listed):
    write(tree, "model: d", "configs/data/twice_tiny.yaml")
    write(tree, "model: e", "configs/data/once_tiny.yaml")
    monkeypatch.setattr("sys.argv", [str(tree / program)])
    with pytest.raises(SystemExit):
        parse(Own, argv=["--help"])
    assert f"({listed})" in " ".join(capsys.readouterr().out.split())


def test_the_deepspeed_file_of_a_shipped_config_is_found_from_any_directory(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    path = write(tmp_path, "model: m\ndeepspeed: configs/deepspeed/zero2.json\n")
    _, trainer = parse(Own, f"{__name__}:Scaled", ["--config", path])
    assert trainer.deepspeed == str(tree / "configs/deepspeed/zero2.json")
    _, trainer = parse(Own, f"{__name__}:Scaled", ["--config", path, "--deepspeed", "{stage: 2}"])
    assert trainer.deepspeed == {"stage": 2}


@pytest.mark.parametrize("text", ["", "[1]", '{"zero_optimization": 2}', "{" * 5000, "zero_stage: 2"])
def test_a_deepspeed_file_that_is_none_is_named(tmp_path, text):
    path = write(tmp_path, text, "zero.json")
    with pytest.raises(BadInput, match=r"zero\.json: no settings of DeepSpeed; begin with one of the shipped files"):
        parse(Own, f"{__name__}:Scaled", ["--model", "m", "--deepspeed", path])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("deepspeed: {zero_optimization: 3}", r"SFTConfig cannot be made of these keys \(AttributeError"),
        ("accelerator_config: /nowhere", r"SFTConfig cannot be made of these keys \(FileNotFoundError: .*/nowhere"),
        ("debug: x", "argument --debug: invalid DebugOption value: 'x'"),
    ],
)
def test_what_others_make_of_settings_is_said(tmp_path, text, said):
    path = write(tmp_path, f"model: m\noutput_dir: {tmp_path}\nbf16: false\nuse_cpu: true\n{text}\n")
    with pytest.raises(BadInput, match=rf"some\.yaml: {said}"):
        parse(Own, "trl:SFTConfig", ["--config", path])


def test_recipes_are_found_by_name(tree):
    assert recipe_path("rl_length") == tree / "recipes/rl_length.py"
    with pytest.raises(BadInput, match=r"'rl_lenght' is not among the recipes, did you mean rl_length\?"):
        recipe_path("rl_lenght")
    with pytest.raises(BadInput, match="not among the recipes"):
        recipe_path("__init__")


# ---- help, and how a program ends ----

PROGRAM = """
    '''A program that does one thing.'''
    from __future__ import annotations
    from dataclasses import dataclass, field
    from efficient_reasoning.config import parse
    from efficient_reasoning.errors import run

    @dataclass
    class Own:
        '''The one thing.'''
        alpha: float = field(default=0.5, metadata={"help": "How much."})

    def main():
        parse(Own, trainer="trl:GRPOConfig", doc=__doc__)

    if __name__ == "__main__":
        try:
            run(main)
        finally:
            import sys
            print("heavy:", sorted({"torch", "transformers", "trl", "yaml"} & set(sys.modules)))
"""


def test_help_is_instant_and_imports_nothing_heavy(tmp_path):
    program = write(tmp_path, PROGRAM, "program.py")
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, program, "--help"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - start)
    assert "A program that does one thing." in done.stdout
    assert "The one thing." in done.stdout
    assert "How much. (float; default 0.5)" in done.stdout
    assert "--help-all" in done.stdout
    assert "heavy: []" in done.stdout
    assert min(seconds) < 0.3


def test_help_all_adds_the_trainers_fields(capsys):
    for option in ("--help", "-h", "--help-all"):
        with pytest.raises(SystemExit) as stopped:
            parse(Own, TRAINER, ["--model", "m", option], doc="What it does.")
        assert stopped.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith("What it does.\n")
        assert "--model                     Folder or Hub id. (str; required)" in shown
        assert shown.index("The reward.") < shown.index("--budgets") < shown.index("What every program has.")
        assert ("--learning_rate" in shown) == (option == "--help-all")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BadInput("a.yaml: no."), 2, "error: a.yaml: no.\n"),
        (KeyboardInterrupt(), 130, "run the same command"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 2, "error: the disk is full ("),
        (OSError(errno.ENOTDIR, "Not a directory", "out/x"), 2, "error: out/x: Not a directory; name another place."),
        (Exception("No space left on device (os error 28)"), 2, "make room and run the same command again"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), 2, "the disk is full"),
    ],
)
def test_run_ends_with_a_sentence_and_a_code(capsys, error, code, said):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("a.jsonl: column 'x\n\x1b[2Jy' is odd; grüß 🙂.", r"a.jsonl: column 'x\n\x1b[2Jy' is odd; grüß 🙂."),
        ("half \ud800, turned \u202e", r"half \ud800, turned \u202e"),
    ],
)
def test_a_sentence_is_one_line_that_does_nothing_to_a_terminal(sentence, said):
    assert str(BadInput(sentence)) == said == str(BadInput(BadInput(sentence)))


def test_a_sentence_that_quotes_a_megabyte_keeps_its_ends():
    said = str(BadInput(f"rows.jsonl, line 3: {'x' * 1_000_000}; write less."))
    assert said.startswith("rows.jsonl, line 3: xxx") and said.endswith("xxx; write less.") and len(said) < 2100


def test_run_leaves_bugs_alone():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
