"""The settings are complete and typed, and all problems are reported at once."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from app.errors import StartError
from app.setting_fields import secret_texts
from app.settings import Settings
from app.text import redactor

ENVIRON = {"STRIPE_API_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": "whsec_fake"}


def load(**changes: str) -> Settings:
    """Load complete settings with some variables changed, and no file."""
    return Settings.load({**ENVIRON, **changes}, dotenv=None)


def problems(**changes: str) -> list[str]:
    """Return what is wrong with settings that cannot be loaded."""
    with pytest.raises(StartError) as raised:
        load(**changes)
    return raised.value.problems


def test_defaults_are_those_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the two secrets alone the service runs, inline and on SQLite.

    The release is that of the working directory, which is no checkout here.
    """
    monkeypatch.chdir("/")
    assert load() == Settings(
        stripe_api_key="sk_test_fake",
        stripe_webhook_secrets=("whsec_fake",),
        stripe_mode="",
        stripe_context=None,
        stripe_api_base=None,
        stripe_rate_limit=None,
        retention_days=90,
        database_url="sqlite:///var/inbox.sqlite3",
        database_schema=None,
        migrate="auto",
        handlers_package="handlers",
        release="",
        processing="inline",
        bind_host="",
        port=4242,
        web_concurrency=2,
        web_threads=8,
        worker_cpu_affinity="auto",
        worker_threads=4,
        retry_base_seconds=10.0,
        retry_cap_seconds=21600.0,
        max_attempts=35,
        max_crashes=5,
        max_body_bytes=524288,
        lease_seconds=30.0,
        log_level="info",
        log_format="json",
    )


def test_every_variable_is_read() -> None:
    """Each setting can be changed by its variable."""
    settings = load(
        STRIPE_API_KEY="rk_live_fake",
        STRIPE_WEBHOOK_SECRET="whsec_a, whsec_b,",
        STRIPE_API_BASE="https://127.0.0.1:12111/",
        STRIPE_RATE_LIMIT="30",
        RETENTION_DAYS="31",
        DATABASE_URL="postgres://user:fake@db:5432/inbox",
        DATABASE_SCHEMA="stripe_inbox",
        MIGRATE="check",
        DATABASE_LISTEN_URL="postgres://user:fake@direct:5432/inbox",
        HANDLERS_PACKAGE="team.handlers",
        RELEASE="shop@1.4.2+build/7",
        PROCESSING="QUEUE",
        BIND_HOST="[::1]",
        PORT="80",
        OPS_PORT="81",
        WEB_CONCURRENCY="3",
        WEB_THREADS="4",
        WORKER_CPU_AFFINITY="OFF",
        WORKER_THREADS="0",
        RETRY_BASE_SECONDS="0.5",
        RETRY_CAP_SECONDS="60",
        MAX_ATTEMPTS="3",
        MAX_CRASHES="2",
        MAX_BODY_BYTES="2048",
        LEASE_SECONDS="2.5",
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="console",
    )

    assert settings == Settings(
        stripe_api_key="rk_live_fake",
        stripe_webhook_secrets=("whsec_a", "whsec_b"),
        stripe_api_base="https://127.0.0.1:12111",
        stripe_rate_limit=30,
        retention_days=31,
        database_url="postgresql+psycopg://user:fake@db:5432/inbox",
        database_schema="stripe_inbox",
        migrate="check",
        database_listen_url="postgresql+psycopg://user:fake@direct:5432/inbox",
        handlers_package="team.handlers",
        release="shop@1.4.2+build/7",
        processing="queue",
        bind_host="::1",
        port=80,
        ops_port=81,
        web_concurrency=3,
        web_threads=4,
        worker_cpu_affinity="off",
        worker_threads=0,
        retry_base_seconds=0.5,
        retry_cap_seconds=60.0,
        max_attempts=3,
        max_crashes=2,
        max_body_bytes=2048,
        lease_seconds=2.5,
        log_level="debug",
        log_format="console",
    )
    assert settings.livemode is True
    assert load().livemode is False


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 20),
        ({"STRIPE_API_KEY": "rk_live_fake"}, 80),
        ({"STRIPE_API_BASE": "http://127.0.0.1:12111"}, 0),
        ({"STRIPE_API_BASE": "http://127.0.0.1:12111", "STRIPE_RATE_LIMIT": "7"}, 7),
        ({"STRIPE_RATE_LIMIT": "0"}, 0),
    ],
)
def test_rate_limit_is_below_stripes_own(changes: dict[str, str], limit: int) -> None:
    """The default depends on the mode of the key. A stand-in has no limit. A setting wins."""
    assert load(**changes).requests_per_second == limit


ORGANIZATION = {"STRIPE_API_KEY": "sk_org_marker", "STRIPE_CONTEXT": "acct_1/acct_2"}


@pytest.mark.parametrize(("mode", "livemode", "limit"), [("live", True, 80), ("TEST", False, 20)])
def test_mode_of_an_organization_key_is_a_setting(mode: str, livemode: bool, limit: int) -> None:  # noqa: FBT001 - a value of the table
    """Its prefix is the same for both modes."""
    settings = load(**ORGANIZATION, STRIPE_MODE=mode)
    assert (settings.livemode, settings.requests_per_second) == (livemode, limit)
    assert settings.stripe_context == "acct_1/acct_2"
    assert settings.key_kind == f"an organization key for {mode.lower()} mode and acct_1/acct_2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (ORGANIZATION, "STRIPE_MODE is not set. Set live or test"),
        (
            {"STRIPE_API_KEY": "sk_org_marker", "STRIPE_MODE": "live"},
            "STRIPE_CONTEXT is not set. Name an account, such as acct_1",
        ),
        ({**ORGANIZATION, "STRIPE_MODE": "both"}, "STRIPE_MODE is 'both'. Use one of: live, test"),
        (
            {**ORGANIZATION, "STRIPE_MODE": "live", "STRIPE_CONTEXT": "acct 1"},
            "STRIPE_CONTEXT is not an account like acct_1",
        ),
        ({"STRIPE_MODE": "live"}, "STRIPE_MODE is live, and STRIPE_API_KEY is a test key"),
        ({"STRIPE_CONTEXT": "acct_1"}, "STRIPE_CONTEXT is for an organization key (sk_org_...)"),
    ],
)
def test_organization_key_needs_mode_and_context(changes: dict[str, str], words: str) -> None:
    """An organization key needs both, and no other key may have another mode or a context."""
    (problem,) = problems(**changes)
    assert problem.startswith(words)
    assert load(STRIPE_MODE="test").livemode is False


@pytest.mark.parametrize(
    "key",
    [
        {"STRIPE_API_KEY": "sk_live_fake"},
        {"STRIPE_API_KEY": "rk_live_fake"},
        {**ORGANIZATION, "STRIPE_MODE": "live", "STRIPE_CONTEXT": "acct_1"},
    ],
)
def test_live_key_needs_https(key: dict[str, str]) -> None:
    """A stand-in at an http address, even a local one, must not get a live key."""
    (problem,) = problems(**key, STRIPE_API_BASE="HTTP://127.0.0.1:12111")
    assert problem.startswith("STRIPE_API_BASE is not https, and STRIPE_API_KEY is a")
    assert load(**key, STRIPE_API_BASE="HTTPS://proxy").livemode is True


@pytest.mark.parametrize(
    ("value", "host"),
    [("127.0.0.1", "127.0.0.1"), ("[::]", "::"), ("0::1", "::1"), ("web-1.local", "web-1.local")],
)
def test_bind_host_is_an_address_or_a_name(value: str, host: str) -> None:
    """Both kinds of addresses are taken, in brackets too, and host names."""
    assert load(BIND_HOST=value).bind_host == host


def test_white_space_around_a_secret_is_not_part_of_it() -> None:
    """A line end that came along when the secret was copied would make every delivery fail."""
    assert load(STRIPE_WEBHOOK_SECRET=" whsec_fake\n").stripe_webhook_secrets == ("whsec_fake",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("STRIPE_API_KEY", "", "is not set. Take a secret or restricted key"),
        ("STRIPE_API_KEY", "", "in a new clone `make run` makes a .env"),
        ("STRIPE_API_KEY", "pk_test_fake", "does not begin with sk_live_, rk_live_"),
        ("STRIPE_API_KEY", "sk_test_fa ke", "has white space inside"),
        ("STRIPE_WEBHOOK_SECRET", "", "is not set. Take the signing secret (whsec_...)"),
        ("STRIPE_WEBHOOK_SECRET", " , ", "is not set"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a b", "(secret 1 of 1) has white space inside"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a,we_1", "(secret 2 of 2) does not begin with whsec_"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_", "(secret 1 of 1) is a placeholder"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_replace_me", "remove .env and call make run"),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a,whsec_a", "(secret 2 of 2) is the same as an earlier"),
        ("STRIPE_API_BASE", "localhost:12111", "is not a URL like http://127.0.0.1:12111"),
        ("STRIPE_API_BASE", "http://", "is not a URL like"),
        ("STRIPE_API_BASE", "http://:80", "is not a URL like"),
        ("STRIPE_API_BASE", "http://[::1", "is not a URL like"),
        ("STRIPE_API_BASE", "http://host:http", "is not a URL like"),
        ("STRIPE_API_BASE", "http://host:99999", "is not a URL like"),
        ("STRIPE_RATE_LIMIT", "-1", "is '-1'. Use a whole number from 0 to 10000"),
        ("RETENTION_DAYS", "30", "is '30'. Use 31 or more, or 0 to keep all events: Stripe"),
        ("RETENTION_DAYS", "1", "is '1'. Use 31 or more, or 0 to keep all events: Stripe"),
        ("RETENTION_DAYS", "-1", "is '-1'. Use a whole number from 0 to 36500"),
        ("DATABASE_URL", "inbox.sqlite3", "is not a database URL"),
        ("DATABASE_SCHEMA", "Stripe", "is 'Stripe'. Use up to 50 lower-case letters"),
        ("DATABASE_SCHEMA", "pg_stripe", "is 'pg_stripe'"),
        ("DATABASE_SCHEMA", "stripe", "is for PostgreSQL, and DATABASE_URL names SQLite"),
        ("MIGRATE", "never", "is 'never'. Use one of: auto, check"),
        ("DATABASE_LISTEN_URL", "sqlite:///x.db", "names SQLite, which has no notifications"),
        ("DATABASE_LISTEN_URL", "mysql://host/x", "names a database other than sqlite and"),
        ("HANDLERS_PACKAGE", "team/handlers", "is not the name of a Python package"),
        ("PROCESSING", "async", "is 'async'. Use one of: inline, queue"),
        ("WORKER_THREADS", "-1", "is '-1'. Use a whole number from 0 to 1024"),
        ("RETRY_BASE_SECONDS", "0", "is '0'. Use seconds from 0.01 to 86400"),
        ("RETRY_CAP_SECONDS", "never", "is 'never'. Use seconds from 0.01 to 604800"),
        ("MAX_ATTEMPTS", "0", "is '0'. Use a whole number from 1 to 10000"),
        ("MAX_CRASHES", "0", "is '0'. Use a whole number from 1 to 1000000"),
        ("BIND_HOST", "0.0.0.0:80", "is '0.0.0.0:80'. Use an address like 127.0.0.1 or ::"),
        ("BIND_HOST", "fe80::1%eth0", "PORT has the port"),
        ("BIND_HOST", "10.0.0.256", "is '10.0.0.256'. Use an address"),
        ("BIND_HOST", "http://host", "or a host name"),
        ("PORT", "0", "is '0'. Use a whole number from 1 to 65535"),
        ("PORT", "9" * 5000, "9'. Use a whole number from 1 to 65535"),
        ("PORT", "http", "is 'http'. Use a whole number"),
        ("PORT", "٤٢", "is '٤٢'. Use a whole number"),
        ("OPS_PORT", "x", "is 'x'. Use a whole number from 1 to 65535"),
        ("OPS_PORT", "4242", "is the same as PORT, which takes deliveries. Use another one"),
        ("WEB_CONCURRENCY", "-1", "is '-1'. Use a whole number from 1 to 256"),
        ("WEB_THREADS", "0", "is '0'. Use a whole number from 1 to 1024"),
        ("MAX_BODY_BYTES", "1", "is '1'. Use a whole number from 1024"),
        ("LEASE_SECONDS", "0.5", "is '0.5'. Use seconds from 1 to 3600"),
        ("LEASE_SECONDS", "nan", "is 'nan'. Use seconds"),
        ("LEASE_SECONDS", "soon", "is 'soon'. Use seconds"),
        ("LOG_LEVEL", "loud", "is 'loud'. Use one of: debug, info, warning, error"),
        ("LOG_FORMAT", "xml", "is 'xml'. Use one of: json, console"),
    ],
)
def test_wrong_value_is_named_with_its_variable(name: str, value: str, words: str) -> None:
    """Each message begins with the variable and says what to do."""
    (problem,) = problems(**{name: value})
    assert problem.startswith(f"{name} ")
    assert words in problem


@pytest.mark.parametrize("name", ["STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "DATABASE_URL"])
@pytest.mark.parametrize(
    ("character", "words"),
    [
        ("\u200b", "has U+200B (ZERO WIDTH SPACE) at position 9, which cannot be seen"),
        ("\u00a0", "has U+00A0 (NO-BREAK SPACE) at position 9"),
        ("\n", "has U+000A (a control character) at position 9"),
    ],
)
def test_hidden_character_is_named(name: str, character: str, words: str) -> None:
    """A key with one would start well, and fail each delivery or each request."""
    start = {**ENVIRON, "DATABASE_URL": "sqlite:///x"}[name][:8]
    (problem,) = problems(**{name: f"{start}{character}marker"})
    assert problem.startswith(f"{name} {words}")
    assert "marker" not in problem


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("STRIPE_API_KEY", '"sk_test_marker"', "STRIPE_API_KEY has quotes around it"),
        ("STRIPE_WEBHOOK_SECRET", "'whsec_marker'", "STRIPE_WEBHOOK_SECRET has quotes around it"),
        ("PORT", '"80"', "PORT has quotes around it"),
        ("STRIPE_API_KEY", 'sk_test_marker"', "has U+0022 (QUOTATION MARK) at position 15"),
        ("STRIPE_API_KEY", "sk_test_m\u0430rker", "has U+0430 (CYRILLIC SMALL LETTER A)"),
        (
            "STRIPE_WEBHOOK_SECRET",
            "whsec_a,\u201cwhsec_marker",
            "(secret 2 of 2) has U+201C (LEFT DOUBLE QUOTATION MARK) at position 1",
        ),
    ],
)
def test_quotes_and_foreign_characters_are_named(name: str, value: str, words: str) -> None:
    """``docker run --env-file`` keeps quotes, and copied text has look-alikes."""
    (problem,) = problems(**{name: value})
    assert words in problem
    assert "marker" not in problem


def test_all_problems_are_said_at_once() -> None:
    """One start names everything that has to be corrected."""
    with pytest.raises(StartError) as raised:
        Settings.load({"PORT": "x", "LOG_LEVEL": "x"}, dotenv=None)

    assert str(raised.value).splitlines()[0] == "The settings cannot be used:"
    names = [problem.split()[0] for problem in raised.value.problems]
    assert names == ["STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET", "PORT", "LOG_LEVEL"]


def test_events_can_be_kept_for_ever() -> None:
    """0 days are no age at all: nothing is removed."""
    assert load(RETENTION_DAYS="0").retention_days == 0


def test_messages_do_not_hold_secrets() -> None:
    """The message of a failed start may be logged."""
    said = problems(STRIPE_API_KEY="pk_test_marker", STRIPE_WEBHOOK_SECRET="marker,whsec_marker b")
    assert "marker" not in " ".join(said)


@pytest.mark.parametrize("user", ["marker@", "me:marker@", ":marker@"])
def test_address_of_the_api_has_no_password(user: str) -> None:
    """Logs and commands show the address, so a password in it is refused, and not quoted."""
    (problem,) = problems(STRIPE_API_BASE=f"https://{user}host")
    assert problem.startswith("STRIPE_API_BASE has a user or a password before @")
    assert "marker" not in problem


@pytest.mark.parametrize("name", ["PORT", "BIND_HOST", "PROCESSING", "LEASE_SECONDS"])
def test_secret_in_another_setting_is_not_printed(name: str) -> None:
    """A message that quotes the wrong value hides a secret in it, and shortens a long one."""
    (problem,) = problems(**{name: "sk_live_marker"})
    assert problem.startswith(f"{name} is '[redacted]'. Use ")
    (problem,) = problems(**{name: "/" * 5000})
    assert len(problem) < 300


def test_parts_of_the_url_of_alerts_are_secret() -> None:
    """The log does not show the path of ALERT_URL, or its long segments. It shows short words."""
    settings = load(ALERT_URL="https://hooks.example.com/services/T0/MarkerOfAlertUrl")
    redact = redactor(secret_texts(settings))
    assert redact("POST /services/T0/MarkerOfAlertUrl") == "POST [redacted]"
    assert redact("no MarkerOfAlertUrl in services") == "no [redacted] in services"


def test_secrets_are_not_in_the_representation() -> None:
    """Printing the settings shows no secret, and no password of the database."""
    settings = load(
        STRIPE_API_KEY="sk_test_marker",
        STRIPE_WEBHOOK_SECRET="whsec_marker",
        DATABASE_URL="postgresql://user:marker@host/x",
    )
    assert "marker" not in repr(settings)


def test_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    """``.env`` is for development. The variables of a container win."""
    file = tmp_path / ".env"
    file.write_text('STRIPE_API_KEY="sk_test_file"\nSTRIPE_WEBHOOK_SECRET=whsec_$a\nPORT=1\n')

    settings = Settings.load({"PORT": "2"}, dotenv=file)

    assert settings.stripe_api_key == "sk_test_file"
    assert settings.stripe_webhook_secrets == ("whsec_$a",)
    assert settings.port == 2


def test_missing_file_is_no_problem(tmp_path: Path) -> None:
    """A container has no ``.env``."""
    assert Settings.load(ENVIRON, dotenv=tmp_path / ".env") == load()


def test_own_environment_is_read_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments, the process's environment and the ``.env`` of this folder count."""
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    (tmp_path / ".env").write_text("LOG_LEVEL=error\n")

    assert Settings.load().log_level == "error"


def test_log_is_readable_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LOG_FORMAT, a person at a terminal gets readable lines, and a machine JSON."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert load().log_format == "console"


@pytest.mark.parametrize("value", ["a release", "x" * 101, "-1"])
def test_release_is_one_short_word(value: str) -> None:
    """Tables and log lines show it."""
    (problem,) = problems(RELEASE=value)

    assert problem.startswith("RELEASE is ")
    assert problem.endswith("such as 1.4.2 or a commit")


class TestAlerts:
    """The settings of alerts."""

    @pytest.mark.parametrize(
        "url",
        [
            "https://hooks.slack.com/services/T0/B0/x",
            "http://localhost:9093/x",
            "http://127.0.0.9/",
            "http://[::1]:9093/",
        ],
    )
    def test_url(self, url: str) -> None:
        """An https URL is taken, and any URL of this machine."""
        assert load(ALERT_URL=url).alert_url == url

    @pytest.mark.parametrize(
        ("name", "value", "words"),
        [
            ("ALERT_URL", "http://hooks.slack.com/MarkerOfUrl", "is not https, so others could"),
            ("ALERT_URL", "http://127.0.0.1.MarkerOfUrl/", "is not https"),
            ("ALERT_URL", "MarkerOfUrl", "is not a URL like https://hooks.slack.com/services/..."),
            ("ALERT_URL", "https://[MarkerOfUrl", "is not a URL like"),
            ("ALERT_URL", "https://host/Marker OfUrl", "is not a URL like"),
            ("ALERT_URL", "https://me:MarkerOfUrl@host/", "has a user or a password before @"),
            ("ALERT_SECRET", "MarkerOfUrl", "is not whsec_ and 24 to 64 bytes in Base64"),
            ("ALERT_SECRET", "whsec_MarkerOfUrl", "is not whsec_ and 24 to 64 bytes in Base64"),
            ("ALERT_SECRET", f"whsec_{'A' * 88}", "is not whsec_ and 24 to 64 bytes in Base64"),
            ("ALERT_BACKLOG_SECONDS", "-1", "Use seconds from 0 to 604800"),
            ("ALERT_FAILURE_SHARE", "20", "Use a share from 0 to 1, such as 0.2"),
            ("ALERT_FAILURE_SHARE", "20 %", "Use a share from 0 to 1, such as 0.2"),
            ("ALERT_WINDOW_SECONDS", "1", "Use seconds from 60 to 86400"),
            ("WATCH_SECONDS", "30", "is '30'. Use seconds from 60 to 86400, or 0 for never"),
            ("PUBLIC_URL", "your.host", "is not a URL like https://your.host"),
            ("PUBLIC_URL", "https://your.host/?a=b", "has a ? or a #"),
        ],
    )
    def test_refused(self, name: str, value: str, words: str) -> None:
        """What cannot be used is refused in a sentence, which does not hold a secret."""
        (problem,) = problems(**{name: value})
        assert problem.startswith(name)
        assert words in problem
        assert "MarkerOfUrl" not in problem

    def test_secret_of_a_destination(self) -> None:
        """The receiver of alerts must not be able to sign deliveries."""
        secret = f"whsec_{'A' * 32}"
        assert load(ALERT_SECRET=secret).alert_secret == secret
        (problem,) = problems(ALERT_SECRET=secret, STRIPE_WEBHOOK_SECRET=secret)
        assert problem.startswith("ALERT_SECRET is also in STRIPE_WEBHOOK_SECRET")

    @pytest.mark.parametrize("value", ["https://host", "https://host/", "https://host/ops/"])
    def test_public_url(self, value: str) -> None:
        """The URL is taken with and without /ops."""
        assert load(PUBLIC_URL=value).public_url == "https://host"
