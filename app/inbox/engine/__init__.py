"""The engines: how a statement runs on SQLite and on PostgreSQL. They know no HTTP.

``interface`` says what an engine does, and chooses one by the URL.

- SQLite: ``sqlite_engine`` puts the parts together. ``group_commit`` has the queue and the writer
  thread, ``transaction`` runs the statements that wait, ``checkpoint`` empties the log.
  ``sqlite_file`` makes sure that the file at the path is the one that is written, with ``inodes``,
  ``lock_note``, ``file_lock`` and ``file_errors``. ``findings`` is for ``flask doctor``.
- PostgreSQL: ``postgresql_engine`` puts the parts together. ``postgresql`` runs statements over the
  ``connection_pool``, and ``postgresql_session`` makes the settings that they need, behind a pooler
  too. ``postgresql_listener`` waits for notifications. ``deadline`` limits the time of each call,
  ``circuit_breaker`` keeps calls from a dead server.
"""
