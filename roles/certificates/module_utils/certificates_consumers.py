# Copyright (c) 2026 The LLM Cost Tracker runbooks authors
# SPDX-License-Identifier: MIT
"""How each kind of service is told of a new certificate, and how it is known that it took it.

A service that was told may have done nothing: nginx keeps the old pair and returns 0, pg_reload_conf() only signals. So telling
is one thing, and the certificate that the address presents is what counts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable

from ansible.module_utils.certificates_endpoints import Endpoint, Served, ask_all
from ansible.module_utils.certificates_model import Consumer, Managed
from ansible.module_utils.certificates_x509 import Certificate
from ansible.module_utils.runbook_components import Component, ComponentError
from ansible.module_utils.runbook_psql import Connection, PsqlError, PsqlUnreachable, Session
from ansible.module_utils.runbook_tools import ToolError, Tools

ASK_SECONDS = 5.0
COMMAND_SECONDS = 60.0
# After a good reload an old worker of nginx may answer once more.
SETTLED = 3
REDIS_RELOADS = (7, 0, 1)  # 7.0 takes both files at once, 7.0.0 ignores names that are the same


class ConsumerError(Exception):
    """A service could not be told; the text says which and why."""


@dataclass(frozen=True)
class Redis:
    """How redis-cli reaches the server. `password` goes through its environment."""

    socket: str = ""
    host: str = "127.0.0.1"
    port: int = 6379
    password: str = ""
    user: str = ""
    tls: bool = False
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""


@dataclass(frozen=True)
class Reach:
    """How services are reached: the components of the inventory, and the connections of those that are asked by a client."""

    tools: Tools = field(default_factory=Tools)
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    postgresql: Connection | None = None
    redis: Redis | None = None
    wait_seconds: float = 30.0
    poll_seconds: float = 0.05


Ask = Callable[[Sequence[Endpoint]], "list[Served]"]


def ask_now(endpoints: Sequence[Endpoint]) -> list[Served]:
    return ask_all(endpoints, ASK_SECONDS)


def endpoint_of(consumer: Consumer) -> Endpoint:
    return Endpoint(consumer.address, consumer.server_name, consumer.starttls)


class Services:
    """The services of a host. `told` has what was done to them, one line each, `names` the consumers that know the current files."""

    def __init__(self, reach: Reach, ask: Ask = ask_now, clock: Callable[[], float] = time.monotonic) -> None:
        self.reach, self.ask, self.clock = reach, ask, clock
        self.told: list[str] = []
        self.names: set[str] = set()

    def serving(self, consumers: Sequence[Consumer]) -> dict[str, Served]:
        """Return what each address presents, by the name of its consumer."""
        with_address = [one for one in consumers if one.address]
        answers = self.ask([endpoint_of(one) for one in with_address]) if with_address else []
        return {one.name: answer for one, answer in zip(with_address, answers)}

    def bring(self, managed: Managed, leaf: Certificate, *, absent: Sequence[str] = ()) -> str:
        """Have every consumer present `leaf`, telling those that do not; return "" or why one does not.

        `absent` are consumers that did not answer before: they are told, and nothing is made of it if they still do not answer.
        """
        done: set[tuple[Any, ...]] = set()
        served = self.serving(managed.consumers)
        for consumer in managed.consumers:
            answer = served.get(consumer.name)
            if answer is not None and presents(answer, leaf):
                continue
            try:
                if consumer.how not in done:
                    self.tell(consumer, managed)
                    done.add(consumer.how)
                self.names.add(consumer.name)
                if consumer.address:
                    self.wait(consumer, leaf)
            except ConsumerError as error:
                if consumer.name in absent:
                    continue
                return f"{consumer.name}: {error}"
        return ""

    def wait(self, consumer: Consumer, leaf: Certificate) -> None:
        """Wait until an address presents `leaf`, several times in a row. Raise ConsumerError after the limit."""
        until = self.clock() + self.reach.wait_seconds
        row = 0
        while row < SETTLED:
            answer = self.ask([endpoint_of(consumer)])[0]
            row = row + 1 if presents(answer, leaf) else 0
            if row == 0 and self.clock() > until:
                seen = f"serial {answer.chain[0].serial_hex}" if answer.chain else answer.error
                raise ConsumerError(f"{consumer.address} does not present serial {leaf.serial_hex} but {seen}")
            if row < SETTLED:
                time.sleep(self.reach.poll_seconds)

    def tell(self, consumer: Consumer, managed: Managed) -> None:
        """Have a service read its certificate anew, the gentlest way that it knows. Raise ConsumerError if it refuses."""
        try:
            said = self._tell(consumer, managed)
        except (ComponentError, ToolError, PsqlError, PsqlUnreachable) as error:
            raise ConsumerError(str(error)) from error
        if said:
            self.told.append(f"{consumer.name}: {said}")

    def _tell(self, consumer: Consumer, managed: Managed) -> str:
        if consumer.command:
            self.reach.tools.run(list(consumer.command), limit_seconds=COMMAND_SECONDS)
            return " ".join(consumer.command)
        if consumer.reload == "none":
            return ""
        if consumer.reload in ("reload", "restart"):
            return self._component(consumer, {"reload": "reloaded", "restart": "restarted"}[consumer.reload])
        special = {"nginx": self._nginx, "postgresql": self._postgresql, "redis": self._redis}.get(consumer.kind)
        return special(consumer, managed) if special else self._component(consumer, "restarted")

    def _component(self, consumer: Consumer, state: str) -> str:
        if not consumer.component:
            raise ConsumerError(f"it has to be {state}, and no component of tracker_components is named: set component or command")
        component = Component(consumer.component, self.reach.components[consumer.component])
        if component.status().state in ("stopped", "absent", "failed"):
            raise ConsumerError(f"{consumer.component} does not run; see the runbook service-down")
        component.ensure(state)
        return state

    def _nginx(self, consumer: Consumer, managed: Managed) -> str:
        described = self.reach.components.get(consumer.component, {})
        if described.get("manager") == "compose":
            base = [*(described.get("control") or ["docker", "compose"]), "-f", str(described["config"])]
            service = str(described.get("unit") or consumer.component)
            self.reach.tools.run([*base, "exec", "-T", service, "nginx", "-t"], limit_seconds=COMMAND_SECONDS)
            self.reach.tools.run([*base, "exec", "-T", service, "nginx", "-s", "reload"], limit_seconds=COMMAND_SECONDS)
            return "nginx -s reload"
        # It says what is wrong; a reload only returns 0 and keeps the old pair.
        self.reach.tools.run(["nginx", "-t"], limit_seconds=COMMAND_SECONDS)
        if consumer.component:
            return self._component(consumer, "reloaded")
        self.reach.tools.run(["nginx", "-s", "reload"], limit_seconds=COMMAND_SECONDS)
        return "nginx -s reload"

    def _postgresql(self, consumer: Consumer, managed: Managed) -> str:
        if self.reach.postgresql is None:
            raise ConsumerError("no connection to PostgreSQL is set: see certificates_database_name")
        with Session(self.reach.postgresql) as session:
            wrong = session.rows("SELECT sourcefile, sourceline, name, error FROM pg_file_settings WHERE error IS NOT NULL")
            if wrong:
                first = wrong[0]
                raise ConsumerError(f"{first['sourcefile']} line {first['sourceline']}: {first['name']}: {first['error']}")
            session.rows("SELECT pg_reload_conf() AS told")
        return "pg_reload_conf()"

    def _redis(self, consumer: Consumer, managed: Managed) -> str:
        if self.reach.redis is None:
            raise ConsumerError("no connection to Redis is set: see certificates_redis")
        said = self._redis_cli(["INFO", "server"])
        found = re.search(r"^redis_version:(\d+)\.(\d+)\.(\d+)", said, re.MULTILINE)
        if found is None:
            raise ConsumerError(f"Redis does not tell its version: {said.strip()[:200]}")
        if tuple(int(part) for part in found.groups()) < REDIS_RELOADS:
            return self._component(consumer, "restarted")
        files = ["tls-cert-file", managed.certificate_file, "tls-key-file", managed.key_file]
        if managed.trust_file:
            files += ["tls-ca-cert-file", managed.trust_file]
        said = self._redis_cli(["CONFIG", "SET", *files])
        if said.strip() != "OK":
            raise ConsumerError(f"CONFIG SET tls-cert-file: {said.strip()[:400]}")
        return "CONFIG SET tls-cert-file tls-key-file"

    def _redis_cli(self, words: Sequence[str]) -> str:
        redis = self.reach.redis
        assert redis is not None  # noqa: S101  _redis has looked
        argv = ["redis-cli"]
        argv += ["-s", redis.socket] if redis.socket else ["-h", redis.host, "-p", str(redis.port)]
        if redis.user:
            argv += ["--user", redis.user]
        if redis.tls:
            argv += ["--tls", *(["--cacert", redis.ca_file] if redis.ca_file else ["--insecure"])]
            if redis.certificate_file:
                argv += ["--cert", redis.certificate_file, "--key", redis.key_file]
        env = {"REDISCLI_AUTH": redis.password} if redis.password else {}
        return self.reach.tools.run([*argv, *words], env=env, limit_seconds=COMMAND_SECONDS).out


def presents(answer: Served, leaf: Certificate) -> bool:
    return bool(answer.chain) and answer.chain[0].der == leaf.der
