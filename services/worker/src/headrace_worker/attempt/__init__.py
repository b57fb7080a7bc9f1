"""One attempt: its execution in a slot, its reports and the judgment of its end."""
