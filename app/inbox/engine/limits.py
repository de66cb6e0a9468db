"""The time limit of a statement that a delivery waits for. It is apart from the driver."""

#: Seconds for one statement, with waiting for a connection, connecting, and the second try after a
#: lost connection. A delivery is answered 503 within two seconds; the rest of them is a margin.
SECONDS = 1.5
