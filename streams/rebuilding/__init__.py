"""The store filled anew from the log beside the live one, which it then replaces."""
