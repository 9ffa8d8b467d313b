"""The train stage: packed shards -> an embedding model with its contract."""
