"""The command line: output, exit codes, and errors of one line."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from wcwidth import wcswidth

from conftest import make_photo
from descscore import DescScorer, __version__
from descscore.cli import main
from descscore.errors import UsageError, shown
from descscore.explanations.explanation import Convergence, Explanation, WordParts
from descscore.explanations.terminal import to_text
from descscore.records import Score, band_of
from descscore.screen import Line, meaning, score_table, show_meaning


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


def test_score_as_text_is_a_table_that_explains_itself_with_the_signature_once(
    photo: Path, model: tuple[str, ...]
) -> None:
    result = run("score", photo, "A cat.", "word " * 100, "--text-policy", "truncate", *model)
    name, head, first, second, _, *legend, signature = result.output.splitlines()
    assert name == str(photo)
    assert first.index("A cat.") == second.index("word word") == head.index("text")
    assert (
        first.split()[0]
        == f"{DescScorer.from_pretrained(model[1], device='cpu').score(photo, 'A cat.').score:.2f}"
    )
    assert "text cut" in second
    assert "cut" not in first
    assert {line.partition(":")[0].strip() for line in legend} >= set(head.split()) - {"text"}
    assert signature.startswith(f"descscore:{__version__}|model:")
    assert result.output.count("descscore:") == 1
    assert not {"cosine", "clip_score", "tokens"} & set(head.split())


def test_verbose_adds_the_other_numbers(photo: Path, model: tuple[str, ...]) -> None:
    (row,) = json.loads(run("score", photo, "word " * 100, "-j", *model).output)
    assert (row["truncated"], row["windows"]) == (False, 2)
    _, head, line, *legend = run("score", photo, "word " * 100, "-v", *model).output.splitlines()
    assert {line.partition(":")[0].strip() for line in legend} >= set(head.split()) - {"text"}
    assert "cosine: -1 to 1; compare and rank with this" in legend
    cells = dict(zip(head.split(), line.split(), strict=False))
    assert cells["cosine"] == f"{row['cosine']:+.4f}"
    assert cells["clip_score"] == f"{row['clip_score']:.4f}"
    assert (cells["tokens"], cells["windows"]) == ("102", "2")


def test_a_model_with_references_says_how_a_text_stands_among_them(photo: Path) -> None:
    """Before, the terminal showed neither percentile nor probability, and nobody knew if 0.8 was much."""
    texts = ("A cat.", "Rex")
    rows = json.loads(run("score", photo, *texts, "-j").output)
    lines = run("score", photo, *texts).output.splitlines()
    assert re.split(r"\s{2,}", lines[1].strip()) == ["score", "fit", "is description", "text"]
    for row, line, text in zip(rows, lines[2:], texts, strict=False):
        band = band_of(row["percentile"])
        assert band is not None
        shown = f"{band.name} {row['percentile']:.0f} %"
        probability = f"{100 * row['description_probability']:.0f} %"
        assert re.split(r"\s{2,}", line.strip()) == [f"{row['score']:.2f}", shown, probability, text]
        assert f"  {band.name}: {band.meaning}" in lines


def test_several_images_are_scored_with_each_text(tmp_path: Path, model: tuple[str, ...]) -> None:
    photos = [make_photo(tmp_path / f"{name}.png", seed) for seed, name in enumerate("ab")]
    rows = json.loads(run("score", *photos, "--text", "A cat.", "--text", "Rex", "-j", *model).output)
    assert [(row["image"], row["text"]) for row in rows] == [
        (str(photo), text) for photo in photos for text in ("A cat.", "Rex")
    ]


def test_images_in_place_of_texts_are_noticed(tmp_path: Path, model: tuple[str, ...]) -> None:
    """Before, ``score *.png`` scored the names of all other pictures as texts of the first."""
    photos = [make_photo(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abc")]
    result = run("score", *photos, *model)
    assert result.exit_code == 2
    assert f"{photos[1]}, {photos[2]}: an image file" in result.stderr
    assert "--text" in result.stderr
    assert run("score", photos[0], "a drawing named none.png", *model).exit_code == 0
    theirs = run("score", *photos, "Rex's bed", *model).stderr.rstrip()
    proposed = shlex.split(theirs.partition("descscore ")[2].replace(" ... ", f" {photos[2]} "))
    assert proposed[:2] == ["score", str(photos[0])]
    assert proposed[-2:] == ["--text", "Rex's bed"]
    swapped = run("score", "The face of a cat.", photos[0], *model)
    assert (swapped.exit_code, swapped.stderr) == (
        2,
        f"Error: the image comes first: descscore score {photos[0]} TEXT\n",
    )


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_an_empty_one(
    photo: Path, model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """Services and ``>&-`` close them."""
    monkeypatch.setattr(sys, closed, None)
    text = "-" if closed == "stdin" else "A cat."
    with pytest.raises(UsageError if closed == "stdin" else SystemExit):
        main(["--debug", "score", str(photo), text, *model])


def test_texts_come_from_files_and_standard_input(
    tmp_path: Path, photo: Path, model: tuple[str, ...]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("A cat.\n\nTwo dogs.\r\n", encoding="utf-8")
    rows = json.loads(run("score", photo, f"@{file}", "@@home", "-j", *model).output)
    assert [row["text"] for row in rows] == ["A cat.", "Two dogs.", "@home"]
    file.write_text("A cat\non a wall.\n", encoding="utf-8")
    args = ("compare", photo, "--description", f"@{file}", "--caption", "-", "-j", *model)
    parsed = json.loads(CliRunner().invoke(main, [str(arg) for arg in args], input="Our Minka\n").output)
    direct = run(
        "compare", photo, "--description", "A cat\non a wall.", "--caption", "Our Minka", "-j", *model
    )
    assert parsed == json.loads(direct.output)
    given = run("score", photo, "A cat.", "--reference", "A cat", "--reference", "on a wall.", "-j", *model)
    assert run("score", photo, "A cat.", "--reference", f"@{file}", "-j", *model).output == given.output
    for args in (("score", photo, "@none.txt"), ("explain", photo, "@none.txt")):
        result = run(*args, *model)
        assert result.exit_code == 2
        assert "@none.txt: no such file" in result.stderr
    file.write_bytes(b"\xff\xfe\xff")
    assert str(file) in run("score", photo, f"@{file}", *model).stderr
    file.write_text(" \n")
    assert "holds no text" in run("score", photo, f"@{file}", *model).stderr


@pytest.mark.parametrize(("no_color", "dim"), [(None, True), ("1", False)])
def test_a_terminal_gets_its_width_and_a_dim_signature_unless_no_color(
    photo: Path,
    model: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    no_color: str | None,
    dim: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", "COLUMNS": "60", "NO_COLOR": no_color}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    parent, child = pty.openpty()
    with os.fdopen(child, "w") as terminal, contextlib.redirect_stdout(terminal):
        main(["score", str(photo), "A cat sits on a wall. " * 6, *model], standalone_mode=False)
    data = b""
    with contextlib.suppress(OSError):  # a terminal that its last program has left is an error
        while part := os.read(parent, 4096):
            data += part
    os.close(parent)
    lines = data.decode().splitlines()
    assert ("\x1b[2m" in lines[-1]) == dim
    assert ("\x1b" in data.decode()) == dim
    table = [line for line in lines[1:] if line and "\x1b" not in line and "cat" in line]
    assert len(table) > 1
    assert all(len(line) <= 60 for line in table)
    assert "".join(table).count("wall") == 6


FULL = Score(
    score=0.97,
    cosine=0.39,
    clip_score=0.8,
    description_probability=0.96,
    percentile=83,
    tokens=180,
    truncated=True,
    windows=3,
    signature="s",
    contextual_score=-0.25,
    context_truncated=True,
    reference_score=0.8,
    references_truncated=True,
)
"""A score with every column."""


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 120, 160])
@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("kind", ["", "description"])
def test_no_table_is_wider_than_the_terminal(width: int, verbose: bool, kind: str) -> None:
    plain = replace(FULL, contextual_score=None, reference_score=None, truncated=False, windows=1)
    texts = ("A ginger cat with green eyes. " * 8, "Rex " * 30)
    for score in (FULL, replace(plain, context_truncated=None, references_truncated=None)):
        table = score_table([Line(text, score, kind) for text in texts], verbose, width)
        assert max(map(len, table.splitlines())) <= width
        words = table.split()
        assert (words.count("ginger"), words.count("Rex")) == (8, 30)
        assert table.index("0.97") < table.index("ginger") < table.index("Rex")
        assert score.contextual_score is None or "-0.2500" in table


WIDE = {
    "Chinese": "\u732b\u5750\u5728\u684c\u4e0a" * 20,
    "mixed": "\u732b\u5750 on the \u684c\u4e0a, " * 20,
    "accents": "e\u0301" * 200,
    "emoji": "\U0001f415" * 60,
    "full width": "\uff21" * 100,
}


@pytest.mark.parametrize("width", [20, 24, 40, 60, 100])
@pytest.mark.parametrize("text", WIDE.values(), ids=list(WIDE))
def test_wide_characters_take_two_columns(width: int, text: str) -> None:
    """Else each line of a Chinese text breaks once more at the terminal's edge."""
    table = score_table([Line(text, FULL), Line("Rex", FULL)], verbose=True, width=width)
    assert max(map(wcswidth, table.splitlines())) <= max(width, 20)
    assert "".join(text.split()) in "".join(table.split())
    words = (WordParts(text[:30], 0, 30, 9, 0.1, None, None, None, 0.1, None),)
    explanation = Explanation(text, FULL, words, Convergence(0.1, 0.0, 8, True), None, None)
    lines = to_text(explanation, width=width).splitlines()
    assert max(map(wcswidth, lines)) <= max(width, 30)


def test_all_sentences_of_a_comparison_fit_the_terminal(
    photo: Path, model: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descscore.screen.text_width", lambda: 40)
    texts = ("--description", "A red car stands in front of a house.", "--caption", "My first one.")
    name, *lines, _signature = run("compare", photo, *texts, *model).output.splitlines()
    assert name == str(photo)
    assert max(map(len, lines)) <= 40
    assert "The model prefers the" in " ".join(" ".join(lines).split())


def test_the_legend_fits_the_terminal_and_names_every_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head = re.split(r"\s{2,}", score_table([Line("a", FULL)], verbose=True).splitlines()[0].strip())
    assert set(head) - {"text"} <= {line.partition(":")[0] for line in meaning([FULL], verbose=True)}
    monkeypatch.setattr("descscore.screen.text_width", lambda: 40)
    show_meaning([FULL], verbose=True)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 40
    assert "no fixed range; compare only with the same context" in " ".join(printed.split())


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
    assert f"The {parsed['preferred']} fits the picture better" in text
    share = parsed["probability"] if parsed["preferred"] == "description" else 1 - parsed["probability"]
    assert f"The model prefers the {parsed['preferred']} with probability {share:.3f}." in text


@pytest.mark.parametrize(
    "args",
    [
        ("score",),
        ("score", "a.jpg"),
        ("score", "a.jpg", "a", "--nonesuch"),
        ("compare", "a.jpg", "--description", "a"),
        ("nonesuch",),
        ("audit", "https://example.org", "--no-model"),
        ("score", "a.jpg", "a", "--text-policy", "nonesuch"),
        ("score", "a.jpg", "a", "--device", "nonesuch"),
    ],
)
def test_wrong_use_exits_2(args: tuple[str, ...], photo: Path) -> None:
    result = run(*(photo if arg == "a.jpg" else arg for arg in args))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    if "audit" in args:
        assert "https://example.org: nothing is fetched; download the page first" in result.output


def test_failed_work_exits_1_with_one_line(tmp_path: Path, photo: Path, model: tuple[str, ...]) -> None:
    for args, mention in (
        (("score", tmp_path / "none.jpg", "a", *model), "none.jpg"),
        (("score", photo, "", *model), "empty or blank"),
        (("score", photo, "a", "--model", "nonesuch"), "'nonesuch'"),
        (("score", "https://example.org/a.jpg", "a", *model), "never fetched"),
        (("score", "file:///tmp/my%20x.jpg", "a", *model), "write the path /tmp/my x.jpg"),
        (
            ("score", "data:image/png;base64,iVBO", "a", *model),
            "this address holds the image itself; save it",
        ),
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
    both = run("score", missing, photo, tmp_path, "--text", "a", *model).stderr
    hint = "; with --text, all other arguments are images"
    assert both == f"Error: {missing}: no such file{hint}; {tmp_path}: is a folder, not an image file{hint}\n"
    assert run("score", photo, "a", "", *model).stderr == "Error: text '': empty or blank\n"
    assert run("explain", photo, "", *model).stderr == "Error: text '': empty or blank\n"
    long = ("--context", "word " * 100, "--text-policy", "error")
    assert run("score", photo, "a", "b", *long, *model).stderr.count("context: ") == 1


def test_an_image_that_cannot_be_resized_is_named(tmp_path: Path, model: tuple[str, ...]) -> None:
    line = tmp_path / "line.png"
    Image.new("1", (1, 20_000_000)).save(line)
    reason = "1x20000000 pixels take over 2,147,483,648 bytes to resize"
    assert run("score", line, "a", *model).stderr == f"Error: {line}: {reason}\n"


@pytest.mark.parametrize(
    "args", [("score", "none.jpg", "a"), ("compare", "none.jpg", "--description", "a", "--caption", "b")]
)
def test_a_wrong_path_is_said_before_a_model_is_loaded(
    args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **given: object) -> None:
        raise AssertionError("loaded a model")

    monkeypatch.setattr(DescScorer, "from_pretrained", never)
    assert run(*args).stderr == "Error: none.jpg: no such file\n"


@pytest.mark.parametrize("command", [("audit",), ("score", "none.jpg"), ("batch", "--output", "out")])
def test_the_content_of_a_file_in_place_of_its_name_is_not_repeated(command: tuple[str, ...]) -> None:
    content = "iVBORw0KGgo" + "A" * 45_000
    result = run(*command, f"@{content}" if command[0] == "score" else content)
    assert result.exit_code
    assert len(result.stderr) < 600
    assert content[:50] in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("score", "a.jpg", "a", "--context", "@none.txt"),
        ("score", "a.jpg", "a", "--reference", "@none.txt"),
        ("compare", "a.jpg", "--description", "a", "--caption", "b", "--context", "@none.txt"),
        ("explain", "a.jpg", "a", "--source", "@none.txt"),
    ],
)
def test_a_file_of_texts_that_is_missing_is_said_before_a_model_is_loaded(
    args: tuple[str, ...], photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **given: object) -> None:
        raise AssertionError("loaded a model")

    monkeypatch.setattr(DescScorer, "from_pretrained", never)
    result = run(*(photo if arg == "a.jpg" else arg for arg in args))
    assert result.stderr.startswith("Error: @none.txt: no such file")


@pytest.mark.parametrize(
    ("args", "usage"),
    [
        (("compare", "a.jpg", "a", "b"), "compare --description TEXT --caption TEXT [OPTIONS] IMAGE"),
        (("batch", "a.csv"), "batch --output PATH [OPTIONS] INPUT"),
        (("judgments", "export"), "judgments export --database PATH --output "),
    ],
)
def test_a_missing_option_is_answered_with_all_that_are_needed(args: tuple[str, ...], usage: str) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert usage in result.stderr.splitlines()[0]
    assert "Missing option" in result.stderr


def test_debug_shows_the_traceback(tmp_path: Path, model: tuple[str, ...]) -> None:
    missing = tmp_path / "none.jpg"
    for args in (
        ("--debug", "score", missing, "a", *model),
        ("score", missing, "a", *model, "--debug"),
        ("score", "--debug", missing, "a", *model),
    ):
        assert type(run(*args).exception).__name__ == "ImageError"
    assert type(run("score", missing, "a", "--model", "./none", "--debug").exception).__name__ == "ModelError"
    nested = run("judgments", "export", "--database", tmp_path / "none.db", "-o", tmp_path / "out", "--debug")
    assert type(nested.exception).__name__ == "StorageError"
    assert "no such file" in run("score", missing, "a", *model).stderr
    done = subprocess.run(  # fails before torch is imported
        [sys.executable, "-m", "descscore.cli", "--debug", "score", "none.jpg", "a", "--model", "./none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr
    assert done.returncode == 1


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and everything below it, each with its names; the first has none."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


COMMANDS = [names for names, _ in commands(main)]


@pytest.mark.parametrize("names", COMMANDS[1:], ids=" ".join)
def test_debug_may_stand_before_and_behind_every_command(names: tuple[str, ...]) -> None:
    for place in range(len(names) + 1):  # --help is read after all options are known
        result = run(*names[:place], "--debug", *names[place:], "--help")
        assert result.exit_code == 0, result.output
        assert "Usage: " in result.output


def test_no_list_of_commands_cuts_a_sentence() -> None:
    for names in COMMANDS:
        _, _, listed = run(*names, "--help").output.partition("\nCommands:\n")
        assert "..." not in listed


def test_a_wrong_path_of_a_model_is_answered_before_torch_is_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from descscore.cli import main; "
        "done = CliRunner().invoke(main, ['score', 'a.jpg', 'a', '--model', './nothing']); "
        "print(done.stderr, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Error: model './nothing': no such folder\n False\n"


def test_every_command_and_option_is_documented() -> None:
    for path, command in commands(main):
        assert command.help, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts}"


def test_frequent_options_have_the_same_letter_everywhere() -> None:
    letters = {"--model": "-m", "--output": "-o", "--json": "-j", "--verbose": "-v"}
    for path, command in commands(main):
        for parameter in command.params:
            for name in set(parameter.opts) & set(letters):
                assert letters[name] in parameter.opts, path


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
    real = module.load_pixels
    monkeypatch.setattr(
        module, "load_pixels", lambda source, spec: calls.append(source) or real(source, spec)
    )
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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("batch", "nope.csv", "-o", "out"), "nope.csv: no such file or folder"),
        (("batch", "pairs.csv", "-o", "out", "-m", "./nope"), "model './nope': no such folder"),
        (("batch", "pairs.csv", "-o", "out", "-m", "runs/of/mine"), "model 'runs/of/mine': no such folder"),
        (("serve", "--port", "0", "-m", "./nope"), "model './nope': no such folder"),
        (("serve", "--port", "0", "--study", "nope.csv", "--database", "a.db"), "nope.csv: No such file"),
        (("serve", "--port", "0", "--study", "pairs.csv", "--database", "no/a.db"), "there is no folder no"),
        (
            ("serve", "--port", "0", "--study", "pairs.csv", "--database", "a.db", "--consent", "no.txt"),
            "no.txt: No such file",
        ),
        (("eval", "human", "--data", "nope"), "nope"),
        (("eval", "human", "--data", "nope", "--ratings", "nope.csv"), "nope.csv: No such file"),
        (
            ("eval", "human", "--data", "x", "--ratings", "own.csv", "--scores", "nope.csv"),
            "nope.csv: No such",
        ),
        (("eval", "human", "--data", "x", "--ratings", "own.csv", "--model", "./nope"), "'./nope': no such"),
        (("train", "--data", "pairs.csv", "-o", "out", "--base", "./nope"), "model './nope': no such folder"),
        (("train", "--data", "nope.csv", "-o", "out"), "nope.csv: no such file or folder"),
    ],
)
def test_a_wrong_path_is_said_before_torch_is_imported(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """torch takes seconds. Here its import fails, so nothing that needs it can come first."""
    (tmp_path / "pairs.csv").write_text("image,text\na.png,A dog.\n")
    rows = "".join(f"Text {i},r{j},overall,{i + j},a\n" for i in range(5) for j in range(3))
    (tmp_path / "own.csv").write_text("item,rater,question,value,group\n" + rows)
    code = "import sys; sys.modules['torch'] = None; from descscore.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode in (1, 2), done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_wants_no_more_lines_gets_no_complaint() -> None:
    code = (
        "import click; from descscore.options import Group, echo\n"
        "@click.group(cls=Group)\ndef main(): pass\n"
        "@main.command()\ndef lines(): [echo('line ' * 1000) for _ in range(1000)]\n"
        "main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "lines"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"line "
        process.stdout.close()  # as ``head`` does
        assert process.stderr.read() == b""
    assert process.returncode == 1
