"""The only place with SQL. A module's name says which transition or question it holds.

Every function takes an open connection and neither commits nor rolls back: whoever began the
transaction decides. Each transition is one statement that compares the state (and, for what a
worker writes, the attempt and the worker), bumps the job's `seq` and inserts the event.
"""
