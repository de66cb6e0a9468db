"""The tables and the statements, for both databases. They import nothing of an engine.

Each statement decides and records together: its own conditions decide, never a query before it.

A statement that PostgreSQL did not answer in time has failed for its caller. A hung server may
still commit it later. So each statement may run late, and beside the statement that followed it:

- ``RECORD_AND_CLAIM`` and the claims: the event is claimed with a token that no process knows. No
  process runs or settles it. When its lease ends, it becomes an orphan.
- ``ENQUEUE``, ``RECORD_SKIPPED``: the event is authentic. Stripe was answered 503 and delivers it
  again. The row counts one delivery more.
- ``SETTLE``, ``FINISH``: they name the claim with its attempt and its token. If the event still
  has that claim, the next try records the same result. If another claim has it, nothing changes.
- ``RENEW``, ``renew_many``: the same. If its process has ended, the event becomes an orphan one
  lease later.
- ``effects.RECORD``: the effect was there. The attempt has failed, and the next one skips it.
- ``MARK_POISON_DEAD``: the event is dead, as it has to be. The line in the log is missing.
- ``REMOVE`` of old events: the event was old then, and still is.
- A person's command: it took effect, though it reported a failure.
- ``notify``, ``TEST_WRITE``: one more notification or timestamp does no harm.

When a connection to PostgreSQL is lost, the engine cannot know whether the statement was committed,
and runs it once more. Execution options say what else to do:

- ``result=SELECT``: this statement finds the row of a run that was committed. The engine repeats
  the statement only if there is no such row. A repeated claim would take a second event, and the
  first would become an orphan without a crash.
- ``also``: a row of another table, written for each row that the statement changes, in the same
  transaction (``app.inbox.row_for_each``).
- ``all_rows``: the rows of the statement are wanted, not only the first one.
- ``races=True``: a violation of a unique index shows that another claim was faster. The statement
  runs again, and chooses anew. On SQLite writers take turns, so it does not happen.
- ``in_order``: PostgreSQL reads rows in the order of an index, whatever its statistics say.
- ``repeatable=False``: the statement fails. A second run would report that it changed nothing, or
  record a person's command twice.
"""
