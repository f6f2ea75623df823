"""Notifiers for apprise: PagerDuty's Events API v2 and Slack's incoming webhook, at the host that the URL names.

apprise's own know only the public hosts; a relay, another region or a stand-in is then out of reach. Both use https;
`?tls=no` is taken for this machine alone.
"""

from __future__ import annotations

import logging
import re
import threading
from http import HTTPStatus
from typing import Any, ClassVar

import requests
from apprise import Apprise, NotifyType
from apprise.manager_plugins import NotificationManager
from apprise.plugins.base import NotifyBase

from runbook.alertmanager import is_loopback

LIMIT_SECONDS = 20.0  # for one delivery, name resolution and a server that trickles included
_SEVERITY = {NotifyType.FAILURE: "critical", NotifyType.WARNING: "warning"}
# What a URL may say beside the host; `fullpath` keeps its slashes.
_TAKEN = ("user", "host", "port", "fullpath", "verify", "qsd", "schema", "asset", "tag")


class _Hook(NotifyBase):  # type: ignore[misc]
    """Posts JSON to a host. `fault` tells why the last message was not taken; no address is in it."""

    templates = ("{schema}://{host}",)
    title_maxlen = 1000
    body_maxlen = 20_000
    taken: ClassVar[tuple[int, ...]] = (200,)

    def __init__(self, plain: bool = False, fullpath: str | None = None, **rest: Any) -> None:
        super().__init__(**rest)
        if not self.host or (plain and not is_loopback(self.host)):
            raise TypeError("a host is missing, or tls=no is given for another machine")
        self.plain, self.path = plain, fullpath or "/"
        self.fault = ""

    @staticmethod
    def parse_url(url: str) -> dict[str, Any] | None:
        found = NotifyBase.parse_url(url, verify_host=False)
        if not found:
            return None
        query = found.get("qsd") or {}
        return {name: found[name] for name in _TAKEN if name in found} | {"plain": query.get("tls") == "no"}

    def url(self, privacy: bool = False, *_: Any, **__: Any) -> str:
        return f"{self.secure_protocol}://{self.host}"

    def document(self, body: str, title: str, notify_type: NotifyType) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def send(self, body: str, title: str = "", notify_type: NotifyType = NotifyType.INFO, **_: Any) -> bool:
        path, document = self.document(body, title, notify_type)
        port = f":{self.port}" if self.port else ""
        address = f"{'http' if self.plain else 'https'}://{self.host}{port}{path}"
        try:
            answer = requests.post(
                address, json=document, timeout=self.request_timeout, verify=self.verify_certificate,
                allow_redirects=False,
            )  # fmt: skip
        except requests.Timeout:
            self.fault = "it did not answer in time"
        except requests.exceptions.SSLError:
            self.fault = "its certificate is not trusted"
        except requests.RequestException as error:
            self.fault = "it cannot be reached" if isinstance(error, requests.ConnectionError) else type(error).__name__
        else:
            self.fault = "" if answer.status_code in self.taken else status(answer.status_code)
        return not self.fault


def status(code: int) -> str:
    """Given an HTTP status, return it in words."""
    try:
        return f"it answered {code} {HTTPStatus(code).phrase}"
    except ValueError:
        return f"it answered {code}"


class PagerDutyEvents(_Hook):
    """`pagerdutyevents://ROUTING_KEY@events.pagerduty.com`; whoever sends sets `action` and `dedup`."""

    service_name = "PagerDuty Events v2"
    secure_protocol = "pagerdutyevents"
    taken = (200, 202)

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        if not self.user:
            raise TypeError("the routing key is missing")
        self.action, self.dedup = "trigger", ""

    def document(self, body: str, title: str, notify_type: NotifyType) -> tuple[str, dict[str, Any]]:
        event: dict[str, Any] = {
            "routing_key": self.user,
            "event_action": self.action,
            "dedup_key": self.dedup,
            "client": "runbook",
            "payload": {
                "summary": title or body[:1000],
                "source": "runbook",
                "severity": _SEVERITY.get(notify_type, "info"),
                "custom_details": {"message": body},
            },
        }
        return "/v2/enqueue" if self.path == "/" else self.path, event


class SlackWebhook(_Hook):
    """`slackwebhook://hooks.slack.com/services/T.../B.../...`."""

    service_name = "Slack incoming webhook"
    secure_protocol = "slackwebhook"

    def document(self, body: str, title: str, notify_type: NotifyType) -> tuple[str, dict[str, Any]]:
        text = f"*{_plain(title)}*\n{_plain(body)}" if title else _plain(body)
        return self.path, {"text": text}


def _plain(text: str) -> str:
    """Slack reads <!channel> and <url|text> in what hosts said."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def register() -> None:
    """Make the notifiers known to apprise."""
    manager = NotificationManager()
    for notifier in (PagerDutyEvents, SlackWebhook):
        if notifier.secure_protocol not in manager:
            manager.add(notifier)


_FAULTS = {
    r"\berror[=: ]+(\d{3})\b": "",
    r"(?i)timed? ?out": "it did not answer in time",
    r"(?i)refused|unreachable|resolution|not known|connection|HTTP ?error|socket": "it cannot be reached",
    r"(?i)auth": "it does not take the credentials",
}


class _Ears(logging.Handler):
    """What apprise says goes nowhere but here: its lines hold addresses, and those are secrets."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def fault(self) -> str:
        """Return what went wrong in words of our own."""
        text = "\n".join(self.lines)
        for pattern, words in _FAULTS.items():
            if found := re.search(pattern, text):
                return words or status(int(found[1]))
        return "it was not taken"


_TYPES = {"critical": NotifyType.FAILURE, "warning": NotifyType.WARNING}


def deliver(url: str, title: str, body: str, severity: str, event: str, key: str) -> str:
    """Given an address of apprise's kind and a message, deliver it; return why it could not be, or an empty text.

    Where the service knows incidents, `key` ties a trigger to its resolve. Nothing of the address is in the answer.
    """
    register()
    ears, log = _Ears(), logging.getLogger("apprise")
    log.propagate, log.handlers = False, [ears]
    notifier = Apprise.instantiate(url, suppress_exceptions=True)
    if notifier is None:
        return "its address is not valid"
    if hasattr(notifier, "dedup") and hasattr(notifier, "action"):  # ours, and apprise's own pagerduty://
        notifier.dedup, notifier.action = key, event
    kind = NotifyType.SUCCESS if event == "resolve" else _TYPES.get(severity, NotifyType.INFO)
    faults: list[str] = []

    def work() -> None:
        try:
            taken = notifier.notify(body=body, title=title, notify_type=kind, body_format="text")
            faults.append("" if taken else getattr(notifier, "fault", "") or ears.fault())
        except Exception as error:  # a plugin of many; what it raises is not ours to foresee, nor to show
            faults.append(f"it failed with {type(error).__name__}")

    worker = threading.Thread(target=work, name="deliver", daemon=True)
    worker.start()
    worker.join(LIMIT_SECONDS)
    return faults[0] if faults else f"it did not answer within {LIMIT_SECONDS:g} s"
