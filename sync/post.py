"""The only mail and HTTP client: brings one letter to one recipient, by SMTP or by an HTTP POST, and says how it went.

Every time-out is ours. Retries are not its business: see ``retry``.
"""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from agent.errors import PostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from agent.config import Email, Notify

TIMEOUT_S = 20.0  # of each step: a connection, a line, an answer
ANSWER_BYTES = 300  # of a refusal, for the log
_NEVER = {400, 413, 422}
"""HTTP answers that the same letter would get again: it is the letter's content that is wrong."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What one recipient is told at once; the same ``id`` is the same letter, however often it arrives."""

    id: str
    at: datetime
    subject: str
    text: str
    is_critical: bool
    warnings: tuple[Mapping[str, Any], ...]


def deliver(letter: Letter, to: Notify, email: Email, site: str) -> str | None:
    """Bring a letter to its recipient; return why that can never be, None where it was taken.

    Raises:
        PostError: it was not taken, and may be later; the message says why.
    """
    with _named_errors(to, email):
        if to.by == "email":
            return _by_email(letter, to, email, site)
        return _by_webhook(letter, to, site)


def reach(to: Notify, email: Email) -> None:
    """Go as far as a letter to this recipient would, and send none.

    Raises:
        PostError: it would not come so far; the message says why.
    """
    with _named_errors(to, email):
        if to.by == "email":
            with _mail_server(email) as server:
                server.noop()
        else:
            connection = _web_server(to)
            connection.connect()
            connection.close()


@contextmanager
def _named_errors(to: Notify, email: Email) -> Iterator[None]:
    try:
        yield
    except (OSError, smtplib.SMTPException, http.client.HTTPException) as e:
        message = f"{_place(to, email)}: {_why(e)}"
        raise PostError(message) from e


def _place(to: Notify, email: Email) -> str:
    return f"mail server {email.host}:{email.port}" if to.by == "email" else urlsplit(to.to).netloc


def _why(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code} {_plain(error.smtp_error)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _plain(said: bytes | str) -> str:
    """Return what a server said, on one line of ours."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:ANSWER_BYTES]


def _secret(path: Path) -> str:
    """Return what the file of a secret holds, read each time: it may be renewed.

    Raises:
        PostError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        message = f"{path} cannot be read ({e}); it holds the secret alone, readable by this user"
        raise PostError(message) from e


# --- by mail ----------------------------------------------------------------------------------------------------------


def _by_email(letter: Letter, to: Notify, email: Email, site: str) -> str | None:
    sender = email.sender or f"flockwatch@{site}"
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, to.to, letter.subject
    message["Date"] = format_datetime(letter.at)
    message["Message-ID"] = f"<{letter.id}@{sender.partition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answering machine answers it
    if letter.is_critical:
        message["Importance"] = "high"
    message.set_content(letter.text + "\n")
    with _mail_server(email) as server:
        try:
            server.send_message(message)
        except smtplib.SMTPRecipientsRefused as e:
            code, said = next(iter(e.recipients.values()))
            return _never_or_later(code, _plain(said))
        except smtplib.SMTPDataError as e:
            return _never_or_later(e.smtp_code, _plain(e.smtp_error))
        with suppress(OSError, smtplib.SMTPException):  # it is taken, however the farewell goes
            server.quit()
    return None


@contextmanager
def _mail_server(email: Email) -> Iterator[smtplib.SMTP]:
    """Give the mail server, encrypted and logged in as configured; it is let go of without a word."""
    context = ssl.create_default_context(cafile=email.ca_file)
    host = email.host or ""
    if email.security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, email.port, timeout=TIMEOUT_S, context=context)
    else:
        server = smtplib.SMTP(host, email.port, timeout=TIMEOUT_S)
    try:
        if email.security == "starttls":
            server.starttls(context=context)
        if email.username:
            server.login(email.username, "" if email.password_file is None else _secret(email.password_file))
        yield server
    finally:
        server.close()


def _never_or_later(code: int, said: str) -> str:
    """Return the refusal of a mail server that will not change its mind.

    Raises:
        PostError: it says "later" (RFC 5321, 4.2.1: a code below 500).
    """
    why = f"the mail server refuses it: {code} {said}"
    if code < 500:
        raise PostError(why)
    return why


# --- by webhook -------------------------------------------------------------------------------------------------------


def _by_webhook(letter: Letter, to: Notify, site: str) -> str | None:
    url = urlsplit(to.to)
    if to.body:
        fields = {"{text}": letter.text, "{subject}": letter.subject, "{id}": letter.id}
        document: dict[str, Any] = {key: _filled(value, fields) for key, value in to.body.items()}
    else:
        document = {
            "id": letter.id,
            "site": site,
            "subject": letter.subject,
            "text": letter.text,
            "critical": letter.is_critical,
            "warnings": letter.warnings,
        }
    headers = {"User-Agent": "flockwatch", "Idempotency-Key": letter.id}
    if to.form:
        body, headers["Content-Type"] = urlencode(document), "application/x-www-form-urlencoded"
    else:
        body, headers["Content-Type"] = json.dumps(document), "application/json"
    if to.token_file is not None:
        headers["Authorization"] = f"Bearer {_secret(to.token_file)}"
    connection = _web_server(to)
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("POST", path, body.encode(), headers)
        with connection.getresponse() as answer:  # else it would hold the socket open
            said = f"{url.netloc} answers {answer.status} {_plain(answer.read(ANSWER_BYTES))}".rstrip()
    finally:
        connection.close()
    if 200 <= answer.status < 300:
        return None
    if answer.status in _NEVER:
        return said
    raise PostError(said)


def _web_server(to: Notify) -> http.client.HTTPConnection:
    url = urlsplit(to.to)
    if url.scheme == "https":
        return http.client.HTTPSConnection(url.netloc, timeout=TIMEOUT_S, context=ssl.create_default_context())
    return http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_S)


def _filled(value: str, fields: Mapping[str, str]) -> str:
    for name, text in fields.items():
        value = value.replace(name, text)
    return value
