"""What Headrace's services share: the domain, the store, dispatch, wake-ups, settings, logs."""
