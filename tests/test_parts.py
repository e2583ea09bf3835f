"""The shared real parts are what they say."""

from __future__ import annotations

from sqlalchemy import create_engine, text


def test_each_test_gets_a_postgres_database_of_its_own(postgres_server) -> None:
    urls = [postgres_server.create_database() for _ in range(2)]
    names = set()
    for url in urls:
        engine = create_engine(url)
        with engine.connect() as connection:
            names.add(connection.execute(text("SELECT current_database()")).scalar_one())
        engine.dispose()
    assert len(names) == 2
