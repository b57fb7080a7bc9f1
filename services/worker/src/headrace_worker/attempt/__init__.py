"""One attempt: its execution in a slot, its reports, and the decision about its end."""
