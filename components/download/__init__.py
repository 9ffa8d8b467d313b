"""Download: a source's archive or folder becomes shards of raw faces."""
