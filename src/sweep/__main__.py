"""The command line: `python -m sweep [what] overrides...`, also installed as `sweep`."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.errors import ConfigError, Problem, SweepError, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.config import Plan

HELP = """\
How much dropout, and what BatchNorm momentum, does a model need?

  python -m sweep +study=mnist             search and report
  python -m sweep plan +study=mnist        what would run; trains nothing
  python -m sweep best mnist               best parameters, and the line that loads the checkpoint
  python -m sweep report mnist             rebuild the report of a recorded study
  python -m sweep rerun mnist 7            train trial 7 again, alone, and compare with its record

KEY=VALUE sets (Hydra's grammar), and a range searches:
  'model.dropout=interval(0,0.5)'               any number in between
  'model.bn_momentum=tag(log,interval(0.001,1))'
  'model.activation=choice(relu,gelu)'  'model.hidden=choice([64],[256,256])'
  'trainer.max_epochs=range(5,20,5)'            5, 10, 15
  model=cnn  data=fashion_mnist  optimizer=sgd  sampler=gp  pruner=none  executor=inline
  study.trials=50  study.timeout_s=600  study.name=mine  study.seed=1

The same command again goes on with what remains; a finished study shows its result.
"""
EPILOG = """\
--info, --hydra-help and --shell-completion (-sc) work as in any Hydra application;
completion: eval "$(sweep -sc install=bash)"

Exit codes: 0 done, 1 the study failed, 2 bad configuration, 130 Ctrl-C, 143 terminated."""
WORDS = ("run", "plan", "best", "report", "rerun")
HYDRAS_OWN = {"--info", "-i", "--hydra-help", "--shell-completion", "-sc"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code. Errors are shown as lines, not tracebacks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if HYDRAS_OWN & {a.partition("=")[0] for a in arguments}:
        return _hydra()
    options = _parser().parse_intermixed_args(arguments)
    if os.getcwd() not in sys.path:  # for modules of one's own, also with the console script
        sys.path.insert(0, os.getcwd())
    try:
        return _run(options, shlex.join(["python", "-m", "sweep", *arguments]))
    except SweepError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before the search, or during the report
        return 130


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "sweep",
        usage="python -m sweep [run|plan|best|report|rerun] [KEY=VALUE | KEY=RANGE | STUDY] ...",
        description=HELP,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("words", nargs="*", help=SUPPRESS)
    add = parser.add_argument_group("options").add_argument
    add("--config-dir", "-cd", metavar="DIR", help="also read configurations from DIR")
    add("--cfg", "-c", choices=["job"], help="print the composed configuration; run nothing")
    add("--multirun", "-m", action="store_true", help="not needed: ranges search")
    add("--help", "-h", action="help", help="show this")
    return parser


def _run(options: Namespace, command: str) -> int:
    from rich.console import Console

    console = Console()
    words: list[str] = options.words
    if options.multirun:
        advice = "leave it out, and write ranges such as 'model.dropout=interval(0,0.5)'"
        raise ConfigError([Problem("--multirun", "not needed", advice)])
    word = "run"
    if words and words[0] in WORDS:
        word = words.pop(0)
    elif words and words[0].isalpha() and (near := nearest(words[0], WORDS)):
        # What the other words mean depends on this one, so it is the only complaint.
        what = f"expected KEY=VALUE or one of {', '.join(WORDS)}"
        raise ConfigError([Problem(words[0], what, f"did you mean {near}?")])
    if word in ("best", "report", "rerun"):
        return _look_back(word, words, console)
    return _look_ahead(word, words, options, console, command)


def _look_ahead(
    word: str, overrides: list[str], options: Namespace, console: Console, command: str
) -> int:
    from sweep.config import composition, make_plan

    if options.cfg:
        import yaml

        config, problems = composition(overrides, options.config_dir)
        print(yaml.safe_dump(config, sort_keys=False), end="")
        if problems:
            raise ConfigError(problems)
        return 0
    plan = make_plan(overrides, options.config_dir)
    if word == "plan":
        _plan(plan, console)
        return 0
    from sweep.run import run_study

    return run_study(plan, console, command)


def _plan(plan: Plan, console: Console) -> None:
    """Errors: ConfigError, after all is shown, if what is recorded would refuse to go on so."""
    from sweep.experiment import describe
    from sweep.record import another_experiment, load_study
    from sweep.show import show_plan

    recorded = load_study(plan.folder) if (plan.folder / "study.db").is_file() else None
    show_plan(plan, recorded, console)
    if recorded is not None and recorded.trials:
        now, name = describe(plan, ""), plan.study.name
        if refusal := another_experiment(name, plan.folder, recorded.config, now):
            raise refusal


def _look_back(word: str, names: list[str], console: Console) -> int:
    from sweep.record import load_study
    from sweep.show import show_best

    wanted, example = ("a study and a trial", " 7") if word == "rerun" else ("one study", "")
    if len(names) != (2 if word == "rerun" else 1):
        what = f"expected {wanted}, by name or folder, got {' '.join(names) or 'none'}"
        raise ConfigError([Problem(word, what, f"type for example {word} mnist{example}")])
    results = load_study(names[0])
    if word == "rerun":
        from sweep.rerun import rerun

        return rerun(results, names[1], console)
    if word == "best":
        show_best(results, console)
    else:
        from sweep.pages import renew_report

        console.print(renew_report(results), soft_wrap=True)
    return 0


def _hydra() -> int:
    """What Hydra does by itself: information about the configuration, and shell completion."""
    import hydra

    from sweep.compose import conf_folder

    line = os.environ.get("COMP_LINE", "").split(" ")
    if line[1:2] in (
        ["best"],
        ["report"],
        ["rerun"],
    ):  # what follows is a study's folder, no override
        print(*sorted(f.parent.name for f in Path("sweeps").glob(f"{line[-1]}*/study.db")))
        return 0
    if line[1:2] in (["run"], ["plan"]):
        os.environ["COMP_LINE"] = " ".join(line[:1] + line[2:])
    hydra.main(str(conf_folder()), "config", version_base="1.3")(lambda config: None)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
