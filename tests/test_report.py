"""The report of a study: what a reader finds on the page, whatever the study looks like."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from tensorboard.plugins.hparams import metadata

from sweep.hparams import columns
from sweep.metric import plain
from sweep.parameters import parameters_of
from sweep.report import build_report, figures
from sweep.report.reading import Reading, read
from sweep.report.smooth import smooth
from sweep.report.theme import DARK, LIGHT
from sweep.results import MomentumCurve, ResultSet
from sweep.space import parse_dimension
from sweep.terminal import spell
from tests.browser import screenshot
from tests.report_studies import (
    Page,
    confirmation,
    confirmed,
    profiled,
    some_without_batch_norm,
    study,
    trial,
)

FIGURES = ("surface", "dropout", "slices", "history", "importance", "learning")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    return study(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="module")
def page(results: ResultSet) -> Page:
    return Page(build_report(results))


@pytest.fixture(scope="module")
def confirmed_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(build_report(confirmed(tmp_path_factory.mktemp("confirmed"))))


def test_the_answer_comes_first(results: ResultSet, page: Page) -> None:
    answer = read(results).answer
    assert page.all("h1") == [answer.sentences[0]]
    assert page.all("p", "lead") == list(answer.sentences[1:])
    assert page.all("p", "tally") == ["32 trials: 23 complete, 8 pruned, 1 failed."]
    assert "validation data" in page.all("ul", "caveats")[0]
    best = results.best
    assert best is not None
    assert f"dropout {best.params['model.dropout']:.2g}" in page.all("strong")[0]


def test_a_confirmed_study_says_what_fresh_seeds_gave(confirmed_page: Page) -> None:
    answer = read(confirmed(confirmed_page.path.parents[1])).answer
    assert confirmed_page.all("h1") == [answer.sentences[0]]
    assert "on the test set (5 seeds)" in answer.sentences[0]
    caveats = confirmed_page.all("ul", "caveats")[0]
    assert answer.shrinkage in caveats and "the search's own" not in caveats
    assert confirmed_page.all("p", "tally")[0].endswith("; 15 trainings on fresh seeds.")
    chosen = answer.recommended
    assert chosen is not None
    assert confirmed_page.all("p", "value") == [
        plain(chosen.params[key]) for key in ("model.dropout", "model.bn_momentum")
    ]


def test_a_network_without_batch_norm_is_recommended_no_momentum(tmp_path: Path) -> None:
    results = some_without_batch_norm(tmp_path, 9)  # too few for an importance
    chosen = read(results).answer.recommended
    assert chosen is not None and chosen.params["model.norm"] == "none"
    page = Page(build_report(results))
    assert page.all("p", "value") == [plain(chosen.params["model.dropout"]), "none"]


@pytest.mark.parametrize("name", ["surface", "importance"])
def test_a_figure_that_fails_is_named_and_costs_no_other(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(reading: Reading, width: int) -> Figure:
        raise ValueError("Inconsistent <parameters> " + "and so on " * 100)

    results = study(tmp_path)
    build_report(results)
    monkeypatch.setitem(figures.LARGE if name in figures.LARGE else figures.SMALL, name, fail)
    page = Page(build_report(results))
    (said,) = caplog.messages
    assert said.startswith(f"the figure {name} could not be drawn: ValueError: Inconsistent <par")
    (line,) = page.all("p", "warning")
    assert line.startswith("This figure could not be drawn: ValueError: Inconsistent <parameters>")
    assert len(line) < 350
    assert name.capitalize() in page.all("h2")
    report = page.path.with_name("REPORT.md")
    assert "ValueError: Inconsistent &lt;parameters&gt;" in report.read_text()
    others = [f"figures/{other}.png" for other in FIGURES if other != name]
    assert re.findall(r"figures/.*?\.png", report.read_text()) == others
    assert {f"figures/{p.name}" for p in page.path.parent.glob("figures/*")} == set(others)
    assert len(page.rows()) == 32


def test_every_number_of_the_table_is_a_recorded_one(results: ResultSet, page: Page) -> None:
    rows = page.rows()
    assert len(rows) == 32
    for row in results.trials:
        figures = [row.value] if row.value is not None else []
        recorded = [row.number, *figures, *row.params.values()]
        recorded += [row.metrics["val_nll"]] if row.metrics else []
        recorded += [len(row.curve), row.seconds]
        assert [float(value) for value in rows[row.number]] == recorded
    ranked = sorted(results.complete, key=lambda t: -(t.value or 0.0))
    assert list(rows)[: len(ranked)] == [t.number for t in ranked]
    assert page.all("tr", "best")[0].startswith(f"{ranked[0].number}complete")
    assert page.all("span", "badge").count("pruned") == 8
    assert page.all("ul", "failures") == ["trial 13: loss is not finite at epoch 2"]


def test_the_page_needs_no_network_and_no_script(page: Page) -> None:
    assert not re.search(r"https?:|<script|<link|@import|url\((?!#)", page.text)
    ids = [a["id"] for _, a, _ in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a[k] for _, a, _ in page.found for k in ("href", "src") if k in a]
    assert targets and {t.removeprefix("#") for t in targets} <= set(ids)


def test_figures_take_every_colour_from_the_theme(page: Page) -> None:
    assert LIGHT.keys() == DARK.keys() and len(set(LIGHT.values())) == len(LIGHT)
    drawings = page.text[page.text.index("<svg") : page.text.rindex("</svg>")]
    assert "var(--best)" in drawings
    assert not re.search(r"(?:fill|stroke): #[0-9a-f]{6}", drawings)


def test_marks_say_their_trial_and_lead_to_its_row(page: Page) -> None:
    settings = [f"{value:.3g}" for value in trial(13).params.values()]
    words = f"trial 13 · dropout {settings[0]} · bn_momentum {settings[1]} · failed"
    assert (
        page.all("title").count(words) == 7
    )  # two widths of surface, dropout and slices, and a history
    assert {"href": "#trial-13", "tabindex": "-1"} in [a for tag, a, _ in page.found if tag == "a"]


def test_how_to_repeat_names_no_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = build_report(study(tmp_path / "sweeps" / "mnist"))
    code = Page(path).all("code")
    assert "python -m sweep +study=mnist" in code
    assert 'load_from_checkpoint("sweeps/mnist/checkpoints/best.ckpt")' in code[-1]
    for file in (path, path.with_name("REPORT.md")):
        assert str(tmp_path) not in file.read_text()
        assert "2.13.0" in file.read_text()


def test_the_page_is_the_same_wherever_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = study(tmp_path / "sweeps" / "mnist")
    pages = []
    for place, typed in (
        (tmp_path, "sweeps/mnist"),
        (tmp_path / "sweeps", "mnist"),
        (tmp_path / "sweeps" / "mnist", "../../sweeps/mnist"),
    ):
        monkeypatch.chdir(place)
        pages.append(build_report(replace(results, folder=Path(typed))).read_bytes())
    assert pages[0] == pages[1] == pages[2]
    moved = Page(build_report(replace(results, folder=tmp_path / "sweeps" / "moved")))
    assert f"tensorboard --logdir {tmp_path}/sweeps/moved" in moved.all("code")


def test_the_recorded_command_is_shown_as_it_was_typed(tmp_path: Path) -> None:
    typed = ["python", "-m", "sweep", "+study=mnist", "model.dropout=interval(0,0.5)"]
    page = Page(build_report(study(tmp_path, config={"command": typed})))
    assert page.all("code")[0] == "python -m sweep +study=mnist 'model.dropout=interval(0,0.5)'"


def test_the_markdown_report_shows_the_figures_beside_it(page: Page) -> None:
    report = page.path.with_name("REPORT.md")
    names = re.findall(r"figures/.*?\.png", report.read_text())
    assert names == [f"figures/{name}.png" for name in FIGURES]
    assert all(matplotlib.image.imread(report.parent / name).shape[1] >= 800 for name in names)
    assert "The best 20 of 32" in report.read_text()


def test_building_again_replaces_every_file_and_leaves_nothing_aside(tmp_path: Path) -> None:
    build_report(study(tmp_path, 3))
    page = build_report(study(tmp_path, 4))
    assert len(Page(page).rows()) == 4
    files = {p.relative_to(page.parent).as_posix() for p in page.parent.rglob("*") if p.is_file()}
    pictures = {
        f"figures/{name}.png" for name in ("surface", "dropout", "slices", "history", "learning")
    }
    assert files == {"index.html", "REPORT.md"} | pictures


def test_a_minimised_metric_has_its_lowest_trial_first(tmp_path: Path) -> None:
    rows = [trial(i, maximize=False) for i in range(32)]
    results = study(tmp_path, rows, metric="val_nll", direction="minimize")
    best = min(results.complete, key=lambda t: t.value or 0.0)
    page = Page(build_report(results))
    assert f"{best.value:.5f} nats on validation" in page.all("h1")[0]
    assert next(iter(page.rows())) == best.number


def test_of_many_trials_the_best_200_are_shown(tmp_path: Path) -> None:
    results = study(tmp_path, 500)
    page = Page(build_report(results))
    ranked = sorted(results.complete, key=lambda t: -(t.value or 0.0))
    assert list(page.rows()) == [t.number for t in ranked[:200]]
    assert "The best 200 of 500 trials" in page.text


def test_whatever_a_study_names_is_text(tmp_path: Path) -> None:
    odd = "<script>alert('$x^2$ & \"y\"')</script>"
    rows = [
        replace(t, params={odd: t.params["model.dropout"], "`a`|*b*": odd}, reason=f"{odd}\n|")
        for t in map(trial, range(32))
    ]
    page = build_report(study(tmp_path, rows, name=odd, search={}))
    assert "<script" not in page.read_text()
    assert Page(page).all("title")[0] == f"{odd} · sweep report"
    markdown = page.with_name("REPORT.md").read_text()
    assert "<script" not in re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)
    head, _, *rest = [
        line
        for line in markdown[markdown.index("## Trials") :].splitlines()
        if line.startswith("|")
    ]
    borders = [len(re.findall(r"(?<!\\)\|", line)) for line in (head, *rest[:20])]
    assert len(set(borders)) == 1


def odd_studies(folder: Path) -> dict[str, ResultSet]:
    rows = [trial(i) for i in range(32)]
    return {
        "no trials": study(folder, [], total=20),
        "all failed": study(folder, [replace(t, status="failed", value=None) for t in rows]),
        "none complete": study(folder, [t for t in rows if t.status != "complete"]),
        "one trial": study(folder, rows[:1]),
        "three trials": study(folder, rows[:3], total=32),
        "all running": study(folder, [replace(t, status="running", value=None) for t in rows]),
        "no parameters": study(folder, [replace(t, params={}) for t in rows], search={}),
        "one parameter": study(
            folder,
            [replace(t, params={"model.dropout": t.params["model.dropout"]}) for t in rows],
        ),
        "categories": study(
            folder,
            [
                replace(t, params={"optimizer": ("adam", "sgd", None)[t.number % 3], "b": True})
                for t in rows
            ],
            search={"optimizer": ["adam", "sgd", None]},
        ),
        "all equal": study(
            folder,
            [replace(t, params={"a": 0.0, "b": 3}, value=t.value and 0.5) for t in rows],
        ),
        "all zero": study(folder, [replace(t, value=t.value and 0.0) for t in rows], metric="loss"),
        "not a number": study(
            folder, [replace(t, value=math.nan if t.number == 4 else t.value) for t in rows]
        ),
        "not confirmed": confirmed(folder, 9, confirm=()),
        "confirmed by one seed": confirmed(folder, 9, confirm=confirmation("1st", 0, 0.3, 1)),
        "only the cumulative average": study(
            folder,
            [
                replace(t, momentum=MomentumCurve([None], [0.9], None, None))
                for t in map(profiled, range(9))
            ],
        ),
        "one momentum is not a number": study(
            folder,
            [
                replace(t, momentum=MomentumCurve([0.01, 0.1, 1.0], [0.9, math.nan, 0.95]))
                for t in map(profiled, range(9))
            ],
        ),
        "some without batch norm": some_without_batch_norm(folder),
        "conditional": study(
            folder, [replace(t, params=t.params if t.number % 2 else {}) for t in rows]
        ),
    }


@pytest.mark.parametrize("name", list(odd_studies(Path())))
def test_an_odd_study_has_a_report(name: str, tmp_path: Path) -> None:
    results = odd_studies(tmp_path)[name]
    page = Page(build_report(results))
    assert len(page.rows()) == len(results.trials)
    (headline,) = page.all("h1")
    assert ("No trial is complete" in headline) == (not read(results).complete)
    assert not re.search(r"\b(?:None|nan|inf)\b", " ".join([headline, *page.all("p", "lead")]))


def test_parameters_are_read_from_the_ranges_that_were_typed(tmp_path: Path) -> None:
    rows = [replace(t, params={**t.params, "a.lr": 0.1, "b.lr": 1}) for t in map(trial, range(4))]
    dropout, momentum, *others = parameters_of(study(tmp_path, rows))
    assert (dropout.name, dropout.log, dropout.low, dropout.high) == ("dropout", False, 0.0, 0.7)
    assert (momentum.log, momentum.low, momentum.high) == (True, 0.001, 1.0)
    assert momentum.place(0.001) == 0 and momentum.at(momentum.place(0.03)) == pytest.approx(0.03)
    assert [p.name for p in others] == ["a.lr", "b.lr"]


def test_the_axis_of_a_parameter_is_that_of_its_search(tmp_path: Path) -> None:
    search = {
        "a.width": "int(tag(log, interval(1, 64)))",
        "a.depth": "range(1, 10, 2)",
        "a.batch": "choice(1, 100)",
        "a.epochs": [5, 10],
    }
    params = [{"a.width": 2, "a.depth": 3, "a.batch": b, "a.epochs": 5 * b} for b in (1, 100)]
    rows = [replace(trial(i), params=params[i]) for i in range(2)]
    found = [(p.log, p.low, p.high) for p in parameters_of(study(tmp_path, rows, search=search))]
    assert found == [(True, 1, 64), (False, 1, 9), (True, 1, 100), (True, 5, 500)]


def test_a_parameter_has_one_name_everywhere(tmp_path: Path) -> None:
    search = {"optimizer.name": "choice(adam, sgd)", "a.b.lr": "interval(0, 1)", "c.lr": "a,b"}
    params = {"optimizer.name": "adam", "a.b.lr": 0.5, "c.lr": "a"}
    results = study(tmp_path, [replace(trial(0), params=params)], search=search)
    names = ["optimizer.name", "b.lr", "c.lr"]
    assert [p.name for p in parameters_of(results)] == names
    assert spell(params) == "optimizer.name adam  b.lr 0.5  c.lr a"
    (entry,) = columns({k: parse_dimension(k, v) for k, v in search.items()}, "val_accuracy").value
    table = metadata.parse_experiment_plugin_data(entry.metadata.plugin_data.content)
    assert [info.name for info in table.hparam_infos] == [*names, "status"]


def test_smoothing_finds_the_hill_under_noise() -> None:
    random = np.random.default_rng(0)
    points = random.random((60, 2))
    hill = np.exp(-6 * ((points - (0.4, 0.6)) ** 2).sum(axis=1))
    at = np.stack(np.meshgrid(*[np.linspace(0.1, 0.9, 17)] * 2), axis=-1).reshape(-1, 2)
    found = smooth(points, hill + random.normal(0, 0.05, 60), at)
    truth = np.exp(-6 * ((at - (0.4, 0.6)) ** 2).sum(axis=1))
    assert np.abs(found - truth).max() < 0.15
    assert at[found.argmax()] == pytest.approx((0.4, 0.6), abs=0.1)


def test_reporting_loads_neither_torch_nor_optuna_nor_pyplot() -> None:
    code = (
        "import sys; from pathlib import Path; from sweep.results import ResultSet; "
        "import sweep.report; bad = {'torch', 'optuna', 'hydra', 'matplotlib.pyplot'}; "
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_reaches_into_the_margins(
    confirmed_page: Page, tmp_path: Path, width: int, dark: bool
) -> None:
    picture = tmp_path / "page.png"
    screenshot(confirmed_page.path.as_uri(), picture, width, 9000, dark)
    pixels = np.round(matplotlib.image.imread(picture)[..., :3] * 255).astype(int)
    assert pixels.shape[1] == width
    paper = (DARK if dark else LIGHT)["paper"]
    colour = [int(paper[i : i + 2], 16) for i in (1, 3, 5)]
    assert (pixels[:, [*range(12), *range(-12, 0)]] == colour).all()
    assert (pixels != colour).any()
