"""A real database, SQLite through SQLAlchemy, in the transaction that pyramid_tm manages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy
import sqlalchemy.orm
import zope.sqlalchemy

_metadata = sqlalchemy.MetaData()
_account = sqlalchemy.Table("account", _metadata, sqlalchemy.Column("id", sqlalchemy.Integer))
_account.append_constraint(sqlalchemy.PrimaryKeyConstraint(_account.c.id))
_entry = sqlalchemy.Table(
    "entry",
    _metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("text", sqlalchemy.String),
    sqlalchemy.Column(
        "account_id",
        sqlalchemy.ForeignKey("account.id", deferrable=True, initially="DEFERRED"),
    ),
)

KNOWN_ACCOUNT = 1
#: An entry of this account is accepted by the INSERT, and refused by the COMMIT.
UNKNOWN_ACCOUNT = 2


class Ledger:
    """A table of entries, each written in the transaction of a request."""

    def __init__(self, directory: Path) -> None:
        self.engine = sqlalchemy.create_engine(
            f"sqlite:///{directory / 'ledger.sqlite'}", poolclass=sqlalchemy.NullPool
        )
        sqlalchemy.event.listen(self.engine, "connect", _enforce_foreign_keys)
        _metadata.create_all(self.engine)
        with self.engine.begin() as connection:
            connection.execute(_account.insert().values(id=KNOWN_ACCOUNT))

    def add(self, request: Any, text: str, account: int = KNOWN_ACCOUNT) -> None:
        """Add an entry in the request's transaction."""
        session = sqlalchemy.orm.Session(self.engine)
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        session.execute(_entry.insert().values(text=text, account_id=account))
        zope.sqlalchemy.mark_changed(session)

    @property
    def entries(self) -> list[str]:
        """The texts that were committed, in order."""
        with self.engine.connect() as connection:
            query = sqlalchemy.select(_entry.c.text).order_by(_entry.c.id)
            return list(connection.execute(query).scalars())


def _enforce_foreign_keys(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
