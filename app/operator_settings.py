"""The settings of the operator's tools: the operations page, alerts and the watch."""

from __future__ import annotations

from dataclasses import dataclass

from app import operator_conversions as conversions
from app.conversions import one_of, optional_port, seconds
from app.setting_fields import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSettings:
    """A part of ``Settings``."""

    ops_token: str = setting(
        "",
        conversions.token,
        "Opens the operations page at /ops: its password, 32 random characters or more. Empty:"
        " there is no such page.",
        secret=True,
    )
    ops_read_token: str = setting(
        "",
        conversions.token,
        "A second password for the operations page, for people who may look and change nothing.",
        secret=True,
    )
    ops_read_bodies: str = setting(
        "off",
        one_of("on", "off"),
        "on shows the bodies of events to people with OPS_READ_TOKEN too; they can hold personal"
        " data.",
    )
    ops_port: int | None = setting(
        "",
        optional_port,
        "A second port, which only operators reach, for /ops and /metrics; /metrics then needs no"
        " token. Empty: both are on PORT.",
    )
    alert_url: str | None = setting(
        "",
        conversions.alert_url,
        "Gets a POST with each alert, such as an incoming webhook of Slack or Mattermost. Empty:"
        " alerts are only logged.",
        secret=True,
    )
    alert_secret: str | None = setting(
        "",
        conversions.alert_secret,
        "Signs the alerts: whsec_ and 24 to 64 random bytes in Base64. Empty: they are not signed.",
        secret=True,
    )
    alert_backlog_seconds: float = setting(
        "900",
        seconds(0, 604800),
        "An alert is raised when the oldest due event waits longer than so many seconds; 0 for"
        " never.",
    )
    alert_silence_seconds: float = setting(
        "3600",
        seconds(0, 604800),
        "An alert is raised after so many seconds without a delivery, if there are some at this"
        " time on other days; 0 for never.",
    )
    alert_failure_share: float = setting(
        "0.2",
        conversions.share,
        "An alert is raised when more than this share of the attempts of a window failed; 0 for"
        " never.",
    )
    alert_window_seconds: float = setting(
        "900",
        seconds(60, 86400),
        "The window of an alert: it is raised at most once in so many seconds, for each error"
        " group.",
    )
    watch_seconds: float = setting(
        "600",
        conversions.interval,
        "Seconds between two checks of key, clock and event destinations at Stripe, by one process"
        " of an inbox; 0 for none.",
    )
    public_url: str | None = setting(
        "",
        conversions.page_url,
        "The URL under which operators reach /ops, for links in alerts, such as https://your.host.",
    )
