"""``descscore audit`` as a user runs it: exit codes, options, files, and what must not be started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from audited_documents import write_odt
from click.testing import CliRunner, Result

from descscore.cli import main
from descscore.demo import PHOTOS
from pictures import make_photo

PAGE = """<!DOCTYPE html>
<html lang="en"><title>Flags</title>
<p>Text</p>
<img src="a.jpg" alt="{alt}">
</html>
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    make_photo(folder / "a.jpg", 0)
    (folder / "good.html").write_text(PAGE.format(alt="A brown dog runs over wet sand."))
    (folder / "bad.html").write_text(PAGE.format(alt="IMG_1234.jpg"))
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def test_a_clean_page_ends_with_0_and_one_with_an_error_with_1(site: Path) -> None:
    clean = run("--no-model", site / "good.html")
    assert (clean.exit_code, clean.output) == (
        0,
        "1 image in 1 document: 0 errors, 0 warnings, 0 to review\n",
    )
    bad = run("--no-model", site)
    assert bad.exit_code == 1
    assert bad.output.splitlines()[0] == f'{site / "bad.html"}:4:1 T03 a.jpg: "IMG_1234.jpg" is a file name'


@pytest.mark.parametrize(("name", "code"), [("good.html", 0), ("bad.html", 1)])
def test_the_exit_code_holds_for_a_reader_that_wants_no_lines(
    site: Path, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as ``head`` does
    with (
        open(writer, "w", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
        pytest.raises(SystemExit) as ended,
    ):
        main(["audit", "--no-model", str(site / name)])
    assert ended.value.code == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--ignore", "T03"], 0),
        (["--ignore", "file-name,T01"], 0),
        (["--select", "T01"], 0),
        (["--select", "T"], 1),
        (["--fail-on", "warning"], 1),  # an error is worse
        (["--fail-on", "review"], 1),
        (["--fail-on", "warning", "--ignore", "T03"], 0),
        (["--fail-on", "T05"], 0),
        (["--fail-on", "none"], 0),
        (["--fail-on", "T03"], 1),
        (["--exclude", "bad*"], 0),
    ],
)
def test_options_choose_what_fails(site: Path, options: list[str], code: int) -> None:
    assert run("--no-model", site, *options).exit_code == code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--select", "X1"], "X1"),
        (["--fail-on", "T99"], "T99"),
        (["--root", "https://example.org/"], "URL=FOLDER"),
        (["--root", "https://example.org/=gone"], "gone"),
        (["--baseline", "gone.json"], "gone.json"),
        (["--format", "pdf"], "pdf"),
        (["--jobs", "0"], "0"),
        (["no such folder"], "no such folder"),
        (["--output", "gone/report.txt"], "gone is not a folder"),
        (["--write-baseline", "gone/known.json"], "gone is not a folder"),
        (["--ignore", "no-such-rule"], "missing-text"),
        (["--output", "."], "is a folder"),
        (["--write-baseline", "."], "is a folder"),
    ],
)
def test_wrong_use_ends_with_2_and_says_what_is_wrong(site: Path, options: list[str], said: str) -> None:
    result = run("--no-model", site, *options)
    assert result.exit_code == 2
    assert said in result.output


def test_an_audit_that_cannot_run_does_not_end_as_one_that_found_something(site: Path) -> None:
    result = run(site, "--model", site / "no-model")
    assert result.exit_code == 2
    assert "no-model" in result.output


def test_any_number_of_processes_finds_the_same(site: Path) -> None:
    (site / "broken.html").write_text(PAGE.replace("a.jpg", "b.jpg").format(alt="A dog."))
    (site / "b.jpg").write_bytes((site / "a.jpg").read_bytes()[:60])
    one, two = (run("--no-model", site, "--format", "json", "--jobs", jobs).output for jobs in (1, 2))
    assert one == two
    assert "F02" in one


def test_the_folder_of_paths_that_begin_with_a_slash(site: Path) -> None:
    (site / "files").mkdir()
    (site / "a.jpg").rename(site / "files" / "a.jpg")
    (site / "bad.html").unlink()
    page = (site / "good.html").read_text()
    (site / "good.html").write_text(
        page.replace("a.jpg", "/a.jpg") + '<img src="//example.org/a.jpg" alt="x y">'
    )
    assert run("--no-model", site).exit_code == 1
    found = run("--no-model", site, "--root", f"/={site / 'files'}")
    assert found.exit_code == 0
    assert "Not looked at" in found.output  # an address with a host is no such path
    assert "Not looked at" not in run("--no-model", site, "--root", f"//example.org/={site / 'files'}").output


def test_a_baseline_silences_what_was_there_and_nothing_new(site: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    assert run("--no-model", site, "--write-baseline", known).exit_code == 0
    (site / "bad.html").write_text("\n\n\n" + PAGE.format(alt="IMG_1234.jpg"))
    left = run("--no-model", site, "--baseline", known)
    assert left.exit_code == 0
    assert "Known findings, which the baseline leaves out: 1" in left.output
    (site / "bad.html").write_text(PAGE.format(alt="IMG_9999.jpg"))
    assert run("--no-model", site, "--baseline", known).exit_code == 1
    (site / "bad.html").write_text(PAGE.format(alt="IMG_1234.jpg") + PAGE.format(alt="IMG_9999.jpg"))
    assert run("--no-model", site, "--baseline", known, "--write-baseline", known).exit_code == 0
    assert run("--no-model", site, "--baseline", known).exit_code == 0


def test_a_baseline_that_is_written_anew_keeps_what_it_knew(site: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    assert run("--no-model", site, "--write-baseline", known).exit_code == 0
    (site / "new.html").write_text(PAGE.format(alt="IMG_9999.jpg"))
    assert run("--no-model", site, "--baseline", known, "--write-baseline", known).exit_code == 0
    assert run("--no-model", site, "--baseline", known).exit_code == 0


@pytest.mark.parametrize("form", ["text", "json", "csv", "html", "sarif", "junit"])
def test_every_report_goes_to_a_file_in_one_step(site: Path, tmp_path: Path, form: str) -> None:
    output = tmp_path / "report"
    output.write_text("old")
    assert run("--no-model", site, "--format", form, "--output", output).exit_code == 1
    text = output.read_text(encoding="utf-8")
    assert "file name" in text
    assert run("--no-model", site, "--format", form, "--output", tmp_path / "gone" / "report").exit_code == 2
    assert [path.name for path in tmp_path.iterdir() if ".part" in path.name] == []


def test_a_document_cannot_send_escapes_to_the_terminal(site: Path) -> None:
    (site / "bad.html").write_text(PAGE.format(alt="&#x9b;31m \x1b[31m.jpg"))
    for form in ("text", "json", "csv", "html", "sarif", "junit"):
        output = run("--no-model", site, "--format", form, "--select", "all").output
        assert not {"\x1b", "\x9b"} & set(output), form


def test_without_a_model_torch_is_not_imported(site: Path) -> None:
    code = (
        "import sys; from descscore.cli import main; "
        f"main(['audit', '--no-model', {str(site)!r}], standalone_mode=False); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_bundled_model_finds_swapped_texts_and_leaves_right_ones(tmp_path: Path) -> None:
    descriptions = [photo.description for photo in PHOTOS]
    swapped = [descriptions[1], descriptions[0], *descriptions[2:]]
    for name, texts in (("right", descriptions), ("swapped", swapped)):
        images = "\n".join(
            f'<p>{number}</p><img src="{name}{number}.png" alt="{text}">' for number, text in enumerate(texts)
        )
        (tmp_path / f"{name}.html").write_text(f'<html lang="en"><title>x</title>{images}</html>')
        for number, photo in enumerate(PHOTOS):
            (tmp_path / f"{name}{number}.png").write_bytes(photo.find().read_bytes())
    result = run(tmp_path, "--format", "json", "--jobs", "1")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)
    by_page = {
        page: [[one["code"] for one in row["findings"]] for row in rows if page in row["document"]]
        for page in ("right", "swapped")
    }
    assert by_page["right"] == [[]] * len(PHOTOS)
    assert ["P02" in found for found in by_page["swapped"]] == [True, True] + [False] * (len(PHOTOS) - 2)
    assert all(row["percentile"] is not None for row in rows)


def test_what_is_not_judged_says_why(tmp_path: Path) -> None:
    make_photo(tmp_path / "a.jpg", 0)
    texts = {
        "A bar chart of rain by month.": "chart",
        "The logo of the club.": "logo",
        "2 + x = 7": "equation",
    }
    images = "\n".join(f'<p>a</p><img src="a.jpg" alt="{text}">' for text in texts)
    more = (
        '<p lang="de"><img src="a.jpg" alt="Ein Hund."></p><a href="x"><img src="a.jpg" alt="Home page"></a>'
    )
    small = '<img src="a.jpg" alt="A dog." width="20" height="20">'
    (tmp_path / "page.html").write_text(f'<html lang="en"><title>x</title>{images}{more}{small}</html>')
    rows = json.loads(run(tmp_path, "--format", "json", "--jobs", "1", "--ignore", "T08").output)
    rows.sort(key=lambda row: (row["line"], row["column"]))
    reasons = [row["not_judged"] for row in rows]
    for reason, word in zip(reasons, [*texts.values(), "language", "link", "48 pixels"], strict=True):
        assert word in reason
    assert all(row["findings"] == [] and row["score"] is not None for row in rows)


@pytest.mark.parametrize(("mark", "codes"), [("", []), ("VCLMTF", []), ("some words", ["F02"])])
def test_a_drawing_of_office_is_a_format_that_is_not_read_and_no_damage(
    tmp_path: Path, mark: str, codes: list[str]
) -> None:
    image = '<draw:image xlink:href="Pictures/b.emf"/><svg:desc>Rain by month</svg:desc>'
    document = write_odt(tmp_path / "a.odt", f"<text:p><draw:frame>{image}</draw:frame></text:p>")
    with zipfile.ZipFile(document, "a") as archive:
        metafile = b"\x01\0\0\0l\0\0\0" + b"\0" * 32 + b" EMF"
        archive.writestr("Pictures/b.emf", mark.encode() + metafile + b"\0" * 99)
    (row,) = json.loads(run("--no-model", "--format", "json", document).output)
    assert [one["code"] for one in row["findings"]] == codes


def test_the_report_of_an_earlier_audit_is_no_page_of_the_site(site: Path) -> None:
    before = run("--no-model", site).output
    run("--no-model", site, "--format", "html", "--output", site / "report.html")
    assert (site / "report.html").exists()
    passed_over = "Reports of earlier audits, which are passed over: 1\n"
    after = run("--no-model", site).output
    assert passed_over in after
    assert after.replace(passed_over, "") == before
    rows = json.loads(run("--no-model", site, "--format", "json").output)
    (row,) = (row for row in rows if row["document"].endswith("report.html"))
    assert (row["findings"], "earlier audit" in row["not_judged"]) == ([], True)


def test_a_page_that_speaks_of_a_report_is_read(site: Path) -> None:
    mark = '<meta name="generator" content="descscore audit 0.1.0">'
    for text in (f"<!-- {mark} -->", f"<p>text</p>{mark}", f"<textarea>{mark}</textarea>"):
        (site / "page.html").write_text(PAGE.format(alt="").replace("<title>", f"{text}<title>", 1))
        assert "passed over" not in run("--no-model", site / "page.html").output
