"""One attempt: its execution, its owner, its log and the judgment of its end."""
