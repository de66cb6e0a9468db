"""The databases: how a statement is run on SQLite and on PostgreSQL. It knows no HTTP."""
