"""The table of connections: put, delete, scan, as the guides use DynamoDB."""

import os
import sqlite3


def _open():
    table = sqlite3.connect(os.environ["CONNECTIONS_TABLE"])
    table.execute("CREATE TABLE IF NOT EXISTS connections (connectionId TEXT PRIMARY KEY)")
    return table


def put_item(connection_id):
    with _open() as table:
        table.execute("INSERT OR REPLACE INTO connections VALUES (?)", (connection_id,))


def delete_item(connection_id):
    with _open() as table:
        table.execute("DELETE FROM connections WHERE connectionId = ?", (connection_id,))


def scan():
    with _open() as table:
        return [row[0] for row in table.execute("SELECT connectionId FROM connections ORDER BY connectionId")]
