"""Configurations: every mistake has its line, all lines come at once, and good ones make a plan."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dropnorm.data.idx import DIMENSIONS, PACKAGED, TRAIN_LABELS
from sweep.__main__ import main
from sweep.compose import conf_folder
from sweep.config import Plan, make_plan
from sweep.errors import ConfigError

EXAMPLE = "type for example"
STUDIES = "fashion_mnist|mnist|momentum|synthetic|tutorial"
GRAMMAR = "interval(a,b), tag(log,interval(a,b)), choice(x,y) or range(start,stop,step)"
NAME = (
    "letters, digits, '.', '_' or '-', 64 at most, the first no sign, in quotes if they are a "
    "number"
)
RATE = "expected a number from 0 to below 1"
MOMENTUM = "expected a number above 0 up to 1, or null"
IDX = ", ".join(DIMENSIONS)
LONG = "x" * 300

# A command line (after `python -m sweep`), and all that it prints: what was expected, what came,
# what to type next.
BAD = [
    # studies and groups
    ("", f"study.name: missing; type +study={STUDIES}, or study.name=NAME"),
    ("+study=mnst", "study: no study mnst; did you mean mnist?"),
    (
        "+study=huh",
        "study: no study huh; known: fashion_mnist, mnist, momentum, synthetic, tutorial",
    ),
    (
        "study=mnist",
        "study: expected +study=NAME with a plus, got study=mnist; did you mean +study=mnist?",
    ),
    (
        "+study=mnist,tutorial",
        "study: expected one study, got mnist,tutorial; run them one after the other",
    ),
    ("+study=mnist sampler=tpee", "sampler: no sampler tpee; did you mean tpe?"),
    ("+study=mnist pruner=ahsa", "pruner: no pruner ahsa; did you mean asha?"),
    ("+study=mnist executor=lcoal", "executor: no executor lcoal; did you mean local?"),
    ("+study=mnist model=ccn", "model: no model ccn; did you mean cnn?"),
    (
        "+study=mnist model=null",
        "model=null: Config group override must be a string or a list. Got NoneType; "
        "change it or leave it out",
    ),
    # keys
    (
        "+study=mnist modle.dropout=0.3",
        "modle.dropout: unknown key; did you mean model.dropout?",
    ),
    (
        "+study=mnist model.dropuot=0.3",
        "model.dropuot: unknown key; did you mean model.dropout?",
    ),
    (
        "+study=mnist model.dropuot=interval(0,0.3)",
        "search.model.dropuot: unknown key; did you mean model.dropout?",
    ),
    ("+study=mnist +model.drpout=0.3", "model.drpout: unknown key; did you mean model.dropout?"),
    ("+study=mnist dropout=0.3", "dropout: unknown key; did you mean model.dropout?"),
    ("+study=mnist trials=2.5", "trials: unknown key; did you mean study.trials?"),
    (
        "+study=mnist huh=1",
        "huh: unknown key; the sections are model, data, optimizer, trainer, sampler, pruner, "
        "executor, study, retrofit, confirm; --cfg job shows their keys",
    ),
    (
        "+study=mnist model.kernel=5",
        "model.kernel: unknown key where model.network is mlp; choose model=cnn",
    ),
    (
        "+study=mnist trainer.limit_train_batches=0.5",
        "trainer.limit_train_batches: not set so far; add it with a plus: "
        "+trainer.limit_train_batches=0.5",
    ),
    (
        "+study=mnist ~model.dropout",
        f"model.dropout: missing; choose model=mlp, or {EXAMPLE} model.dropout=0.3",
    ),
    ("+study=tutorial ~data", "data: expected a group of settings, got null; choose one of data/"),
    (
        "+study=mnist search.model.dropout=3",
        "search.model.dropout=3: expected the range itself; type model.dropout=RANGE",
    ),
    # types and values
    (
        "+study=mnist study.trials=abc",
        f"study.trials: expected a whole number from 1 up, got abc; {EXAMPLE} study.trials=20",
    ),
    (
        "+study=mnist study.trials=2.5",
        f"study.trials: expected a whole number from 1 up, got 2.5; {EXAMPLE} study.trials=20",
    ),
    (
        "+study=mnist 'study.trials=\"5\"'",
        f'study.trials: expected a whole number from 1 up, got "5"; {EXAMPLE} study.trials=20',
    ),
    (
        "+study=mnist study.timeout_s=-1",
        f"study.timeout_s: expected a number above 0 or null, got -1; {EXAMPLE} "
        "study.timeout_s=600",
    ),
    (
        "+study=mnist model.dropout=1.0",
        f"model.dropout: {RATE}, got 1.0; {EXAMPLE} model.dropout=0.3",
    ),
    (
        "+study=mnist model.dropout=-0.1",
        f"model.dropout: {RATE}, got -0.1; {EXAMPLE} model.dropout=0.3",
    ),
    (
        "+study=mnist model.bn_momentum=0",
        f"model.bn_momentum: {MOMENTUM}, got 0; {EXAMPLE} model.bn_momentum=0.1",
    ),
    (
        "+study=mnist model.bn_momentum=2",
        f"model.bn_momentum: {MOMENTUM}, got 2; {EXAMPLE} model.bn_momentum=0.1",
    ),
    (
        "+study=mnist optimizer.name=[adam]",
        "optimizer.name: expected one of adam, adamw, sgd, got [adam]; choose optimizer=adam",
    ),
    (
        "+study=mnist optimizer.lr=inf",
        f"optimizer.lr: expected a number above 0, got inf; {EXAMPLE} optimizer.lr=0.01",
    ),
    (
        "+study=mnist model.activation=rleu",
        "model.activation: expected one of relu, gelu, silu, selu, tanh, sigmoid, got rleu; "
        "did you mean relu?",
    ),
    (
        "+study=mnist model.hidden=256",
        "model.hidden: expected a list of whole numbers from 1 up, got 256; "
        f"{EXAMPLE} model.hidden=[64,64]",
    ),
    (
        "+study=mnist model.order=[norm,norm,drop]",
        "model.order: expected norm, act and drop in any order, got [norm,norm,drop]; "
        f"{EXAMPLE} model.order=[norm,act,drop]",
    ),
    (
        "+study=mnist executor.devices=0",
        "executor.devices: expected auto, a whole number from 1 up, or a list of GPUs, got 0; "
        f"{EXAMPLE} "
        "executor.devices=2",
    ),
    (
        "+study=mnist study.metric=val_acc",
        "study.metric: expected a metric that dropnorm.Classifier logs, got val_acc; "
        "did you mean val_accuracy?",
    ),
    (
        "+study=mnist study.metric=val_nll",
        "study.direction: expected minimize for val_nll, got maximize; "
        "type study.direction=minimize",
    ),
    (
        "+study=mnist model._target_=dropnorm.Clasifier",
        "model._target_: expected a class for model, got dropnorm.Clasifier; "
        "did you mean dropnorm.Classifier?",
    ),
    (
        "+study=mnist study.trials=${study.nope}",
        "study.trials=${study.nope}: Interpolation key 'study.nope' not found; "
        "change it or leave it out",
    ),
    (
        "+study=mnist study.name=???",
        f"study.name: missing; type +study={STUDIES}, or study.name=NAME",
    ),
    # names that would lead out of the folder
    (
        "+study=mnist study.name=../x",
        f"study.name: expected {NAME}, got ../x; {EXAMPLE} study.name=mnist-2",
    ),
    (
        "+study=mnist study.name=/abs",
        f"study.name: expected {NAME}, got /abs; {EXAMPLE} study.name=mnist-2",
    ),
    (
        "+study=mnist study.name=.hidden",
        f'study.name: expected {NAME}, got ".hidden"; {EXAMPLE} study.name=mnist-2',
    ),
    (
        f"+study=mnist study.name={LONG}",
        f"study.name: expected {NAME}, got {LONG[:80]}...; {EXAMPLE} study.name=mnist-2",
    ),
    (
        "+study=mnist 'study.name=a\0b'",
        '"study.name=a\\u0000b": expected KEY=VALUE; leave control characters out',
    ),
    (
        "+study=mnist study.folder=",
        f'study.folder: expected a name, got ""; {EXAMPLE} study.folder=sweeps',
    ),
    # ranges
    (
        "+study=mnist 'model.dropout=interval(0.5,0.1)'",
        "search.model.dropout: expected finite numbers, low < high, got interval(0.5,0.1); "
        "correct the range",
    ),
    (
        "+study=mnist 'model.bn_momentum=tag(log,interval(0,1))'",
        "search.model.bn_momentum: expected low > 0 for a log scale, got tag(log,interval(0,1)); "
        "correct the range",
    ),
    (
        "+study=mnist 'model.dropout=interval(0,1.2)'",
        f"search.model.dropout: {RATE}, got 1.2 from interval(0,1.2); correct the range",
    ),
    (
        "+study=mnist 'model.dropout=tag(lgo,interval(0.1,0.2))'",
        "search.model.dropout: expected the tag log or none, got lgo; correct the range",
    ),
    (
        "+study=mnist 'model.dropout=interval(0,0.5'",
        f"search.model.dropout: expected {GRAMMAR}, got interval(0,0.5; correct the range",
    ),
    (
        "+study=mnist 'trainer.max_epochs=range(3,4)'",
        "search.trainer.max_epochs: expected at least two values, start < stop and step > 0, "
        "got range(3,4); correct the range",
    ),
    (
        "+study=mnist 'trainer.max_epochs=interval(5,20)'",
        "search.trainer.max_epochs: expected a whole number from 1 up, got 5.0 from "
        "interval(5,20); type trainer.max_epochs=int(interval(5,20))",
    ),
    (
        "+study=mnist 'model.activation=choice(relu,rleu)'",
        "search.model.activation: expected one of relu, gelu, silu, selu, tanh, sigmoid, "
        "got rleu from choice(relu,rleu); did you mean relu?",
    ),
    (
        "+study=mnist 'model.activation=choice(relu,null)'",
        "search.model.activation: expected one of relu, gelu, silu, selu, tanh, sigmoid, "
        "got null from choice(relu,null); correct the range",
    ),
    (
        "+study=mnist 'model.hidden=choice([64],[0])'",
        "search.model.hidden: expected a list of whole numbers from 1 up, "
        "got [0] from choice([64],[0]); correct the range",
    ),
    (
        "+study=mnist 'model=choice(mlp,cnn)'",
        "search.model: expected a key such as model.network, got a whole group; "
        "run a study for each choice: model=CHOICE study.name=NAME",
    ),
    (
        "+study=mnist model=mlp,cnn",
        "search.model: expected a key such as model.network, got a whole group; "
        "run a study for each choice: model=CHOICE study.name=NAME",
    ),
    (
        "+study=mnist study.trials=10,20",
        "search.study.trials: expected a key of model, data, optimizer, trainer, retrofit: "
        "the others are the same for all trials; type study.trials=VALUE",
    ),
    (
        "+study=mnist model.dropout=0.1 model.bn_momentum=0.1",
        f"search: expected a range to search, got none; {EXAMPLE} 'model.dropout=interval(0,0.5)'",
    ),
    (
        "+study=mnist 'model.dropout=\"interval(0,0.5)\"' 'model.bn_momentum=interval(0.1,0.2)'",
        f'model.dropout: {RATE}, got "interval(0,0.5)"; '
        "put ranges under search:, as model.dropout: interval(0,0.5)",
    ),
    (
        "+study=mnist sampler=cmaes model.dropout=0.5",
        "sampler: expected two or more ranges of numbers for cmaes, got none besides "
        "model.bn_momentum, which every trial scores whole; "
        "type sampler=tpe or sampler=gp",
    ),
    (
        "+study=synthetic model.bn_momentum=0.1 model.hidden=[60] 'model.norm=choice(batch,group)'",
        "search.model.norm: group from choice(batch,group) does not go with model.groups: expected "
        f"with norm=group a divisor of every width, got 8; {EXAMPLE} model.groups=1",
    ),
    (
        "+study=synthetic 'optimizer.name=choice(adam,sgd)' model.network=mlp,cnn",
        "search.optimizer.name: expected choices that have the same settings, got "
        "choice(adam,sgd); run a study for each choice: optimizer=CHOICE study.name=NAME",
        "search.model.network: expected choices that have the same settings, got mlp,cnn; "
        "run a study for each choice: model=CHOICE study.name=NAME",
    ),
    (
        "+study=synthetic 'data._target_=choice(dropnorm.MNIST,dropnorm.Synthetic)'",
        "search.data._target_: expected choices that have the same settings, got "
        "choice(dropnorm.MNIST,dropnorm.Synthetic); "
        "run a study for each choice: data=CHOICE study.name=NAME",
    ),
    (
        "study.name=x model=own model._target_=my.M study.metric=val_acc +model.widths=[8,8] "
        "'model.widths.0=choice(1,2)' +model.net=abc 'model.net.width=choice(1,2)' "
        "'model.depth=choice(1,2)' 'model.depth.of=choice(1,2)'",
        "search.model.widths.0: expected a group of settings at model.widths, got [8,8]; "
        "search it as a whole: model.widths=choice(X,Y)",
        "search.model.net.width: expected a group of settings at model.net, got abc; "
        "search it as a whole: model.net=choice(X,Y)",
        "search.model.depth.of: expected a group of settings at model.depth, got choice(1,2); "
        "search it as a whole: model.depth=choice(X,Y)",
    ),
    # grammar
    (
        "+study=mnist 'a=(b'",
        "a=(b: expected KEY=VALUE; put special characters in quotes: 'a=\"(b\"'",
    ),
    (
        "+study=mnist 'model.dropout = 0.3'",
        "model.dropout = 0.3: expected KEY=VALUE; type model.dropout=0.3",
    ),
    ("+study=mnist =5", "=5: expected KEY=VALUE; type KEY=5"),
    (
        "mnist",
        "mnist: expected KEY=VALUE; type mnist=VALUE, or +study=mnist for a study; "
        "--help names the commands",
    ),
    (
        "repotr mnist",
        "repotr: expected KEY=VALUE or one of run, plan, best, report, rerun; did you mean report?",
    ),
    (
        "-m +study=mnist",
        "--multirun: not needed; leave it out, and write ranges such as "
        "'model.dropout=interval(0,0.5)'",
    ),
    # data and files
    (
        "+study=mnist data.path=nowhere",
        f"data.path: expected a folder with {IDX} (raw, .gz or .xz), got nowhere (no such folder); "
        "put them there, or for Fashion-MNIST type data.download=fashion_mnist",
    ),
    (
        "+study=mnist data.path=.",
        f'data.path: expected a folder with {IDX} (raw, .gz or .xz), got "."; '
        "put them there, or for Fashion-MNIST type data.download=fashion_mnist",
    ),
    (
        "+study=mnist data.download=fashion_mnist",
        "data.path: expected a folder to download into, got null; "
        "type data.path=data/fashion_mnist",
    ),
    (
        "+study=mnist data.train_size=50001",
        "data.train_size: expected at most 50000, the number of training images, got 50001; "
        "type data.train_size=50000",
    ),
    (
        "+study=mnist data.train_size=choice(1000,60000)",
        "data.train_size: expected at most 50000, the number of training images, got 60000; "
        "type data.train_size=50000",
    ),
    (
        "+study=mnist data.train_size=100 data.batch_size=range(50,201,50)",
        "data.batch_size: expected at most 100, the number of training images, got 200; "
        "type data.batch_size=100",
    ),
    (
        "+study=synthetic +data.train_size=32",
        "data.batch_size: expected at most 32, the number of training images, got 64; "
        "type data.batch_size=32",
    ),
    (
        "--config-dir nowhere +study=mnist",
        "--config-dir: expected a folder, got nowhere; type one there is",
    ),
    (
        "+study=mnist hydra.searchpath=x",
        "hydra.searchpath: hydra.searchpath must be a list of strings. Got: x; "
        "type [file:///a/folder]",
    ),
    # several at once
    (
        "+study=mnst sampler=tpee model.dropout=1.0 study.trials=abc modle.norm=none "
        "'model.bn_momentum=interval(0,1)' 'a=(b' data.path=nowhere",
        "a=(b: expected KEY=VALUE; put special characters in quotes: 'a=\"(b\"'",
        "study: no study mnst; did you mean mnist?",
        "sampler: no sampler tpee; did you mean tpe?",
        "modle.norm: unknown key; did you mean model.norm?",
        f"study.trials: expected a whole number from 1 up, got abc; {EXAMPLE} study.trials=20",
        f"model.dropout: {RATE}, got 1.0; {EXAMPLE} model.dropout=0.3",
        f"search.model.bn_momentum: {MOMENTUM}, got 0.0 from interval(0,1); correct the range",
        f"data.path: expected a folder with {IDX} (raw, .gz or .xz), got nowhere (no such folder); "
        "put them there, or for Fashion-MNIST type data.download=fashion_mnist",
    ),
    (
        "+study=mnist model=ccn model.kernel=5 'model.channels=choice([8],[16])' study.seed=-1",
        "model: no model ccn; did you mean cnn?",  # whether it has a kernel is not known
        f"study.seed: expected a whole number from 0 up, got -1; {EXAMPLE} study.seed=0",
    ),
    (
        "+study=mnist optimizer.name=sgd",
        f"optimizer.momentum: missing; choose optimizer=sgd, or {EXAMPLE} optimizer.momentum=0.3",
        f"optimizer.nesterov: missing; choose optimizer=sgd, or {EXAMPLE} optimizer.nesterov=true",
        "optimizer.betas: unknown key where optimizer.name is sgd; choose optimizer=adam",
    ),
    (
        "study=mnist dropout=0.3 trainer.max_epochs=0",
        "study: expected +study=NAME with a plus, got study=mnist; did you mean +study=mnist?",
        "dropout: unknown key; did you mean model.dropout?",
        f"trainer.max_epochs: expected a whole number from 1 up, got 0; {EXAMPLE} "
        "trainer.max_epochs=10",
    ),
]


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with nothing in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("row", BAD, ids=lambda row: row[0][:60].replace("\0", "NUL"))
def test_a_bad_configuration_gets_its_lines_and_nothing_runs(
    row: tuple[str, ...], empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, *expected = row
    plan = ["plan"] if "study" in line else []  # has the same errors, and would train nothing
    assert main([*plan, *shlex.split(line)]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines() == [f"error: {message}" for message in expected]
    assert out == "" and not list(empty.iterdir())


# Files of the user's own --------------------------------------------------------------------------

Folder = Callable[[str, str], str]
GLOBAL = "# @package _global_\n"


@pytest.fixture
def own(tmp_path: Path) -> Folder:
    """Writes a study into a config folder whose name is hard to quote; returns the folder."""

    def write(name: str, text: str) -> str:
        folder = tmp_path / 'it\'s "my" [dir], ünique'
        (folder / "study").mkdir(parents=True, exist_ok=True)
        (folder / "study" / f"{name}.yaml").write_text(text)
        return str(folder)

    return write


FILES = {
    "typo in a key": (
        GLOBAL + "study: {name: x}\nmodel: {drpout: .3}\nsearch: {model.dropout: 'a,b'}",
        "model.drpout: unknown key; did you mean model.dropout?",
        f"search.model.dropout: {RATE}, got a from a,b; correct the range",
    ),
    "typo in a section": (
        GLOBAL + "study: {name: x}\nmodle: {dropout: .3}\nsearch: {modle.dropout: '1,2'}",
        "modle: unknown key; did you mean model?",
        "search.modle.dropout: unknown key; did you mean model.dropout?",
    ),
    "a number under search": (
        GLOBAL + "study: {name: x}\nsearch: {model: {dropout: 0.3}}",
        f"search.model.dropout: expected {GRAMMAR}, got 0.3; a fixed value needs no search; "
        "correct the range",
    ),
    "search is no mapping": (
        GLOBAL + "study: {name: x}\nsearch: interval(0,1)",
        'search: expected keys and their ranges, got "interval(0,1)"; '
        "write for example model.dropout: interval(0,0.5)",
    ),
    "a range outside search": (
        GLOBAL + "study: {name: x}\nmodel: {dropout: 'interval(0,1)'}\n"
        "search: {model.bn_momentum: '0.1,0.2'}",
        f'model.dropout: {RATE}, got "interval(0,1)"; '
        "put ranges under search:, as model.dropout: interval(0,1)",
    ),
    "no package line": (
        "study: {name: x}\nsearch: {model.dropout: 'interval(0,0.5)'}",
        "study: expected no search in it; the study's file lacks its first line; "
        "put '# @package _global_' there",
    ),
    "unknown default": (
        GLOBAL + "defaults:\n  - override /model: cn\nstudy: {name: x}",
        "+study=mine: no model cn; did you mean cnn?",
    ),
    "defaults in a circle": (
        GLOBAL + "defaults: [mine]\nstudy: {name: x}",
        "+study=mine: maximum recursion depth exceeded; change it or leave it out",
    ),
    "no mapping": (
        "- 1\n- 2",
        "+study=mine: In 'study/mine': ConfigTypeError raised while composing config: "
        "Cannot merge DictConfig with ListConfig; change it or leave it out",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_study_file_gets_its_lines(
    case: str, own: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    text, *expected = FILES[case]
    assert main(["+study=mine", "--config-dir", own("mine", text)]) == 2
    err = capsys.readouterr().err.replace(" in comparison", "")
    assert err.splitlines() == [f"error: {message}" for message in expected]


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("study:\n  name: [x\nfoo: 3\n", "line 4, column 4", "expected ',' or ']', but got ':'"),
        ("study:\n\tname: x\n", "line 3, column 1", "found character '\\t' that cannot start"),
        ("study: {name: x}\nstudy: {}\n", "line 3, column 1", "found duplicate key study"),
    ],
)
def test_a_file_that_is_no_yaml_is_named_with_line_and_column(
    text: str, place: str, what: str, own: Folder
) -> None:
    folder = own("broken", GLOBAL + text)
    with pytest.raises(ConfigError) as raised:
        make_plan(["+study=broken", "study.trials=0"], folder)
    file_problem, other = raised.value.problems
    assert file_problem.startswith(f"+study=broken: {folder}/study/broken.yaml, {place}: {what}")
    assert other.startswith("study.trials: expected a whole number from 1 up, got 0")


def test_a_study_without_a_name_is_told_the_studies_of_both_folders(own: Folder) -> None:
    folder = own("mine", GLOBAL + "search: {model.dropout: 'interval(0,0.5)'}")
    with pytest.raises(
        ConfigError, match=r"\+study=fashion_mnist\|mine\|mnist\|momentum\|synthetic"
    ):
        make_plan(["+study=mine"], folder)
    with pytest.raises(ConfigError, match="no study mien; did you mean mine"):
        make_plan(["+study=mien"], folder)


@pytest.mark.parametrize("name", ["123", "007", "1e3", "2024.1", "2024-11-28", "1-b", "3x"])
def test_a_number_is_a_name_as_it_was_typed(name: str) -> None:
    plan = make_plan(["+study=synthetic", f"study.name={name}"])
    assert plan.study.name == name == plan.resolved["study"]["name"]


def test_a_config_folder_may_come_by_hydras_searchpath_instead(own: Folder, tmp_path: Path) -> None:
    text = GLOBAL + "study: {name: mine}\nsearch: {model.dropout: 'interval(0,0.5)'}"
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(text)
    path = f"hydra.searchpath=[file://{tmp_path}/conf]"
    assert make_plan(["+study=mine", path]).study.name == "mine"
    with pytest.raises(ConfigError, match="--config-dir: expected either this"):
        make_plan(["+study=mine", path], own("other", ""))


def test_a_file_with_the_name_of_a_shipped_one_is_refused(own: Folder) -> None:
    shipped = (conf_folder() / "study" / "synthetic.yaml").read_text()
    folder = own("synthetic", shipped)  # a copy that is not changed yet
    assert make_plan(["+study=synthetic"], folder).study.trials == 8
    own("synthetic", shipped.replace("trials: 8", "trials: 777"))
    with pytest.raises(ConfigError) as raised:
        make_plan(["+study=synthetic"], folder)
    what = "expected another name than that of a shipped file, which is read in its place"
    assert str(raised.value) == f"{folder}/study/synthetic.yaml: {what}; rename it"


# Good ones ----------------------------------------------------------------------------------------


def ranges(plan: Plan) -> dict[str, str]:
    return {d.key: d.text for d in plan.search}


def test_a_value_on_the_command_line_takes_its_key_out_of_the_search() -> None:
    plan = make_plan(["+study=mnist", "model.dropout=0.25"])
    assert list(ranges(plan)) == ["model.bn_momentum"]
    assert plan.trial["model"]["dropout"] == 0.25


def test_a_range_on_the_command_line_takes_the_place_of_the_studys() -> None:
    plan = make_plan(["+study=mnist", "model.dropout=interval(0,0.1)", "optimizer.lr=0.1,0.2"])
    assert ranges(plan) == {
        "model.dropout": "interval(0,0.1)",
        "model.bn_momentum": "tag(log, interval(0.001, 1))",
        "optimizer.lr": "0.1,0.2",
    }


def test_a_range_may_be_typed_where_a_study_has_it() -> None:
    plan = make_plan(["study.name=x", "+search.model.dropout=interval(0,0.1)"])
    assert ranges(plan) == {"model.dropout": "interval(0,0.1)"}


def test_of_two_words_about_a_key_the_later_counts() -> None:
    searched, fixed = "model.dropout=interval(0,0.1)", "model.dropout=0.25"
    assert ranges(make_plan(["+study=mnist", fixed, searched]))["model.dropout"]
    assert "model.dropout" not in ranges(make_plan(["+study=mnist", searched, fixed]))


@pytest.mark.parametrize(
    "words",
    [
        ["model.norm=choice(batch,group)", "model.groups=choice(4,7)"],
        ["model.residual=choice(true,false)", "model.hidden=choice([60,60],[30])"],
        ["model.norm=choice(batch,group)", "model.groups=choice(7,11)", "model.hidden=[22],[44]"],
        ["optimizer.name=choice(adam,adamw)"],
    ],
)
def test_a_value_that_suits_another_range_is_searched(words: list[str]) -> None:
    plan = make_plan(["+study=synthetic", "model.hidden=[60]", *words])
    assert {word.partition("=")[0] for word in words} <= ranges(plan).keys()


def test_settings_that_are_not_in_the_files_are_added_and_searched(own: Folder) -> None:
    words = ["+trainer.limit_val_batches=0.5", "trainer.accumulate_grad_batches=range(1,4)"]
    plan = make_plan(["+study=mnist", *words])
    assert plan.trial["trainer"]["limit_val_batches"] == 0.5
    params = {"model.dropout": 0.1, "model.bn_momentum": 0.1}
    built = plan.trial_config({**params, "trainer.accumulate_grad_batches": 3})
    assert built["trainer"]["accumulate_grad_batches"] == 3


def test_lists_are_searched_and_reach_the_trial_as_lists(own: Folder) -> None:
    text = GLOBAL + (
        "study: {name: mine}\n"
        "search:\n  model.order: [[norm, act, drop], [act, norm, drop]]\n"
        "  model.bn_momentum: [null, 0.1]\n"
    )
    words = ["+study=mine", "model.hidden=choice([64],[256,256])"]
    plan = make_plan(words, own("mine", text))
    assert [d.choices for d in plan.search] == [
        ("[norm,act,drop]", "[act,norm,drop]"), (None, 0.1), ("[64]", "[256,256]"),
    ]  # fmt: skip
    params = {"model.order": "[act,norm,drop]", "model.bn_momentum": None, "model.hidden": "[64]"}
    model = plan.trial_config(params)["model"]
    assert (model["order"], model["bn_momentum"]) == (["act", "norm", "drop"], None)
    assert model["hidden"] == [64] and plan.trial["model"]["hidden"] == [256, 256]


def test_models_and_data_of_others_are_left_to_their_constructors(own: Folder) -> None:
    text = GLOBAL + (
        "study: {name: mine, metric: my_score}\nmodel: {_target_: my.Model, width: 3}\n"
        "search: {model.width: 'choice(3,4)'}"
    )
    plan = make_plan(["+study=mine"], own("mine", text))
    assert plan.trial["model"]["_target_"] == "my.Model"


def test_interpolations_are_resolved() -> None:
    plan = make_plan(["+study=mnist", "study.name=by-${study.trials}", "study.trials=7"])
    assert (plan.study.name, plan.folder) == ("by-7", Path("sweeps/by-7"))


def test_a_folder_with_idx_files_packed_or_not_is_enough(empty: Path) -> None:
    for name, suffix in zip(DIMENSIONS, ("", ".gz", ".xz", ""), strict=True):
        (empty / f"{name}{suffix}").touch()
    with pytest.raises(ConfigError, match=r"data\.path: expected .*labels.* got an empty file"):
        make_plan(["+study=mnist", "data.path=."])
    labels = f"{TRAIN_LABELS}.xz"
    (empty / f"{TRAIN_LABELS}.gz").unlink()
    shutil.copy(PACKAGED / labels, empty / labels)
    assert make_plan(["+study=mnist", "data.path=."]).trial["data"]["path"] == "."
    (empty / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ConfigError, match="a folder with t10k-labels-idx1-ubyte "):
        make_plan(["+study=mnist", "data.path=."])


def test_the_printed_configuration_is_a_study_file_that_means_the_same(
    own: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["+study=mnist", "model.hidden=choice([8],[8,8])", "optimizer.lr=0.01"]
    assert main(["--cfg", "job", *words]) == 0
    printed = capsys.readouterr().out
    plan = make_plan(words)
    assert yaml.safe_load(printed) == plan.resolved
    again = make_plan(["+study=copy"], own("copy", GLOBAL + printed))
    assert (again.resolved, again.search) == (plan.resolved, plan.search)
