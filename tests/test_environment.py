"""Reading of the settings: one rule for the environment, ``.env`` and files of secrets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import StartError
from app.settings import Settings

ROOT = Path(__file__).parents[1]
SECRETS = {"STRIPE_API_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": "whsec_fake"}
LINES = "".join(f"{name}={value}\n" for name, value in SECRETS.items())
FROM_FLASK = {"FLASK_RUN_FROM_CLI": "true"}


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    """A ``.env`` with the two secrets, in a working directory of its own."""
    file = tmp_path / "here" / ".env"
    file.parent.mkdir()
    file.write_text(LINES, encoding="utf-8")
    return file


def problems(environ: dict[str, str], dotenv: Path | None = None) -> list[str]:
    """Return what is wrong with settings that cannot be loaded."""
    with pytest.raises(StartError) as raised:
        Settings.load(environ, dotenv)
    return raised.value.problems


class TestDotenv:
    """``.env`` is read as it is, or refused in one sentence."""

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (LINES.encode("utf-16"), "is not UTF-8 but UTF-16, as > in PowerShell writes it"),
            (LINES.encode("utf-16-le"), "is not UTF-8 but UTF-16"),
            (f"{LINES}# caf\xe9\n".encode("latin-1"), ": line 3 has the byte 0xe9, which is not"),
            (f"{LINES}PORT: 80\n".encode(), ": line 3 is not NAME=value"),
            (f"{LINES}\n# a note\nPROCESSING:queue\n".encode(), ": line 5 is not NAME=value"),
            (f"{LINES}PORT\nLOG_LEVEL=debug\n".encode(), ": line 3 is not NAME=value"),
            (f"{LINES}export PORT\n".encode(), ": line 3 is not NAME=value"),
        ],
        ids=["utf-16", "utf-16 without its mark", "latin-1", "colon", "YAML", "name", "export"],
    )
    def test_wrong_content(self, content: bytes, words: str, dotenv: Path) -> None:
        """The only problem is the file: without it each setting would be reported as missing."""
        dotenv.write_bytes(content)
        (problem,) = problems({}, dotenv)
        assert problem.startswith(str(dotenv))
        assert words in problem

    def test_file_that_cannot_be_read(self, dotenv: Path) -> None:
        """The sentence has the reason of the system."""
        dotenv.unlink()
        dotenv.symlink_to(dotenv)  # root may read every file, and no loop of links
        (problem,) = problems(SECRETS, dotenv)
        assert f"{dotenv} cannot be read: Too many levels of symbolic links" in problem

    def test_mark_of_utf8_is_skipped(self, dotenv: Path) -> None:
        """Editors of Windows write it before the first name, and comments may follow."""
        dotenv.write_bytes(f"{LINES}\n# PORT=80\n".encode("utf-8-sig"))
        assert Settings.load({}, dotenv).stripe_api_key == "sk_test_fake"

    def test_folder_is_no_file(self, dotenv: Path) -> None:
        """A virtual environment in ``.env/`` is left alone."""
        dotenv.unlink()
        dotenv.mkdir()
        settings = Settings.load(SECRETS, dotenv)
        assert settings.origin.dotenv is None

    @pytest.mark.parametrize("line", ["PORT=", "PORT=''", "export PORT="])
    def test_variable_with_an_empty_value_is_not_set(self, line: str, dotenv: Path) -> None:
        """``NAME=`` leaves the default."""
        dotenv.write_text(f"{LINES}{line}\n", encoding="utf-8")
        assert Settings.load({}, dotenv).port == 4242

    @pytest.mark.parametrize("environ", [{}, {"DATABASE_URL": "sqlite:////root/x.sqlite3"}])
    def test_variables_are_not_replaced(self, environ: dict[str, str], dotenv: Path) -> None:
        """``${HOME}`` is refused, also where ``flask`` has put its value into the environment."""
        dotenv.write_text(f"{LINES}DATABASE_URL=sqlite:///${{HOME}}/x.sqlite3\n", encoding="utf-8")
        (problem,) = problems(environ, dotenv)
        assert problem.startswith("DATABASE_URL has ${...}, which is not replaced")

    def test_environment_wins(self, dotenv: Path, tmp_path: Path) -> None:
        """A value there hides the file of ``.env``, and the other way round."""
        (tmp_path / "key").write_text("sk_test_in_file\n", encoding="utf-8")
        dotenv.write_text(f"{LINES}STRIPE_API_KEY_FILE=/no/such/file\n", encoding="utf-8")
        by_value = Settings.load(SECRETS, dotenv)
        by_file = Settings.load({"STRIPE_API_KEY_FILE": f"{tmp_path}/key"}, dotenv)
        assert by_value.stripe_api_key == "sk_test_fake"
        assert by_file.stripe_api_key == "sk_test_in_file"
        assert by_file.stripe_webhook_secrets == ("whsec_fake",)


class TestSecretFiles:
    """Docker and Kubernetes give secrets as files."""

    def test_each_secret_can_be_a_file(self, tmp_path: Path) -> None:
        """The line end after the content is not a part of it."""
        contents = {**SECRETS, "DATABASE_URL": "postgresql://user:fake@host/inbox"}
        for name, content in contents.items():
            (tmp_path / name).write_text(f"{content}\n", encoding="utf-8")
        settings = Settings.load({f"{name}_FILE": f"{tmp_path}/{name}" for name in contents}, None)
        assert settings.stripe_api_key == "sk_test_fake"
        assert settings.stripe_webhook_secrets == ("whsec_fake",)
        assert settings.database_url == "postgresql+psycopg://user:fake@host/inbox"

    def test_content_is_checked_like_a_value(self, tmp_path: Path) -> None:
        """The message is that of the setting, without the content."""
        (tmp_path / "key").write_text("pk_test_marker", encoding="utf-8")
        environ = {**SECRETS, "STRIPE_API_KEY": "", "STRIPE_API_KEY_FILE": f"{tmp_path}/key"}
        (problem,) = problems(environ)
        assert problem.startswith("STRIPE_API_KEY does not begin with sk_live_")
        assert "marker" not in problem

    def test_both_are_refused(self, tmp_path: Path) -> None:
        """Which of the two is right cannot be known."""
        (tmp_path / "key").write_text("sk_test_other", encoding="utf-8")
        environ = {**SECRETS, "STRIPE_API_KEY_FILE": f"{tmp_path}/key"}
        assert problems(environ) == [
            "STRIPE_API_KEY and STRIPE_API_KEY_FILE are both set. Remove one of them"
        ]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("STRIPE_API_KEY", "sk_live_marker"),
            ("STRIPE_WEBHOOK_SECRET", "whsec_a,whsec_mark/er"),
            ("DATABASE_URL", "postgresql://user:marker@host/inbox"),
            ("DATABASE_URL", "sqlite:////var/marker.db"),
        ],
    )
    def test_value_in_the_place_of_a_path_is_not_printed(self, name: str, value: str) -> None:
        """The message names the variable for the value."""
        environ = {**SECRETS, name: "", f"{name}_FILE": value}
        assert problems(environ) == [
            f"{name}_FILE holds the value itself, not the path of a file. Name the variable {name}"
        ]

    def test_path_may_look_like_a_secret(self, tmp_path: Path) -> None:
        """An absolute path is one, whatever the name of the file."""
        (tmp_path / "sk_live_key").write_text("sk_test_other", encoding="utf-8")
        environ = {
            **SECRETS,
            "STRIPE_API_KEY": "",
            "STRIPE_API_KEY_FILE": f"{tmp_path}/sk_live_key",
        }
        assert Settings.load(environ, None).stripe_api_key == "sk_test_other"

    def test_path_with_nul_names_no_file(self) -> None:
        """The message is ours, and printable."""
        assert problems({"STRIPE_API_KEY_FILE": "/x\0", "STRIPE_WEBHOOK_SECRET": "whsec_fake"}) == [
            "STRIPE_API_KEY_FILE: there is no file /x\ufffd"
        ]

    def test_file_that_cannot_be_used(self, tmp_path: Path) -> None:
        """All such files are reported at once, with the reason of each."""
        (tmp_path / "empty").write_text("\n", encoding="utf-8")
        (tmp_path / "utf16").write_text("whsec_marker", encoding="utf-16")
        environ = {
            "DATABASE_URL_FILE": f"{tmp_path}/missing",
            "STRIPE_API_KEY_FILE": f"{tmp_path}/empty",
            "STRIPE_WEBHOOK_SECRET_FILE": f"{tmp_path}/utf16",
        }
        assert [problem.partition(". ")[0] for problem in problems(environ)] == [
            f"DATABASE_URL_FILE: there is no file {tmp_path}/missing",
            f"STRIPE_API_KEY_FILE: {tmp_path}/empty is empty",
            f"STRIPE_WEBHOOK_SECRET_FILE: {tmp_path}/utf16 is not UTF-8 but UTF-16, as > in"
            " PowerShell writes it",
        ]


class TestOrigin:
    """Where a setting comes from, for commands beside ``make dev``."""

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({}, set()),
            ({"DATABASE_URL": ""}, set()),
            ({"DATABASE_URL": "sqlite:///env.sqlite3"}, set()),
            ({"DATABASE_URL": "sqlite:///other.sqlite3"}, {"DATABASE_URL"}),
            ({"DATABASE_URL_FILE": "secret"}, {"DATABASE_URL"}),
        ],
    )
    def test_environment(
        self,
        environ: dict[str, str],
        expected: set[str],
        dotenv: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A setting is the environment's if that has another value than ``.env``, or a file."""
        monkeypatch.chdir(dotenv.parent)
        (dotenv.parent / "secret").write_text("sqlite:///file.sqlite3", encoding="utf-8")
        dotenv.write_text(f"{LINES}DATABASE_URL=sqlite:///env.sqlite3\n", encoding="utf-8")
        origin = Settings.load(environ, dotenv).origin
        assert origin.environment == expected


class TestMisspelt:
    """A variable that looks like a setting is reported with the nearest name."""

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
            ("STRIPE_WEBHOOK_SECRETS", "STRIPE_WEBHOOK_SECRET"),
            ("STRIPE_API_KEYFILE", "STRIPE_API_KEY_FILE"),
            ("DATABASE_URI", "DATABASE_URL"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("log_level", "LOG_LEVEL"),
        ],
    )
    def test_nearest_name(self, name: str, nearest: str, dotenv: Path) -> None:
        """In the environment and in ``.env`` alike."""
        there = Settings.load({**SECRETS, name: "x"}, None)
        dotenv.write_text(f"{LINES}{name}=x\n", encoding="utf-8")
        assert there.origin.misspelt == ((name, nearest),)
        assert Settings.load({}, dotenv).origin.misspelt == ((name, nearest),)

    def test_other_variables_are_left_alone(self) -> None:
        """What systems, platforms and teams set is not reported."""
        others = (
            "PATH HOME LOGNAME LANG HOSTNAME REPORT TEST_DATABASE_URL STRIPE_PRICE_ID"
            " WEB_CONCURRENCY_SET_BY STRIPE_API_PORT POSTGRES_PASSWORD FLASK_APP"
        )
        settings = Settings.load({**SECRETS, **dict.fromkeys(others.split(), "x")}, None)
        assert settings.origin.misspelt == ()

    def test_failed_start_names_it(self) -> None:
        """If a setting is missing, its misspelt name stands below."""
        said = problems({"STRIPE_WEBHOOK_SECRET": "whsec_fake", "STRIPE_KEY": "sk_test_fake"})
        assert said[0].startswith("STRIPE_API_KEY is not set")
        assert said[1:] == ["STRIPE_KEY is no setting. Do you mean STRIPE_API_KEY?"]


FLASK = "import site, sys; site.addsitedir(sys.argv.pop(1)); from flask.cli import main; main()"


def run(command: list[str], folder: Path, **environ: str) -> str:
    """Run a command that fails in ``folder``, and return its output."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


class TestOneReading:
    """The server and all commands use the same settings, or refuse them with the same words."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> str:
        """A folder of site packages, as ``make`` sets it up."""
        folder = tmp_path / "site"
        folder.mkdir()
        tool = str(ROOT / "tools" / "skip_flask_dotenv.py")
        subprocess.run([sys.executable, tool, str(folder)], check=True)
        return str(folder)

    @pytest.mark.processes
    def test_broken_file(self, dotenv: Path, site: str) -> None:
        """``flask doctor`` says what the server says, and neither prints a traceback."""
        dotenv.write_bytes(LINES.encode("utf-16"))
        server = run(["-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py")], dotenv.parent)
        doctor = run(["-c", FLASK, site, "--app", "app", "doctor"], dotenv.parent)
        sentence = f"{dotenv} is not UTF-8 but UTF-16"
        assert server.startswith(f"The settings cannot be used:\n  - {sentence}")
        assert doctor.startswith(f"FAIL  settings      {sentence}")

    @pytest.mark.processes
    def test_file_of_a_parent_folder(
        self, dotenv: Path, site: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not read. Where ``flask`` has read it, every command refuses to start."""
        below = dotenv.parent / "below"
        below.mkdir()
        off = run(["-c", FLASK, site, "--app", "app", "events", "list"], below)
        on = run(["-m", "flask", "--app", "app", "events", "list"], below, FLASK_SKIP_DOTENV="0")
        assert "STRIPE_API_KEY is not set" in off
        sentence = f"was read by flask from {dotenv}, which the server does not read. Set FLASK_SKI"
        assert f"STRIPE_API_KEY {sentence}" in on
        monkeypatch.chdir(below)
        assert [problem.split()[0] for problem in problems({**SECRETS, **FROM_FLASK})] == [*SECRETS]

    def test_environment_that_flask_has_not_changed(
        self, dotenv: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other values than those of the file come from the environment itself."""
        own = {"STRIPE_API_KEY": "sk_test_own", "STRIPE_WEBHOOK_SECRET": "whsec_own"}
        below = dotenv.parent / "below"
        below.mkdir()
        monkeypatch.chdir(below)
        assert Settings.load({**own, **FROM_FLASK}).stripe_api_key == "sk_test_own"
        skipped = {**SECRETS, **FROM_FLASK, "FLASK_SKIP_DOTENV": "1"}
        assert Settings.load(skipped).stripe_api_key == "sk_test_fake"
        (below / ".env").write_text(LINES, encoding="utf-8")
        assert Settings.load({**SECRETS, **FROM_FLASK}).stripe_api_key == "sk_test_fake"

    @pytest.mark.processes
    def test_file_that_both_read(self, dotenv: Path) -> None:
        """Without the set-up of ``make`` too, the ``.env`` of this folder counts as it is."""
        with dotenv.open("a", encoding="utf-8") as file:
            file.write("DATABASE_URL=sqlite:///${HOME}/x.sqlite3\n")
        environ = {"HOME": "/root", "FLASK_SKIP_DOTENV": "0"}
        said = run(["-m", "flask", "--app", "app", "doctor"], dotenv.parent, **environ)
        assert "FAIL  settings      DATABASE_URL has ${...}" in said
        assert len([line for line in said.splitlines() if line.startswith("FAIL")]) == 1
