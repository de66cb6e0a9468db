"""A started service with its operations page, and Chromium."""

from __future__ import annotations

import http.client
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from app.inbox import Inbox
from app.states import State
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.support.services import HOST, SECRETS, Lab, Service
from tests.support.waiting import wait_for

CHROMIUM = "/usr/bin/chromium"
TOKEN = "browser-test-token-that-may-act-0123"
READ_TOKEN = "browser-test-token-that-may-look-0123"
NAME = "anna"
DEADLINE_MS = 20_000
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}

#: Words of errors that tests of refusals ask for: a status of 400 or more, and a refused frame.
EXPECTED = ("the server responded with a status", "frame-ancestors")

#: The handler of this type fails until a file ``mended`` is in its folder.
BROKEN = "v1.invoice.paid"
GOOD = "v1.customer.created"
GIVES_UP = "v1.product.created"
HANDLERS = {
    "__init__": "",
    "fallback": "def handle(notif, client, details): pass\n",
    "v1_customer_created": "def handle(notif, client): pass\n",
    "v1_invoice_paid": """
        from pathlib import Path

        def handle(notif, client):
            if not Path(__file__).with_name("mended").exists():
                raise KeyError("customer")
    """,
    "v1_product_created": """
        import app

        def handle(notif, client):
            raise app.GiveUp("the product has no price")
    """,
}


@dataclass(frozen=True)
class Site:
    """A started service, and the folder of its handlers."""

    service: Service
    folder: Path
    database_url: str

    @property
    def url(self) -> str:
        """The address of the overview."""
        return f"http://{HOST}:{self.service.port}/ops"

    def deliver(self, event_type: str, **changes: Any) -> str:
        """Deliver a signed event of this type, and return its id."""
        event_id = f"evt_{uuid.uuid4().hex[:16]}"
        body = samples.encode(samples.notification(event_type, event_id=event_id, **changes))
        headers = {"Stripe-Signature": samples.sign(body, SECRETS[0], int(time.time()))}
        with closing(http.client.HTTPConnection(HOST, self.service.port, timeout=60)) as client:
            client.request("POST", "/webhook", body, headers)
            client.getresponse().read()
        return event_id

    def deliver_dead(self, event_type: str, count: int = 1) -> list[str]:
        """Deliver events whose handler fails, and wait until they are dead. Return their ids."""
        ids = [self.deliver(event_type) for _ in range(count)]
        for each in ids:
            self.wait_for_state(each, State.DEAD)
        return ids

    def wait_for_state(self, event_id: str, state: State) -> None:
        """Wait until an event is in this state."""
        with closing(Inbox(self.database_url, lease_seconds=30)) as inbox:

            def is_there() -> bool:
                event = inbox.administration.find(event_id)
                return event is not None and event.state == state

            wait_for(is_there, 60)

    def mend(self) -> None:
        """Correct the handler of ``BROKEN``."""
        (self.folder / "mended").touch()

    def break_again(self) -> None:
        """Let the handler of ``BROKEN`` fail."""
        (self.folder / "mended").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def stripe() -> Iterator[StripeApi]:
    """The stand-in for Stripe's API."""
    api = StripeApi()
    with api.serve():
        yield api


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, stripe: StripeApi) -> Iterator[Site]:
    """A service in queue mode, whose workers retry at once and three times."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "billing_handlers"
    package.mkdir()
    for name, source in HANDLERS.items():
        (package / f"{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    lab = Lab(package)
    try:
        database_url = f"sqlite:///{folder}/inbox.sqlite3"
        service = lab.start(
            database_url,
            PROCESSING="queue",
            STRIPE_API_BASE=stripe.url,
            OPS_TOKEN=TOKEN,
            OPS_READ_TOKEN=READ_TOKEN,
            MAX_ATTEMPTS=2,
            RETRY_BASE_SECONDS=0.01,
            RETRY_CAP_SECONDS=0.01,
            WEB_CONCURRENCY=1,
        )
        wait_for(service.is_ready, 60)
        yield Site(service, package, database_url)
        service.terminate()  # it removes its folder of metrics
        service.wait()
    finally:
        lab.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium. Its sandbox needs rights that a container does not have."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


MakePage = Callable[..., Page]


@pytest.fixture
def make_page(chromium: Browser) -> Iterator[MakePage]:
    """A function that opens a page in a browser with a person's credentials.

    The test fails if the browser reports an error of a script, or a breach of the page's policy.
    """
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not any(word in message.text for word in EXPECTED):
            problems.append(message.text)

    with ExitStack() as stack:

        def make(token: str | None = TOKEN, name: str = NAME, **options: Any) -> Page:
            credentials = {"username": name, "password": token} if token else None
            context: BrowserContext = chromium.new_context(http_credentials=credentials, **options)
            stack.callback(context.close)
            context.set_default_timeout(DEADLINE_MS)
            page = context.new_page()
            page.on("console", note)
            page.on("pageerror", lambda error: problems.append(str(error)))
            return page

        yield make
    assert problems == []


@pytest.fixture
def page(make_page: MakePage, site: Site) -> Page:
    """The overview, as a person sees it who may act."""
    page = make_page()
    page.goto(site.url)
    return page


def check_accessible(page: Page) -> None:
    """Fail if axe-core finds something wrong with a page, or if it is wider than the screen."""
    for size in (DESKTOP, PHONE):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page).response["violations"]
            assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
