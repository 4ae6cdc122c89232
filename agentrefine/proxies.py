"""Web proxies of the environment: traffic inside this machine never goes through one.

`HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` are read by every HTTP library that the pipeline uses, and a proxy does not
know this machine's own addresses.
"""

import os
from importlib.util import find_spec
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from agentrefine.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names of this machine that every library understands in `NO_PROXY`."""

SOCKS_VARIABLE = "AGENTREFINE_SOCKS_PROXY"
"""The environment variable that keeps a SOCKS proxy which cannot be used, so that processes started later name it."""

_PACKAGE = "socksio"
"""What the HTTP libraries of Prefect and of the endpoints' client need for a SOCKS proxy."""


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def keep_loopback_direct() -> None:
    """Let this process, and those that it starts, reach this machine without a proxy.

    `NO_PROXY` gets this machine's names. A SOCKS proxy for which a package is missing is kept in another variable,
    because HTTP libraries raise an error for it even where they would not use it; `check_proxy` reports it where it is
    needed.
    """
    kept = [name.strip() for name in getproxies().get("no", "").split(",") if name.strip()]
    if "*" not in kept:
        names = ",".join([*kept, *(name for name in LOOPBACK if name not in kept)])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = names
    if find_spec(_PACKAGE) is not None:
        return
    for name, value in list(os.environ.items()):
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy") and _is_socks(value):
            os.environ[SOCKS_VARIABLE] = value
            del os.environ[name]


def check_proxy(url: str, where: str) -> str | None:
    """The SOCKS proxy through which an address is reached; None when there is none. The error names `where` it stands.

    Raises:
        UserError: the package that SOCKS needs is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or is_loopback(url) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or os.environ.get(SOCKS_VARIABLE, "")
    if not _is_socks(proxy):
        return None
    if find_spec(_PACKAGE) is None:
        message = (
            f"{where}: {url} is reached through a SOCKS proxy (ALL_PROXY, HTTPS_PROXY or HTTP_PROXY), which needs a "
            f"package that is missing; run `pip install {_PACKAGE}`, or take the address into NO_PROXY."
        )
        raise UserError("not_installed", message, key=where, package=_PACKAGE)
    return proxy


def _is_socks(proxy: str) -> bool:
    return proxy.lower().startswith("socks")
