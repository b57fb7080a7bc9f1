"""The status streams: how soon a transition is seen, and what an open stream costs."""
