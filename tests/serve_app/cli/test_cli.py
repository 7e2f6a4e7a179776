"""The `headroom` command itself: quick, lazy, and honest about errors."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

import serve_app.config.problems  # ConfigError lives there
import serve_app.errors
from serve_app.cli import SUBCOMMANDS, LazyGroup, main
from serve_app.errors import HeadroomError, NotRunning

HEAVY = ("ray", "torch", "vllm", "transformers", "openai", "ortools", "httpx", "pydantic", "rich")


def all_errors(root: type[HeadroomError] = HeadroomError) -> Iterator[type[HeadroomError]]:
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


def modules_after(*arguments: str) -> set[str]:
    """Top-level names of what is imported once `headroom ARGUMENTS` has run, in a process of its own."""
    code = (
        "import sys, json\n"
        "from click.testing import CliRunner\n"
        "from serve_app.cli import main\n"
        f"assert CliRunner().invoke(main, {list(arguments)!r}).exit_code == 0\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


class TestHelp:
    def test_imports_nothing_heavy(self) -> None:
        assert modules_after("--help").isdisjoint(HEAVY)

    def test_lists_every_subcommand_with_its_summary(self) -> None:
        shown = CliRunner().invoke(main, ["--help"]).output
        for name, entry in SUBCOMMANDS.items():
            assert name in shown
            assert entry.summary in shown

    @pytest.mark.parametrize("name", ["plan", "gpus", "config", "status"])
    def test_of_a_subcommand_imports_neither_ray_nor_models(self, name: str) -> None:
        assert modules_after(name, "--help").isdisjoint(("ray", "torch", "vllm", "transformers", "openai", "ortools"))

    @pytest.mark.parametrize("name", SUBCOMMANDS)
    def test_exists_for_every_subcommand(self, name: str) -> None:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert f"headroom {name}" in result.output


class TestAnUnknownSubcommand:
    def test_is_bad_usage(self) -> None:
        result = CliRunner().invoke(main, ["plam"])
        assert result.exit_code == 2
        assert "Did you mean 'plan'?" in result.stderr


def invoke_failing(error: BaseException) -> Result:
    @click.command("failing")
    def failing() -> None:
        raise error

    return CliRunner().invoke(LazyGroup(name="headroom", commands={"failing": failing}), ["failing"])


class TestErrors:
    def test_are_one_message_on_stderr_with_their_own_exit_code(self) -> None:
        result = invoke_failing(NotRunning("Nothing answers.", expected="A cluster.", advice="Start one."))
        assert result.exit_code == NotRunning.exit_code == 3
        assert result.stdout == ""
        assert result.stderr == "Error: Nothing answers. A cluster. Start one.\n"

    def test_an_interrupt_is_130(self) -> None:
        assert invoke_failing(KeyboardInterrupt()).exit_code == 130

    def test_a_bug_is_not_dressed_up(self) -> None:
        assert isinstance(invoke_failing(AssertionError("bug")).exception, AssertionError)


class TestTheErrorTree:
    def test_every_error_is_drawn_at_the_head_of_the_file_with_its_code(self) -> None:
        drawn = serve_app.errors.__doc__ or ""
        lines = {
            line.replace("├──", "").replace("└──", "").split()[0]: line for line in drawn.splitlines() if line.strip()
        }
        for error in all_errors():
            if error.__module__.startswith("serve_app") and "exit_code" in vars(error):
                assert error.__name__ in lines
                assert str(error.exit_code) in lines[error.__name__].split()

    def test_every_exit_code_is_given_once(self) -> None:
        codes = [error.exit_code for error in all_errors() if "exit_code" in vars(error)]
        assert len(codes) == len(set(codes))

    def test_an_error_survives_the_way_from_one_process_to_another(self) -> None:
        error = pickle.loads(pickle.dumps(NotRunning("a.", expected="b.", advice="c.")))
        assert str(error) == "a. b. c."
        assert isinstance(error, NotRunning)
