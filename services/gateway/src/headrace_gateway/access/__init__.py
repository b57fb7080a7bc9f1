"""The credentials of callers: API keys and the principals that they identify."""
