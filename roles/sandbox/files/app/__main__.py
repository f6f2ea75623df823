"""Stand-in for the LLM Cost Tracker: the interface its runbooks look at, on a real connection pool.

Configured by the environment:
  DATABASE_URL     required, a libpq connection string or URI (a password may come from PGPASSFILE)
  HOST, PORT       where to listen, 127.0.0.1 and 8000
  LOG_DIR          folder of llm-cost-tracker.log and llm-cost-tracker-error.log; ./logs
  LOG_LEVEL        INFO
  TLS_CERT_FILE, TLS_KEY_FILE   serve HTTPS with these
  RUN_AS_USER      started by root: become this user once everything is loaded
With --validate it starts nothing, and says what is wrong with them.
"""

import os
import pwd
import sys
from collections.abc import Mapping

import logs
import uvicorn
from api import build
from psycopg import ProgrammingError, conninfo


def become(user: str) -> None:
    """Give up root for good.

    The interpreter may live where only root can read. So the program starts as root, and this comes after its
    imports, instead of being started as that user.
    """
    account = pwd.getpwnam(user)
    logs.hand_over(account.pw_uid, account.pw_gid)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def faults(environment: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the configuration."""
    told = [] if environment.get("DATABASE_URL") else ["DATABASE_URL is not set."]
    try:
        conninfo.conninfo_to_dict(environment.get("DATABASE_URL", ""))
    except ProgrammingError as error:
        told.append(f"DATABASE_URL is no connection string: {str(error).strip()}")
    port = environment.get("PORT", "8000")
    if not port.isdigit() or not 0 < int(port) < 65536:
        told.append(f"PORT is {port}; it must be a number from 1 to 65535.")
    level = environment.get("LOG_LEVEL", "INFO").upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        told.append(f"LOG_LEVEL is {level}; it must be one of Python's levels.")
    for name in ("TLS_CERT_FILE", "TLS_KEY_FILE"):
        if environment.get(name) and not os.path.exists(environment[name]):
            told.append(f"{name} is {environment[name]}, which is not there.")
    return told


def main() -> int:
    environment = os.environ
    if told := faults(environment):
        print("\n".join(told), file=sys.stderr)
        return 2
    if sys.argv[1:] == ["--validate"]:
        return 0
    os.umask(0o077)
    level = environment.get("LOG_LEVEL", "INFO").upper()
    logs.configure(environment.get("LOG_DIR", "logs"), level)
    user = environment.get("RUN_AS_USER") if os.geteuid() == 0 else None
    uvicorn.run(
        build(environment["DATABASE_URL"], when_started=lambda: become(user) if user else None),
        host=environment.get("HOST", "127.0.0.1"),
        port=int(environment.get("PORT", "8000")),
        ssl_certfile=environment.get("TLS_CERT_FILE") or None,
        ssl_keyfile=environment.get("TLS_KEY_FILE") or None,
        log_config=None,  # everything goes to the log files through the root logger
        access_log=False,  # logs.AccessLog writes richer lines
        # Fixed, so that an optional faster one which happens to be installed cannot change the imports.
        loop="asyncio",
        http="h11",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
