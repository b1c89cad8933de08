"""Letters arrive, by a real mail server and a real HTTP server: once, also after a crash, and what fails is seen."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from aiosmtpd.controller import Controller as SmtpServer
from aiosmtpd.smtp import AuthResult, LoginPassword

from agent.config import Config, Email, Notify
from agent.domain import About, Evidence, Reason, Severity, Standing, WarningEvent, WarningState
from agent.errors import PostError
from agent.store import Store, StoreReader, sync_notes
from sync.cli import check_post
from sync.post import Letter, deliver
from sync.postbox import Postbox
from sync.postman import NOTE_S, POLL_S, Postman

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message
    from pathlib import Path

    from aiosmtpd.smtp import Envelope

    from sync.outbox import SyncEvent

START = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
LETTER = Letter("gateway-1", START, "farm1: Æg", "Wasser ist knapp.", is_critical=True, warnings=({"id": "w1"},))


@dataclass
class MailServer:
    """What a real SMTP server took, and what it is to answer."""

    answer: str = "250 OK"
    got: list[Message] = field(default_factory=list)
    port: int = 0

    async def handle_DATA(self, _server: object, _session: object, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.got.append(message_from_bytes(envelope.content))
        return self.answer


@pytest.fixture
def start_mail() -> Iterator[Callable[..., MailServer]]:
    with ExitStack() as stack:

        def start(**settings: Any) -> MailServer:  # noqa: ANN401  # whatever aiosmtpd takes
            handler = MailServer()
            with socket.create_server(("127.0.0.1", 0)) as probe:
                handler.port = probe.getsockname()[1]
            server = SmtpServer(handler, hostname="127.0.0.1", port=handler.port, **settings)
            server.start()
            stack.callback(server.stop)
            return handler

        yield start


@dataclass
class SmsGateway:
    """What a real HTTP server took, and what it is to answer."""

    status: int = 200
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def sms() -> Iterator[SmsGateway]:
    gateway = SmsGateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            gateway.got.append((self.path, dict(self.headers), body))
            self.send_response(gateway.status)
            self.end_headers()
            self.wfile.write(b"said")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        gateway.url = f"http://127.0.0.1:{server.server_address[1]}/send?from=farm"
        yield gateway
        server.shutdown()
        thread.join()


def text_of(message: Message) -> str:
    content = message.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode()


def anna(**changes: object) -> Notify:
    return Notify.model_validate({"name": "anna", "by": "email", "to": "anna@farm.example"} | changes)


def by_sms(gateway: SmsGateway, **changes: object) -> Notify:
    return Notify.model_validate({"name": "sms", "by": "webhook", "to": gateway.url} | changes)


# --- one letter -------------------------------------------------------------------------------------------------------


def test_a_letter_by_mail_says_all_and_is_known_again_by_its_id(start_mail: Callable[..., MailServer]) -> None:
    mail = start_mail()
    email = Email(host="127.0.0.1", port=mail.port, security="none", sender="watch@farm.example")
    assert deliver(LETTER, anna(), email, "farm1") is None
    assert deliver(LETTER, anna(), email, "farm1") is None
    first, second = mail.got
    assert (first["From"], first["To"]) == ("watch@farm.example", "anna@farm.example")
    assert first["Message-ID"] == second["Message-ID"] == "<gateway-1@farm.example>"
    assert first["Importance"] == "high"
    assert text_of(first).strip() == LETTER.text


def test_mail_goes_encrypted_with_a_login_and_only_to_a_server_that_proves_its_name(
    start_mail: Callable[..., MailServer], tmp_path: Path, need: Callable[..., str]
) -> None:
    signs = "-addext keyUsage=critical,digitalSignature,keyCertSign -addext subjectAltName=IP:127.0.0.1"
    for name in ("server", "other"):
        command = f"req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN=mail {signs}"
        subprocess.run([need("openssl", "openssl"), *command.split()], check=True, capture_output=True, cwd=tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    (tmp_path / "password").write_text("secret\n")

    def is_right(_server: object, _session: object, _envelope: object, _mechanism: str, data: object) -> AuthResult:
        is_farm = isinstance(data, LoginPassword) and (data.login, data.password) == (b"farm", b"secret")
        return AuthResult(success=is_farm, handled=False)

    mail = start_mail(tls_context=context, require_starttls=True, auth_required=True, authenticator=is_right)
    email = Email(
        host="127.0.0.1",
        port=mail.port,
        username="farm",
        password_file=tmp_path / "password",
        ca_file=tmp_path / "server.pem",
    )
    assert deliver(LETTER, anna(), email, "farm1") is None
    assert len(mail.got) == 1
    with pytest.raises(PostError, match="certificate"):
        deliver(LETTER, anna(), email.model_copy(update={"ca_file": tmp_path / "other.pem"}), "farm1")
    (tmp_path / "password").write_text("wrong")
    with pytest.raises(PostError, match="535"):
        deliver(LETTER, anna(), email, "farm1")
    assert len(mail.got) == 1


def test_a_mail_server_that_says_later_is_asked_again_and_one_that_says_never_is_not(
    start_mail: Callable[..., MailServer],
) -> None:
    mail = start_mail()
    email = Email(host="127.0.0.1", port=mail.port, security="none")
    mail.answer = "451 busy"
    with pytest.raises(PostError, match="451 busy"):
        deliver(LETTER, anna(), email, "farm1")
    mail.answer = "554 no"
    assert deliver(LETTER, anna(), email, "farm1") == "the mail server refuses it: 554 no"


def test_a_webhook_gets_all_as_json_or_what_its_owner_wants(sms: SmsGateway, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("abc\n")
    assert deliver(LETTER, by_sms(sms, token_file=token), Email(), "farm1") is None
    body = {"to": "+45", "message": "{text}", "ref": "{id}"}
    assert deliver(LETTER, by_sms(sms, body=body), Email(), "farm1") is None
    assert deliver(LETTER, by_sms(sms, body=body, form=True), Email(), "farm1") is None
    (path, headers, whole), (_, _, short), (_, form_headers, form) = sms.got
    assert path == "/send?from=farm"
    assert (headers["Authorization"], headers["Idempotency-Key"]) == ("Bearer abc", "gateway-1")
    assert json.loads(whole) == {
        "id": "gateway-1", "site": "farm1", "subject": LETTER.subject, "text": LETTER.text, "critical": True,
        "warnings": [{"id": "w1"}],
    }  # fmt: skip
    assert json.loads(short) == {"to": "+45", "message": LETTER.text, "ref": "gateway-1"}
    assert form_headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(form.decode()) == {"to": ["+45"], "message": [LETTER.text], "ref": ["gateway-1"]}


@pytest.mark.parametrize(("status", "is_final"), [(400, True), (401, False), (404, False), (429, False), (503, False)])
def test_only_a_letter_that_would_fail_for_ever_is_given_up(sms: SmsGateway, status: int, is_final: bool) -> None:
    sms.status = status
    if is_final:
        assert str(status) in (deliver(LETTER, by_sms(sms), Email(), "farm1") or "")
    else:
        with pytest.raises(PostError, match=f"{status} said"):
            deliver(LETTER, by_sms(sms), Email(), "farm1")


def test_check_comes_as_far_as_a_letter_and_sends_none(start_mail: Callable[..., MailServer], sms: SmsGateway) -> None:
    mail = start_mail()
    server = {"host": "127.0.0.1", "port": mail.port, "security": "none"}
    config = Config.model_validate({"notify": [as_config(anna()), as_config(by_sms(sms))], "email": server})
    clock = FakeClock()
    assert check_post(config, clock) == "reachable: anna by email, sms by webhook"
    assert (mail.got, sms.got) == ([], [])
    with pytest.raises(PostError, match="STARTTLS"):
        check_post(config.model_copy(update={"email": Email(host="127.0.0.1", port=mail.port)}), clock)
    assert "nobody" in check_post(Config(), clock)


# --- from house.db to people ------------------------------------------------------------------------------------------


@dataclass
class FakeClock:
    """Time that a test moves."""

    at: datetime = START
    real_s: float = 1_000.0

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.real_s

    def is_trusted(self) -> bool:
        return True


def change(
    state: WarningState = WarningState.ACTIVE,
    *,
    rule: str = "deviation-water",
    severity: Severity = Severity.MINOR,
    at: datetime = START,
) -> WarningEvent:
    standing = Standing(rule, "house1", state, severity, f"house1-{rule}", evidence=Evidence(2.0), raised_at=START)
    is_end = state is WarningState.NORMAL
    return WarningEvent(
        at=at,
        before=WarningState.ACTIVE if is_end else WarningState.PENDING,
        standing=standing,
        reason=Reason.BACK_IN_BAND if is_end else Reason.ON_DELAY_OVER,
        about=About.BIRDS,
        signal="water",
        day_number=24,
        text=f"{rule} is {state.value}.",
        causes=(),
        check_first="Look.",
    )


class Post:
    """A store that the test writes, and the postman that can be killed and started again."""

    def __init__(self, folder: Path, until: Callable[..., None], **config: object) -> None:
        self.config = Config.model_validate({"data": {"directory": folder}, "house": [{"id": "house1"}], **config})
        self.clock = FakeClock()
        self.kept: list[SyncEvent] = []
        self._until = until
        self._stack = ExitStack()
        self.store = self._stack.enter_context(Store.open(self.config.data.house_db))
        self.start()

    def start(self) -> None:
        self.reader = StoreReader.open(self.config.data.house_db)
        self.box = Postbox.open(self.config.data.post_db)
        self.postman = Postman(self.config, self.clock, self.reader, self.box, self.kept.append)

    def kill(self) -> None:
        """End without a word, as far as a thread can be."""
        for lane in self.postman._lanes.values():
            lane.close(0)
        self.box.__exit__(None, None, None)
        self.reader.close()

    def close(self) -> None:
        self.kill()
        self._stack.close()

    def turn(self) -> None:
        self.clock.real_s += POLL_S
        self.postman.turn()

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        def turned() -> object:
            self.turn()
            return is_so()

        self._until(turned, what)

    def trouble(self) -> dict[str, Any]:
        """Return what the agent can read of the letters that wait."""
        found: dict[str, Any] = json.loads(sync_notes(self.config.data.post_db).get("trouble", "{}"))
        return found


@pytest.fixture
def make_post(tmp_path: Path, until: Callable[..., None]) -> Iterator[Callable[..., Post]]:
    posts: list[Post] = []

    def make(**config: object) -> Post:
        posts.append(Post(tmp_path / "data", until, **config))
        return posts[-1]

    yield make
    for post in posts:
        post.close()


def as_config(to: Notify) -> dict[str, Any]:
    return to.model_dump(exclude_defaults=True)


def test_a_warning_and_its_end_are_told_once_whatever_dies(make_post: Callable[..., Post], sms: SmsGateway) -> None:
    post = make_post(notify=[as_config(by_sms(sms))])
    post.store.record(warnings=[change()])
    post.wait(lambda: len(post.kept) == 1, "the warning is told")
    post.kill()
    post.start()
    post.store.record(warnings=[change(WarningState.NORMAL, at=START + timedelta(hours=1))])
    post.wait(lambda: len(post.kept) == 2, "the end is told")
    for _ in range(3):
        post.turn()
    said = [json.loads(body)["text"] for _, _, body in sms.got]
    assert [text.split(" ", 1)[0] for text in said] == ["MINOR", "OVER"]
    assert [(event.kind, event.detail["recipient"]) for event in post.kept] == [("told", "sms")] * 2


def test_a_letter_that_was_under_way_in_a_crash_goes_again_under_the_same_id(
    make_post: Callable[..., Post], sms: SmsGateway
) -> None:
    post = make_post(notify=[as_config(by_sms(sms))])
    sms.status = 503  # it arrives, and the answer is lost
    post.store.record(warnings=[change()])
    post.wait(lambda: sms.got, "a first try")
    post.kill()
    post.store.record(warnings=[change(rule="deviation-feed")])
    sms.status = 200
    post.start()
    post.wait(lambda: len(post.kept) == 2, "both are told")
    ids = [json.loads(body)["id"] for _, _, body in sms.got]
    assert len(set(ids)) == 2
    assert ids[0] == ids[-2]
    assert "water" in sms.got[-2][2].decode()
    assert "feed" in sms.got[-1][2].decode()


def test_what_quiet_hours_hold_back_comes_as_one_message_in_the_morning_and_critical_at_once(
    make_post: Callable[..., Post], start_mail: Callable[..., MailServer]
) -> None:
    mail = start_mail()
    post = make_post(
        notify=[as_config(anna(quiet_from=time(10), quiet_until=time(20)))],
        email={"host": "127.0.0.1", "port": mail.port, "security": "none"},
    )
    post.store.record(warnings=[change(rule="deviation-feed"), change(rule="mortality", severity=Severity.CRITICAL)])
    post.wait(lambda: mail.got, "the critical one")
    post.store.record(warnings=[change(WarningState.NORMAL, rule="deviation-feed", at=START + timedelta(hours=1))])
    for _ in range(3):
        post.turn()
    assert ["mortality" in mail.got[0]["Subject"], len(mail.got)] == [True, 1]
    post.kill()
    post.clock.at = START + timedelta(hours=8)
    post.start()
    post.wait(lambda: len(mail.got) == 2, "the digest")
    digest = text_of(mail.got[1])
    assert [line.split(" ", 1)[0] for line in digest.split("\r\n") if line] == ["MINOR", "OVER"]


def test_a_recipient_that_hangs_holds_up_no_other_and_is_seen_until_it_works(
    make_post: Callable[..., Post], sms: SmsGateway, start_mail: Callable[..., MailServer]
) -> None:
    mail = start_mail()
    mail.answer = "451 busy"
    post = make_post(
        notify=[as_config(anna()), as_config(by_sms(sms))],
        email={"host": "127.0.0.1", "port": mail.port, "security": "none"},
    )
    post.store.record(warnings=[change()])
    post.wait(lambda: sms.got and post.trouble(), "one is told, the other waits")
    assert post.trouble()["anna"]["why"] == "the mail server refuses it: 451 busy"
    assert post.trouble()["anna"]["waiting"] == 1
    mail.answer = "250 OK"
    post.postman._lanes["anna"].try_now()
    post.wait(lambda: mail.got and not post.trouble(), "it works again")


def test_a_letter_that_no_one_takes_for_a_day_is_given_up_and_said(
    make_post: Callable[..., Post], sms: SmsGateway
) -> None:
    post = make_post(notify=[as_config(by_sms(sms))])
    sms.status = 503
    post.store.record(warnings=[change()])
    post.wait(post.trouble, "it fails")
    post.clock.at += timedelta(hours=25)
    post.postman._lanes["sms"].try_now()
    post.wait(lambda: post.kept, "it is given up")
    assert post.kept[0].kind == "not told"
    assert "within a day" in str(post.kept[0].detail["refused"])
    assert "503" in post.trouble()["sms"]["why"]


def test_a_broken_box_gives_way_to_a_new_one_and_tells_on(make_post: Callable[..., Post], sms: SmsGateway) -> None:
    post = make_post(notify=[as_config(by_sms(sms))])
    post.kill()
    post.config.data.post_db.write_bytes(b"no database" * 500)
    post.start()
    post.store.record(warnings=[change()])
    post.wait(lambda: sms.got, "the warning is told")
    assert post.config.data.post_db.with_name("post.db.damaged").exists()
    assert NOTE_S > POLL_S
