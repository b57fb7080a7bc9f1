"""The loops that run while a scheduler leads: promote, dispatch, recover, prune."""
