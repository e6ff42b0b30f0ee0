"""Who may ask: a token, the name the server is called by, and which site a browser comes from."""

from __future__ import annotations

import hmac

from concepthash.serve.replies import Headers, Refused

POLICY = (
    b"default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
LONE_POLICY = (
    b"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    b"sandbox allow-scripts; frame-ancestors 'none'"
)
"""Of a self-contained page: it may run its own script, but as a stranger to this server."""

SECURITY: Headers = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""On every reply."""

_SAME = (b"same-origin", b"none")


class Guard:
    """Lets requests in.

    With a token, a request must bring it. Without one the server is for this machine's user alone,
    so pages of other sites must not reach it through the user's browser: neither under a name of
    theirs that leads to this machine (DNS rebinding), nor by sending forms to it.

    Args:
        token: None for none.
        hosts: names the server may be called by, without port, in lower case; unused with a token.
    """

    def __init__(self, token: str | None, hosts: frozenset[str]) -> None:
        self._expected = None if token is None else b"Bearer " + token.encode()
        self._hosts = frozenset(name.encode() for name in hosts)

    @property
    def token(self) -> bool:
        """Whether a token must be brought."""
        return self._expected is not None

    def check(self, method: str, headers: dict[bytes, bytes], *, free: bool) -> None:
        """Let a request in.

        Args:
            method: of HTTP.
            headers: names in lower case.
            free: whether what it asks for needs no token.

        Raises:
            Refused: 401 without the token, 403 for a foreign site.
        """
        if self._expected is not None:
            given = headers.get(b"authorization", b"")
            if not free and not hmac.compare_digest(_scheme_as_ours(given), self._expected):
                raise Refused(
                    401,
                    "this server wants its token" if not given else "this is not the token",
                    where="Authorization",
                    hint="the header Authorization: Bearer TOKEN",
                    headers=((b"www-authenticate", b"Bearer"),),
                )
            return
        host = headers.get(b"host", b"").lower()
        if _without_port(host) not in self._hosts:
            raise Refused(
                403,
                "this server is not called so",
                where="Host",
                hint="http://127.0.0.1, or start it with a token",
            )
        if method in ("GET", "HEAD"):
            return
        origin = headers.get(b"origin")
        site = headers.get(b"sec-fetch-site", b"none")
        if site not in _SAME or (origin is not None and origin.rpartition(b"://")[2] != host):
            raise Refused(403, "pages of other sites may not ask here", where="Origin")


def _scheme_as_ours(given: bytes) -> bytes:
    """The header with its scheme, which may have any case, written as ours."""
    return b"Bearer " + given[7:] if given[:7].lower() == b"bearer " else given


def _without_port(host: bytes) -> bytes:
    name, _, port = host.rpartition(b":")
    return name if port.isdigit() and name and (b":" not in name or name[-1:] == b"]") else host
