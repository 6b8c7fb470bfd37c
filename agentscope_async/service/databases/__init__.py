"""Services that query databases: SQLite, MySQL and MariaDB, PostgreSQL, MongoDB.

Reading is the default, and the database itself holds a query to it, not a search for words
in its text. What a query may cost is limited: time, rows, bytes. Connections are kept for
the next query, for each event loop its own, and closed with it or by :func:`close_databases`.
"""

from __future__ import annotations

from ._pool import close_databases
from .mongodb import query_mongodb
from .mysql import query_mysql
from .postgresql import query_postgresql
from .sqlite import query_sqlite

__all__ = ["close_databases", "query_mongodb", "query_mysql", "query_postgresql", "query_sqlite"]
