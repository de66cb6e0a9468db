"""Commands in messages work as they are printed, in the shell and folder of the caller."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import ScriptInfo, cli

from app.cli.hints import flask_command, hint

ROOT = Path(__file__).parents[2]
SOURCES = [path for room in ("app/cli", "devkit") for path in (ROOT / room).rglob("*.py")]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that is not activated, in the project ``tmp_path``."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "flask"):
        (folder / name).touch(mode=0o700)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", os.devnull)
    return folder


class TestProgram:
    """The printed program is the one of this environment."""

    def test_in_the_project(self, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the folder of the project, the path is relative."""
        monkeypatch.chdir(environment.parents[1])
        assert hint("doctor") == "`.venv/bin/flask doctor`"

    def test_in_another_folder(self, environment: Path) -> None:
        """In another folder, the path is absolute."""
        assert flask_command("doctor") == f"{environment}/flask doctor"

    def test_activated(self, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In an activated environment, and in the image, the name is enough."""
        monkeypatch.setenv("PATH", str(environment))
        assert flask_command("doctor") == "flask doctor"

    def test_other_program_of_this_name(
        self, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A ``flask`` of another environment on the search path is not used."""
        (tmp_path / "flask").touch(mode=0o700)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert flask_command("doctor") == f"{environment}/flask doctor"

    def test_arguments_are_quoted(self) -> None:
        """An argument that the shell would change is quoted."""
        assert hint("events", "show", "evt 1") == "`flask events show 'evt 1'`"


def test_global_options_are_kept(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options before the command are in the hint: without them, `flask` finds no service."""
    monkeypatch.setattr(sys, "argv", ["flask", "--app", "app", "probe", "--limit", "1"])
    app.cli.add_command(click.Command("probe", callback=lambda: click.echo(hint("doctor"))))
    info = ScriptInfo(create_app=lambda: app)
    result = CliRunner().invoke(cli, ["probe"], obj=info, prog_name="flask")
    assert result.stdout == "`flask --app app doctor`\n"


def constants(tree: ast.AST) -> Iterator[str]:
    """Yield all texts in a module except docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            yield str(node.value)


def test_no_message_names_a_command_itself() -> None:
    """Each command in a message is made by ``hint`` or ``flask_command``."""
    named = [
        (path.name, text)
        for path in SOURCES
        for text in constants(ast.parse(path.read_text(encoding="utf-8")))
        if "`flask " in text or "/flask " in text
    ]
    assert named == []


def test_commands_in_messages_exist(app: Flask) -> None:
    """Each command in a message exists, with its options."""
    checked = 0
    for path in set(SOURCES) - {ROOT / "app/cli/hints.py"}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"hint", "flask_command"}:
                words = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if not words:  # made by another function, whose tests run the command
                    continue
                command: click.Command | None = app.cli
                while isinstance(command, click.Group):
                    command = command.get_command(click.Context(command), str(words.pop(0)))
                assert command is not None, ast.unparse(node)
                options = {name for each in command.params for name in each.opts}
                assert {str(word) for word in words if str(word)[:2] == "--"} <= options
                checked += 1
    assert checked >= 15
