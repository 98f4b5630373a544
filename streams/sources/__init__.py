"""Sources: public data sets and anyone's own tables, turned into the events that producers publish."""
