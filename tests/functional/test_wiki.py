"""A small wiki and its tests, built as Pyramid's wiki2 tutorial is: the login is in the session.

SQLAlchemy, ``pyramid_tm`` with explicit managers, ``pyramid_retry``, ACLs. Each test runs in one
transaction of its own that is doomed, and that the requests find in their environ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import transaction
import webtest
import zope.sqlalchemy
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.authorization import ACLHelper, Allow, Authenticated, Everyone
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token, new_csrf_token
from pyramid.httpexceptions import HTTPNotFound, HTTPSeeOther
from pyramid.request import RequestLocalCache
from pyramid.response import Response
from pyramid.security import forget, remember
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.support.application import SECRET

# -- the wiki ------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]


class Page(Base):
    __tablename__ = "pages"
    name: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    creator: Mapped[int] = mapped_column(sa.ForeignKey("users.id"))

    def __acl__(self) -> list[Any]:
        editors = (f"user:{self.creator}", "role:editor")
        return [(Allow, Everyone, "view"), *((Allow, who, "edit") for who in editors)]


class SecurityPolicy:
    def __init__(self) -> None:
        self.helper = SessionAuthenticationHelper()
        self.acl = ACLHelper()
        self.identities = RequestLocalCache(self.load)

    def load(self, request: Any) -> User | None:
        user_id = self.helper.authenticated_userid(request)
        return None if user_id is None else request.dbsession.get(User, user_id)

    def identity(self, request: Any) -> User | None:
        return self.identities.get_or_create(request)

    def authenticated_userid(self, request: Any) -> int | None:
        user = self.identity(request)
        return None if user is None else user.id

    def permits(self, request: Any, context: Any, permission: str) -> Any:
        user, principals = self.identity(request), [Everyone]
        if user is not None:
            principals += [Authenticated, f"user:{user.id}", f"role:{user.role}"]
        return self.acl.permits(context, principals, permission)

    def remember(self, request: Any, userid: Any, **options: Any) -> Any:
        return self.helper.remember(request, userid, **options)

    def forget(self, request: Any, **options: Any) -> Any:
        return self.helper.forget(request, **options)


def find_page(request: Any) -> Page:
    page: Page | None = request.dbsession.get(Page, request.matchdict["name"])
    if page is None:
        raise HTTPNotFound
    return page


def layout(request: Any, text: str) -> Response:
    user = request.identity
    name = "nobody" if user is None else user.name
    messages = " ".join(request.session.pop_flash())
    return Response(f"{name} | {messages} | {get_csrf_token(request)} | {text}")


def view_page(page: Page, request: Any) -> Response:
    return layout(request, page.text)


def edit_page(page: Page, request: Any) -> Any:
    page.text = request.POST["text"]
    request.session.flash("saved")
    return HTTPSeeOther(request.route_url("page", name=page.name))


def log_in(request: Any) -> Any:
    query = sa.select(User).where(User.name == request.POST["name"])
    user = request.dbsession.scalars(query).one_or_none()
    if user is None:
        return Response("Log in", status=400)
    new_csrf_token(request)
    return HTTPSeeOther("/page/Front", headers=remember(request, user.id))


def log_out(request: Any) -> Any:
    new_csrf_token(request)
    return HTTPSeeOther("/page/Front", headers=forget(request))


def refuse(exc: Any, request: Any) -> Any:
    if not request.is_authenticated:
        return HTTPSeeOther("/log_in")
    return Response("Forbidden", status=403)


def main(engine: sa.Engine, **settings: Any) -> Any:
    settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    with Configurator(settings=settings) as config:
        for name in ("pyramid_tm", "pyramid_retry", "pyramid_redis_lua_sessions"):
            config.include(name)
        config.set_security_policy(SecurityPolicy())
        config.set_default_csrf_options(require_csrf=True)
        config.add_request_method(
            lambda request: request.environ.get("app.dbsession") or dbsession(engine, request.tm),
            "dbsession",
            reify=True,
        )
        config.add_route("page", "/page/{name}", factory=find_page)
        config.add_view(view_page, route_name="page", permission="view", request_method="GET")
        config.add_view(edit_page, route_name="page", permission="edit", request_method="POST")
        for view in (log_in, log_out):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, request_method="POST")
        config.add_forbidden_view(refuse)
        return config.make_wsgi_app()


def dbsession(engine: sa.Engine, manager: transaction.TransactionManager) -> Session:
    session = Session(engine)
    zope.sqlalchemy.register(session, transaction_manager=manager)
    return session


# -- its fixtures, as the cookiecutter makes them ---------------------------------------------


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'wiki.sqlite'}", poolclass=sa.NullPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(User(id=1, name="editor", role="editor"))
        session.add(User(id=2, name="basic", role="basic"))
        session.add(Page(name="Front", text="in front", creator=1))
        session.add(Page(name="Back", text="behind", creator=2))
    return engine


@pytest.fixture
def app(engine: sa.Engine, redis_url: str) -> Any:
    return main(engine, **{"redis.sessions.url": redis_url, "redis.sessions.secret": SECRET})


class Wiki(webtest.TestApp):
    """The wiki, and one visitor."""

    def page(self, name: str = "Front", status: int = 200) -> list[str]:
        """Return who sees the page, the messages, the CSRF token and the text."""
        parts: list[str] = self.get(f"/page/{name}", status=status).text.split(" | ")
        return parts

    def submit(self, path: str, status: int = 303, **fields: str) -> Any:
        return self.post(path, {**fields, "csrf_token": self.page()[2]}, status=status)


@pytest.fixture
def wiki(app: Any, engine: sa.Engine, tm: Any) -> Wiki:
    shared = {"tm.active": True, "tm.manager": tm, "app.dbsession": dbsession(engine, tm)}
    return Wiki(app, extra_environ=shared)


@pytest.fixture(params=["in the test's transaction", "as in production"])
def visitor(request: pytest.FixtureRequest, app: Any, wiki: Wiki) -> Wiki:
    return wiki if request.param.startswith("in the test") else Wiki(app)


# -- its tests ----------------------------------------------------------------------------


def test_visitor_sees_a_page(visitor: Wiki) -> None:
    assert visitor.page()[::3] == ["nobody", "in front"]


def test_csrf_token_stays(visitor: Wiki) -> None:
    assert visitor.page()[2] == visitor.page()[2]


def test_missing_page_is_not_found(visitor: Wiki) -> None:
    visitor.get("/page/None", status=404)


def test_user_logs_in(visitor: Wiki) -> None:
    before = visitor.page()[2]
    visitor.submit("/log_in", name="basic")
    assert visitor.page()[::3] == ["basic", "in front"]
    assert visitor.page()[2] != before


def test_stranger_does_not_log_in(visitor: Wiki) -> None:
    visitor.submit("/log_in", name="stranger", status=400)
    assert visitor.page()[0] == "nobody"


def test_user_logs_out(visitor: Wiki) -> None:
    visitor.submit("/log_in", name="basic")
    visitor.submit("/log_out")
    assert visitor.page()[0] == "nobody"


def test_post_without_the_token_is_refused(visitor: Wiki) -> None:
    visitor.page()
    visitor.post("/log_in", {"name": "basic"}, status=400)


def test_visitor_who_edits_is_sent_to_log_in(visitor: Wiki) -> None:
    assert visitor.submit("/page/Front", text="mine").location.endswith("/log_in")


def test_user_edits_a_page_of_his_own_and_no_other(visitor: Wiki) -> None:
    visitor.submit("/log_in", name="basic")
    visitor.submit("/page/Back", text="mine")
    assert visitor.page("Back")[::3] == ["basic", "mine"]
    visitor.submit("/page/Front", text="mine too", status=403)
    assert visitor.page()[3] == "in front"


def test_editor_edits_every_page_and_is_told_so_once(visitor: Wiki) -> None:
    visitor.submit("/log_in", name="editor")
    visitor.submit("/log_out")
    visitor.submit("/log_in", name="editor")
    token = visitor.page()[2]
    answer = visitor.post("/page/Back", {"text": "ours", "csrf_token": token}, status=303)
    assert answer.follow().text.split(" | ")[:2] == ["editor", "saved"]
    assert visitor.page("Back")[1::2] == ["", "ours"]


def test_nothing_of_the_tests_transaction_reaches_the_database(
    wiki: Wiki, app: Any, tm: Any
) -> None:
    wiki.submit("/log_in", name="editor")
    wiki.submit("/page/Front", text="changed")
    assert wiki.page()[3] == "changed"
    tm.abort()
    tm.begin()
    assert Wiki(app).page()[3] == "in front"
