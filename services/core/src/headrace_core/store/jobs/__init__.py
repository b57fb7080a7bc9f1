"""Jobs: a module for each transition, and the queries.

Each transition is declared with the builder of `sql/transition.py`.
"""
