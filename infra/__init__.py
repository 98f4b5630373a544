"""The ground floor: settings, errors, clock, logging, metrics and, as data, everything that is deployed."""
