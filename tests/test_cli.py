"""The command line: output, exit codes, and errors of one line."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from conftest import make_photo
from descscore import DescScorer, __version__
from descscore.cli import main
from descscore.errors import shown


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def model(tiny_folder: Path) -> tuple[str, str, str, str]:
    return ("--model", str(tiny_folder), "--device", "cpu")


def test_score_as_json_equals_the_library(photo: Path, tiny_folder: Path, model: tuple[str, ...]) -> None:
    result = run("score", photo, "A cat.", "Une tour à Paris", "--json", *model)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    expected = scorer.score_batch([photo] * 2, ["A cat.", "Une tour à Paris"])
    assert [{k: v for k, v in row.items() if k not in ("image", "text")} for row in rows] == [
        pytest.approx(result.to_dict(), abs=1e-6) for result in expected
    ]
    assert [row["text"] for row in rows] == ["A cat.", "Une tour à Paris"]


def test_score_as_text_prints_the_signature(photo: Path, model: tuple[str, ...]) -> None:
    result = run("score", photo, "A cat.", "word " * 100, "--text-policy", "truncate", *model)
    first, second, signature = result.output.splitlines()
    assert first.endswith("A cat.")
    assert "(5 tokens)" in first
    assert "(102 tokens, cut)" in second
    assert signature.startswith(f"descscore:{__version__}|model:")


def test_a_long_text_is_said_to_be_in_windows(photo: Path, model: tuple[str, ...]) -> None:
    (row,) = json.loads(run("score", photo, "word " * 100, "--json", *model).output)
    assert (row["truncated"], row["windows"]) == (False, 2)
    assert "(102 tokens, in 2 windows)" in run("score", photo, "word " * 100, *model).output


def test_every_text_policy_can_be_asked_for() -> None:
    from typing import get_args

    from descscore.cli import score
    from descscore.texts import DEFAULT_POLICY, TextPolicy

    (option,) = [option for option in score.params if option.name == "text_policy"]
    assert tuple(option.type.choices) == get_args(TextPolicy)  # type: ignore[attr-defined]
    assert option.default == DEFAULT_POLICY


def test_compare(photo: Path, model: tuple[str, ...]) -> None:
    args = ("compare", photo, "--description", "A red car.", "--caption", "My first one.", *model)
    parsed = json.loads(run(*args, "--json").output)
    cosines = parsed["description"]["cosine"], parsed["caption"]["cosine"]
    assert parsed["margin"] == pytest.approx(cosines[0] - cosines[1])
    assert parsed["preferred"] == ("description" if cosines[0] > cosines[1] else "caption")
    text = run(*args).output
    assert f"margin {parsed['margin']:+.4f}" in text
    assert f"preferred: {parsed['preferred']}" in text


@pytest.mark.parametrize(
    "args",
    [
        ("score",),
        ("score", "a.jpg"),
        ("score", "a.jpg", "a", "--nonesuch"),
        ("compare", "a.jpg", "--description", "a"),
        ("nonesuch",),
        ("score", "a.jpg", "a", "--text-policy", "nonesuch"),
        ("score", "a.jpg", "a", "--device", "nonesuch"),
    ],
)
def test_wrong_use_exits_2(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_failed_work_exits_1_with_one_line(tmp_path: Path, photo: Path, model: tuple[str, ...]) -> None:
    for args, mention in (
        (("score", tmp_path / "none.jpg", "a", *model), "none.jpg"),
        (("score", photo, "", *model), "empty or blank"),
        (("score", photo, "a", "--model", "nonesuch"), "'nonesuch'"),
        (("score", "https://example.org/a.jpg", "a", *model), "never fetched"),
    ):
        result = run(*args)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert mention in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""


def test_an_error_of_one_image_speaks_of_no_rows_and_is_said_once(
    tmp_path: Path, photo: Path, model: tuple[str, ...]
) -> None:
    missing = tmp_path / "none.jpg"
    for args in (("score", missing, "a", "b"), ("explain", missing, "a")):
        assert run(*args, *model).stderr == f"Error: {missing}: no such file\n"
    assert run("score", photo, "a", "", *model).stderr == "Error: text '': empty or blank\n"
    assert run("explain", photo, "", *model).stderr == "Error: text '': empty or blank\n"
    long = ("--context", "word " * 100, "--text-policy", "error")
    assert run("score", photo, "a", "b", *long, *model).stderr.count("context: ") == 1


def test_debug_shows_the_traceback(tmp_path: Path, model: tuple[str, ...]) -> None:
    result = run("--debug", "score", tmp_path / "none.jpg", "a", *model)
    assert type(result.exception).__name__ == "ImageError"
    done = subprocess.run(
        [sys.executable, "-m", "descscore.cli", "--debug", "score", "none.jpg", "a", *model],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def test_every_command_and_option_is_documented() -> None:
    def walk(command: click.Command, path: str) -> None:
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts}"
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, f"{path} {name}")

    walk(main, "descscore")


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from descscore.cli import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "print(sorted({'torch', 'open_clip', 'gradio', 'PIL', 'numpy', 'peft', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_in_half_a_second() -> None:
    """Of the processor's time, which other work on the machine hardly changes."""
    times = []
    for _ in range(5):
        start = processor_seconds()
        subprocess.run([sys.executable, "-m", "descscore.cli", "--help"], capture_output=True, check=True)
        times.append(processor_seconds() - start)
    assert 0 < min(times) < 0.5


def processor_seconds() -> float:
    """Used so far by this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_many_texts_read_the_image_once(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import descscore.scorer as module

    calls = []
    real = module.load_image
    monkeypatch.setattr(module, "load_image", lambda source: calls.append(source) or real(source))
    photo = make_photo(tmp_path / "a.png", 0)
    DescScorer.from_pretrained(tiny_folder, device="cpu").score_batch([photo] * 4, list("abcd"))
    assert calls == [photo]


ESCAPES = "\x1b[31m\x07\x9b2J\u202e\u2066"


def test_a_terminal_obeys_no_text_and_no_file_name(
    tmp_path: Path, photo: Path, model: tuple[str, ...]
) -> None:
    text = f"A red {ESCAPES}cat."
    outputs = [
        run("score", photo, text, *model),
        run("score", photo, text, "--json", *model),
        run("compare", photo, "--description", text, "--caption", "Rex.", *model),
        run("explain", photo, text, *model),
        run("score", tmp_path / f"no{ESCAPES}ne.png", "A cat.", *model),
        run("eval", "preference", "--data", tmp_path / f"no{ESCAPES}ne.csv", *model),
    ]
    for result in outputs:
        assert not set(ESCAPES) - set("[31m2J") & set(result.output), result.output
    assert json.loads(outputs[1].output)[0]["text"] == text
    assert r"A red \u001b[31m" in outputs[0].output
    assert r"no\u001b[31m" in outputs[4].output


def test_what_is_shown_keeps_every_usual_character() -> None:
    usual = "Zwei Sätze:\n猫 «a» 👩\u200d🦯 \u05d0\u200f\u00a0"
    assert shown(usual) == usual
    assert shown("\t\r\udcff") == r"\t\r\udcff"
