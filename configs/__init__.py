"""One config file per task; `common` has the keys that all of them share."""
